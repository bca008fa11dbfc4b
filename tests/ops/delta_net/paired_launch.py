"""Compiles the kernel of one chunk's states for Hopper: python -m ops.delta_net.paired_launch FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from octavo.config.delta_shape import DeltaShape
from octavo.ops.delta_net.cuda import FACTORS
from octavo.ops.delta_net.paired_kernel import paired_kernel
from octavo.ops.launch import LAUNCH
from ops.hopper import compile_launches

SHAPE = DeltaShape(2, 4, 128, 128, 4)


def launch() -> None:
    def numbers(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int32)

    factors = torch.empty((8, SHAPE.value_heads, FACTORS))
    paired_kernel[(32,)](
        torch.empty((128, SHAPE.channels), dtype=torch.bfloat16), factors, factors.view(torch.bfloat16), torch.empty((4, SHAPE.state.numbers)),
        numbers(2, 8), numbers(1), torch.empty((128, 512), dtype=torch.bfloat16), 128, 4, 2, 8,
        KEY_HEADS=2, VALUE_HEADS=4, NUMBERS=SHAPE.state.numbers, FACTORS=FACTORS, num_warps=2, **LAUNCH,
    )  # fmt: skip


def main(folder: str) -> None:
    compile_launches(paired_kernel, {"paired": launch}, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
