"""The counting sort against lists."""

from __future__ import annotations

import pytest
import torch

from cases import ROUTINGS
from memory import Guard
from octavo.errors import KernelContractError
from octavo.ops.experts.permute import Permutation, max_tiles, permute
from octavo.ops.experts.permute.reference import permute_reference

SHAPES = [(1, 8, 2), (2, 1, 1), (17, 60, 4), (9, 64, 6), (31, 128, 4), (7, 257, 8), (3, 512, 22), (4, 513, 11)]


def guarded(
    ids: torch.Tensor, experts: int, rows: int, guard: Guard, rows_in_use: torch.Tensor | None = None, room: int = 0
) -> Permutation:
    out = guard.rebuild(Permutation.allocate(ids.numel() + room, experts, ids.device))
    return permute(guard.copy(ids), experts, tile_rows=rows, rows_in_use=rows_in_use, out=out)


def assert_permutation(
    got: Permutation, ids: torch.Tensor, experts: int, rows: int, rows_in_use: int | None = None
) -> None:
    order, tiles = permute_reference(ids.cpu(), experts, rows=rows, rows_in_use=rows_in_use)
    assert got.rows_in_use.tolist() == [len(order)]
    assert got.order[: len(order)].tolist() == order
    assert got.order[len(order) :].eq(-1).all(), "rows not in use were written"
    assert int(got.num_tiles) == len(tiles)
    assert [tuple(tile) for tile in got.tiles[: len(tiles)].tolist()] == tiles
    assert got.tiles[len(tiles) :].eq(-1).all(), "tiles not in use were written"


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize(("tokens", "experts", "top_k"), SHAPES)
def test_permute(tokens: int, experts: int, top_k: int, routing: str, device: torch.device) -> None:
    ids = ROUTINGS[routing](tokens, experts, top_k, torch.Generator().manual_seed(tokens)).to(device)
    guard = Guard(device)
    got = guarded(ids, experts, 16, guard)
    guard.check()
    assert_permutation(got, ids, experts, 16)


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "routing"),
    [
        pytest.param(129, 128, 8, "sentinels", id="two-blocks"),
        pytest.param(513, 257, 2, "all-to-last", id="one-past-few"),
        pytest.param(770, 64, 2, "skewed", id="seven-blocks"),
    ],
)
def test_several_blocks(tokens: int, experts: int, top_k: int, routing: str, device: torch.device) -> None:
    """Class B, uzu#715: one histogram where one per block is needed, and more than 128 experts."""
    ids = ROUTINGS[routing](tokens, experts, top_k, torch.Generator().manual_seed(5)).to(device)
    guard = Guard(device)
    count = torch.tensor([tokens - 1], dtype=torch.int32, device=device)
    got = guarded(ids, experts, 64, guard, rows_in_use=count, room=100)
    guard.check()
    assert_permutation(got, ids, experts, 64, tokens - 1)


@pytest.mark.parametrize("rows", [16, 32, 64, 128, 256])
def test_tiles_of_every_height(rows: int, device: torch.device) -> None:
    """Class B, vllm#28619: per-expert counts of 1, tile - 1, tile and tile + 1."""
    counts = [1, rows - 1, rows, rows + 1, 0, 2 * rows]
    ids = torch.repeat_interleave(torch.arange(6), torch.tensor(counts)).to(torch.int32)[:, None].to(device)
    assert_permutation(guarded(ids, 6, rows, Guard(device)), ids, 6, rows)


@pytest.mark.parametrize("count", [-1, 0, 1, 6, 7, 2**31 - 1])
def test_count_from_the_device(count: int, device: torch.device) -> None:
    ids = ROUTINGS["uniform"](7, 16, 4, torch.Generator().manual_seed(6)).to(device)
    got = guarded(ids, 16, 16, Guard(device), torch.tensor([count], dtype=torch.int32, device=device))
    assert_permutation(got, ids, 16, 16, min(max(count, 0), 7))


@pytest.mark.parametrize("mutant", ["two-assignments-swapped", "assignment-lost", "tile-shifted", "row-too-many"])
def test_the_check_sees_one_wrong_value(mutant: str, device: torch.device) -> None:
    ids = ROUTINGS["uniform"](9, 8, 2, torch.Generator().manual_seed(7)).to(device)
    got = guarded(ids, 8, 16, Guard(device))
    assert_permutation(got, ids, 8, 16)
    match mutant:
        case "two-assignments-swapped":
            got.order[[2, 3]] = got.order[[3, 2]]
        case "assignment-lost":
            got.order[5] = got.order[4]
        case "tile-shifted":
            got.tiles[1, 1] += 1
        case "row-too-many":
            got.rows_in_use[0] += 1
    with pytest.raises(AssertionError):
        assert_permutation(got, ids, 8, 16)


def test_no_tokens(device: torch.device) -> None:
    got = permute(torch.empty((0, 4), dtype=torch.int32, device=device), 8, tile_rows=16)
    assert got.rows_in_use.tolist() == [0]
    assert got.num_tiles.tolist() == [0]


@pytest.mark.parametrize(
    ("assignments", "experts", "rows"), [(1, 1, 16), (17, 3, 16), (1000, 128, 64), (1024, 512, 16)]
)
def test_no_routing_needs_more_tiles_than_the_bound(assignments: int, experts: int, rows: int) -> None:
    """Class B, vllm#27917: buffers smaller than the padded count. The worst case: every expert ends one row into a tile."""
    partial = min(experts, assignments)
    worst = partial + (assignments - partial) // rows
    assert worst <= max_tiles(assignments, experts, rows)
    assert max_tiles(assignments, experts, rows) - worst <= partial


@pytest.mark.parametrize(
    ("experts", "rows", "match"),
    [pytest.param(514, 16, "experts", id="experts"), pytest.param(8, 8, "tile_rows", id="rows")],
)
def test_limits_are_refused(experts: int, rows: int, match: str, device: torch.device) -> None:
    with pytest.raises(KernelContractError, match=match):
        permute(torch.zeros((2, 2), dtype=torch.int32, device=device), experts, tile_rows=rows)


def test_too_small_a_permutation_is_refused(device: torch.device) -> None:
    ids = torch.zeros((3, 2), dtype=torch.int32, device=device)
    with pytest.raises(KernelContractError, match=r"out\.order"):
        permute(ids, 8, tile_rows=16, out=Permutation.allocate(5, 8, device))
