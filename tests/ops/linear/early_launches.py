"""Compiles products of few rows with early weights for Hopper: python -m ops.linear.early_launches FOLDER"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel
from octavo.ops.linear.early import launch_early_dense
from octavo.ops.linear.early_kernel import early_dense_kernel
from octavo.ops.linear.early_tile import EarlyTile
from ops.hopper import compile_launches
from ops.linear.test_dense_gemm import Case

KINDS = {"channel": Fp8Channel, "block": Fp8Block, "bf16": Bf16}
TILES = [EarlyTile(16, 5), EarlyTile(32, 4), EarlyTile(64, 3), EarlyTile(128, 2)]


def launch(kind: str, tile: EarlyTile) -> None:
    case = Case.draw(KINDS[kind], tile.rows - 1, 2048, 4096, torch.device("cpu"))
    launch_early_dense(case.x, case.w, out=torch.empty((tile.rows - 1, 2048), dtype=torch.bfloat16), tile=tile)


def main(folder: str) -> None:
    launches = {f"{kind}-{tile.rows}": functools.partial(launch, kind, tile) for kind in KINDS for tile in TILES}
    compile_launches(early_dense_kernel, launches, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
