"""The persistent kernels compile for Hopper where there is none, as the worker compiles them, and spill nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import triton.backends.nvidia

DISASSEMBLER = Path(triton.backends.nvidia.__path__[0], "bin", "nvdisasm")
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?(\w+)")
FORMS = {"channel": ["down"], "static": ["down"], "block": ["gated", "down"]}
PROGRAM = '''
import sys
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget

from octavo.ops.activations import GroupScaled, StaticScaled, TokenScaled
from octavo.ops.compilation import compiling_instead
from octavo.ops.experts.grouped_gemm import PersistentTile, persistent
from octavo.ops.experts.permute import Permutation
from octavo.ops.formats import Fp8Block, Fp8Channel, Fp8Static


class Hopper:
    """As much of a driver as a compilation asks for."""

    def launcher_cls(self, src, metadata):
        pass

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


def fp8(*shape):
    return torch.empty(shape, dtype=torch.float8_e4m3fn)


def launch(kind, gated):
    experts, tokens, top_k = 4, 256, 8
    rows, width = (tokens, 2048) if gated else (tokens * top_k, 768)
    columns = 2 * 768 if gated else 2048
    scales = torch.empty(experts, columns)
    match kind:
        case "channel":
            x, w = TokenScaled(fp8(rows, width), torch.empty(rows)), Fp8Channel(fp8(experts, columns, width), scales)
        case "static":
            x = StaticScaled(fp8(rows, width), torch.ones(1))
            w = Fp8Static(fp8(experts, columns, width), scales, input_scales=torch.ones(1))
        case "block":
            x = GroupScaled(fp8(rows, width), torch.empty(rows, width // 128))
            w = Fp8Block(fp8(experts, columns, width), torch.empty(experts, columns // 128, width // 128))
    assignments = tokens * top_k
    permutation = Permutation.allocate(assignments, experts, torch.device("cpu"))
    out = torch.empty((assignments, columns // 2 if gated else columns), dtype=torch.bfloat16)
    persistent.launch_persistent(
        x, w, permutation, gated=gated, top_k=top_k, tile=PersistentTile(), out=out, assignments=assignments
    )


triton.runtime.driver.set_active(Hopper())
persistent.multiprocessors = lambda device: 132
kernel = {"block": persistent.grouped_block_kernel}.get(sys.argv[1], persistent.grouped_channel_kernel)
seen = set()
for form in sys.argv[3:]:
    with compiling_instead(1):
        launch(sys.argv[1], form == "gated")
    cache = kernel.device_caches[0][0]
    [key] = set(cache) - seen
    seen.add(key)
    Path(sys.argv[2], f"{form}.cubin").write_bytes(cache[key].asm["cubin"])
'''


def instructions(text: str) -> list[str]:
    """The names of a disassembly's instructions, without their modifiers."""
    return INSTRUCTION.findall(text)


def spills(names: list[str]) -> int:
    """How many instructions read or write memory that stands in for registers."""
    return sum(name in ("LDL", "STL") for name in names)


@pytest.mark.parametrize("kind", FORMS)
def test_kernels_compile_without_spills(kind: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    compiled = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-W", "ignore", str(program), kind, str(tmp_path), *FORMS[kind]]
    ended = subprocess.run(command, env=compiled, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    for form in FORMS[kind]:
        binary = str(tmp_path / f"{form}.cubin")
        text = subprocess.run([DISASSEMBLER, "-c", binary], capture_output=True, text=True, check=True).stdout
        names = instructions(text)
        # a consumer's four wgmma of 32 for each of two products, of the first step and of the loop; three heights in the format of channels
        assert names.count("QGMMA") >= 2 * (8 if kind == "block" else 48)
        assert "UTMALDG" in names
        assert "ACQBULK" in names, "it does not wait for the kernel before"
        assert ("LDGSTS" in names) == (kind == "block")
        assert spills(names) == 0


def test_spills_are_seen() -> None:
    text = """
        /*0010*/                   QGMMA.64x128x32.F32.E4M3.E4M3 R24, gdesc[UR8], RZ, !UPT ;
        /*0020*/              @!P1 STL.64 [R1+0x8], R2 ;
        /*0030*/                   LDL.LU R2, [R1] ;
        /*0040*/                   LDG.E R3, desc[UR4][R2.64] ;
    """
    assert instructions(text) == ["QGMMA", "STL", "LDL", "LDG"]
    assert spills(instructions(text)) == 2
