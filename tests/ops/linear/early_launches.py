"""Compiles products of few rows with early weights for Hopper: python -m ops.linear.early_launches FOLDER KIND"""

from __future__ import annotations

import functools
import itertools
import sys
from pathlib import Path

import torch

from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, LinearWeight
from octavo.ops.linear.choice import choose_early
from octavo.ops.linear.early import launch_early_dense
from octavo.ops.linear.early_kernel import early_dense_kernel
from octavo.ops.linear.early_tile import EarlyTile
from ops.hopper import compile_launches
from ops.linear.test_dense_gemm import Case

KINDS = {"channel": Fp8Channel, "block": Fp8Block, "bf16": Bf16}
CASES = [(16, 2048, 4096), (128, 2048, 4096), (256, 2048, 4096), (32, 5120, 640), (64, 12288, 2048), (128, 5120, 2048)]
"""Rows, N, K: steps of K come in fours, one by one, and in twos, as there is half the room."""
FORMS = {"bf16-bias": (torch.bfloat16, True), "f32": (torch.float32, False)}
"""Of the output, and whether there is a bias."""


def tiles() -> dict[str, EarlyTile]:
    """What is chosen for each kind, shape and height, once for all that are compiled alike: by name."""
    found = {}
    for (name, kind), (rows, columns, width) in itertools.product(KINDS.items(), CASES):
        w = weight(kind, columns, width)
        tile = choose_early(rows, w)
        if tile is not None:
            found[name, tile, tile.most_steps(w)] = f"{name}-{columns}x{width}-{rows}", tile
    return dict(found.values())


def weight(kind: type, columns: int, width: int) -> LinearWeight:
    """(columns, width), without memory."""
    data = torch.empty((columns, width), dtype=torch.bfloat16 if kind is Bf16 else torch.float8_e4m3fn, device="meta")
    if kind is Bf16:
        return Bf16(data)
    if kind is Fp8Channel:
        return Fp8Channel(data, torch.empty(columns, device="meta"))
    return Fp8Block(data, torch.empty((-(-columns // 128), -(-width // 128)), device="meta"))


def launch(name: str, tile: EarlyTile, dtype: torch.dtype, bias: bool) -> None:
    """Of 64 columns: what is compiled does not hang on their number."""
    kind, shape, _ = name.split("-")
    case = Case.draw(KINDS[kind], tile.rows - 1, 64, int(shape.split("x")[1]), torch.device("cpu"), bias=bias)
    launch_early_dense(case.x, case.w, out=torch.empty((tile.rows - 1, 64), dtype=dtype), tile=tile)


def forms(kind: str) -> dict[str, tuple[str, EarlyTile, str]]:
    """Shape, tile and form of each launch of a kind by its name: forms in turn, as each compilation takes seconds."""
    found = ((name, tile) for name, tile in tiles().items() if name.startswith(kind))
    return {f"{name}-{form}": (name, tile, form) for (name, tile), form in zip(found, itertools.cycle(FORMS))}


def main(folder: str, kind: str) -> None:
    launches = {
        name: functools.partial(launch, shape, tile, *FORMS[form]) for name, (shape, tile, form) in forms(kind).items()
    }
    compile_launches(early_dense_kernel, launches, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
