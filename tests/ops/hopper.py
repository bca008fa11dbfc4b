"""Compiles kernels for Hopper where there is none, as the worker compiles them, and reads what came out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget

DISASSEMBLER = Path(triton.backends.nvidia.__path__[0], "bin", "nvdisasm")
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?(\w+)")


class Hopper:
    """As much of a driver as a compilation asks for."""

    def launcher_cls(self, src: object, metadata: object) -> None:
        pass

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def compile_launches(kernel: Any, launches: Mapping[str, Callable[[], None]], folder: Path) -> None:
    """Write what each launch of `kernel` compiles to `folder`, by name; of a process of its own, whose kernels are not interpreted."""
    from octavo.ops.compilation import compiling_instead

    triton.runtime.driver.set_active(Hopper())
    seen: set[object] = set()
    for name, launch in launches.items():
        with compiling_instead(1):
            launch()
        cache = kernel.device_caches[0][0]
        [key] = set(cache) - seen
        seen.add(key)
        (folder / f"{name}.cubin").write_bytes(cache[key].asm["cubin"])
        (folder / f"{name}.ttgir").write_text(cache[key].asm["ttgir"])


def compiled_by(module: str, folder: Path, *arguments: str) -> dict[str, list[str]]:
    """The instructions of each kernel that `python -m module folder arguments...` writes to `folder`, by name."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-W", "ignore", "-m", module, str(folder), *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return {binary.stem: instructions(_disassembled(binary)) for binary in folder.glob("*.cubin")}


def instructions(text: str) -> list[str]:
    """The names of a disassembly's instructions, without their modifiers."""
    return INSTRUCTION.findall(text)


def spills(names: list[str]) -> int:
    """How many instructions read or write memory that stands in for registers."""
    return sum(name in ("LDL", "STL") for name in names)


def _disassembled(binary: Path) -> str:
    return subprocess.run([DISASSEMBLER, "-c", binary], capture_output=True, text=True, check=True).stdout
