"""The persistent kernels compile for Hopper, without one: nothing that multiplies is spilled to memory."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
persistent._multiprocessors = lambda device: 132
kernel = {"block": persistent.grouped_block_kernel}.get(sys.argv[1], persistent.grouped_channel_kernel)
with compiling_instead(2):
    for gated in (True, False):
        launch(sys.argv[1], gated)
compiled = list(kernel.device_caches[0][0].values())
assert len(compiled) == 2
for number, one in enumerate(compiled):
    Path(sys.argv[2], f"{number}.cubin").write_bytes(one.asm["cubin"])
'''
