"""Rows behind the last one of what products read, on Hopper: full of NaN, they are in no row of the result."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from gpu.test_early_dense import OTHER, drawn, each_kind, run
from layer import CUDA
from octavo.ops.bulk_copy import ROOM_ROWS, empty_with_room, in_whole_tiles
from octavo.ops.experts.grouped_gemm import PersistentTile
from octavo.ops.formats import Bf16
from octavo.ops.linear.choice import early_tile
from octavo.ops.linear.dense_gemm import AnyTile, DenseTile, choose, dense_gemm

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]
COUNTS = (1, 16, 33, 65, 96, 127, 128, 129, 200, 1000)
SHAPES = [(512, 640), (5120, 2048)]


@each_kind
@pytest.mark.parametrize(("columns", "width"), SHAPES, ids=str)
def test_what_lies_in_room_is_in_no_row(kind: type, columns: int, width: int) -> None:
    """Of every kind of tile that dense products take, and of the one that is chosen; beside x in memory that ends with its last row."""
    for count in COUNTS:
        case = drawn(kind, count, columns, width)
        case = dataclasses.replace(case, w=dataclasses.replace(case.w, bias=None))
        room = empty_with_room((count, width), case.x.data.dtype, CUDA)
        in_whole_tiles(room, ROOM_ROWS).view(torch.uint8).fill_(0xFF)
        room.copy_(case.x.data)
        assert case.x.data.untyped_storage().nbytes() == case.x.data.nbytes
        expected = run(case, OTHER)
        out = torch.empty_like(expected)
        x = dataclasses.replace(case.x, data=room)
        tiles: list[AnyTile] = [
            DenseTile(64, 64, 4, 3, tma=True),
            DenseTile(128, 64, 4, 3, tma=True),
            choose(x, case.w, out),
        ]
        tiles += [early for height in (16, 32, 64, 128) if (early := early_tile(count, height, case.w))]
        tiles += [] if kind is Bf16 else [PersistentTile()]
        for tile, _ in itertools.product(tiles, range(2)):
            out.fill_(torch.nan)
            dense_gemm(x, case.w, out=out, tile=tile)
            assert torch.equal(out, expected), (count, tile)
