"""The grouped products against float64, per row, with every format and odd shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from cases import ROUTINGS, SMALL, LayerShape, exact_rows, make_weights, to_device
from compare import assert_rows, tolerance
from memory import Guard
from octavo.errors import KernelContractError
from octavo.ops.activations import FP8, Activations, GroupScaled, StaticScaled, TokenScaled, Unscaled
from octavo.ops.experts.grouped_gemm import (
    PersistentTile,
    Tile,
    grouped_gemm,
    grouped_gemm_swiglu,
    grouped_gemm_swiglu_quantize,
)
from octavo.ops.experts.grouped_gemm.reference import grouped_gemm_reference, grouped_gemm_swiglu_reference
from octavo.ops.experts.permute import Permutation, permute
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static, Weights
from octavo.ops.quantize.cuda import quantize_groups
from octavo.ops.quantize.reference import ReferenceQuantizer

FORMATS = [Fp8Channel, Fp8Static, Fp8Block, Bf16]
TILES = [
    Tile(16, 64, 4, 4),
    Tile(32, 64, 4, 3),
    Tile(64, 128, 8, 2),
    Tile(128, 64, 8, 3),
    Tile(16, 64, 4, 4, tma=True),
    Tile(32, 64, 4, 3, max_halvings=1),
    Tile(64, 64, 4, 3, max_halvings=2),
    Tile(128, 64, 8, 3, tma=True, max_halvings=2),
]
LONG_STEPS = [
    Tile(16, 64, 4, 3, step_factor=2),
    Tile(64, 64, 4, 2, tma=True, max_halvings=1, step_factor=4),
]
"""Not for scales per block."""
EARLY = [
    Tile(16, 64, 4, 2, tma=True, early=1),
    Tile(32, 128, 4, 3, tma=True, early=2, step_factor=2),
    Tile(16, 64, 4, 2, tma=True, early=4),
]
"""Not for scales per block, nor where rows are gathered."""
each_format = pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.__name__)
each_shape = pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.name)


@dataclasses.dataclass
class Case:
    """Inputs of one product, on the device, and its exact rows in assignment order (S, N) f64."""

    x: Activations
    w: Weights
    ids: torch.Tensor
    expected: torch.Tensor

    @property
    def present(self) -> torch.Tensor:
        """(assignments in use,) int64, on the host"""
        ids = self.ids.cpu().flatten()
        return ((ids >= 0) & (ids < self.w.data.shape[0])).nonzero().flatten()


def gate_up_case(kind: type, shape: LayerShape, tokens: int, routing: str, device: torch.device) -> Case:
    generator = torch.Generator().manual_seed(tokens * shape.hidden)
    w = make_weights(kind, shape.experts, 2, shape.intermediate, shape.hidden, generator)
    ids = ROUTINGS[routing](tokens, shape.experts, shape.top_k, generator)
    x = w.activate(exact_rows(tokens, shape.hidden, generator), ReferenceQuantizer())
    return Case(to_device(x, device), to_device(w, device), ids.to(device), grouped_gemm_swiglu_reference(x, w, ids))


def down_case(kind: type, shape: LayerShape, tokens: int, routing: str, device: torch.device) -> Case:
    generator = torch.Generator().manual_seed(tokens * shape.intermediate)
    w = make_weights(kind, shape.experts, 1, shape.hidden, shape.intermediate, generator)
    ids = ROUTINGS[routing](tokens, shape.experts, shape.top_k, generator)
    x = w.activate(exact_rows(ids.numel(), shape.intermediate, generator), ReferenceQuantizer())
    return Case(to_device(x, device), to_device(w, device), ids.to(device), grouped_gemm_reference(x, w, ids.flatten()))


def permutation_of(case: Case, tile: Tile | PersistentTile, guard: Guard) -> Permutation:
    experts = case.w.data.shape[0]
    permutation = guard.rebuild(Permutation.allocate(case.ids.numel() + 7, experts, case.ids.device))
    return permute(case.ids, experts, tile_rows=tile.rows, out=permutation)


def run_gate_up(case: Case, tile: Tile, guard: Guard) -> torch.Tensor:
    """(S, I) bf16 in assignment order; absent assignments NaN."""
    permutation, assignments = permutation_of(case, tile, guard), case.ids.numel()
    out = guard.empty((permutation.assignments, case.w.data.shape[1] // 2), torch.bfloat16)
    x, w = guard.rebuild_copy(case.x), guard.rebuild_copy(case.w)
    grouped_gemm_swiglu(x, w, permutation, top_k=case.ids.shape[1], tile=tile, out=out, assignments=assignments)
    guard.check()
    used = int(permutation.rows_in_use)
    assert out[used:].isnan().all(), "rows not in use were written"
    by_assignment = torch.full_like(out[:assignments], torch.nan)
    by_assignment[permutation.order[:used].long()] = out[:used]
    return by_assignment


def placed(x: Activations, order: torch.Tensor, room: int, guard: Guard) -> Activations:
    """The rows of x (S, K) in sorted order, at the start of `room` poisoned ones."""

    def rows(tensor: torch.Tensor) -> torch.Tensor:
        inner = guard.empty((room, *tensor.shape[1:]), tensor.dtype)
        raw = torch.uint8 if tensor.dtype.itemsize == 1 else tensor.dtype
        inner.view(raw)[: len(order)] = tensor.view(raw)[order]
        return inner

    match x:
        case StaticScaled():
            return StaticScaled(rows(x.data), guard.copy(x.scale))
        case Unscaled():
            return Unscaled(rows(x.data))
        case TokenScaled() | GroupScaled():
            return type(x)(rows(x.data), rows(x.scale))
        case _:
            raise TypeError(type(x).__name__)


def run_down(case: Case, tile: Tile | PersistentTile, guard: Guard) -> torch.Tensor:
    """(S, H) bf16 in assignment order; absent assignments NaN."""
    permutation, assignments = permutation_of(case, tile, guard), case.ids.numel()
    x = placed(case.x, permutation.order[: int(permutation.rows_in_use)].long(), permutation.assignments, guard)
    out = guard.empty((permutation.assignments, case.w.data.shape[1]), torch.bfloat16)
    grouped_gemm(x, guard.rebuild_copy(case.w), permutation, tile=tile, out=out, assignments=assignments)
    guard.check()
    assert out[assignments:].isnan().all(), "rows past the assignments were written"
    return out[:assignments]


ROUNDING = [
    Tile(16, 128, 4, 3),
    Tile(64, 128, 8, 2, max_halvings=2),
    Tile(32, 128, 4, 3, tma=True, max_halvings=1),
]
"""Tiles whose programs have all columns that share a scale."""


def run_rounded(case: Case, tile: Tile | PersistentTile, guard: Guard) -> GroupScaled:
    """Codes (S, I) fp8 and scales (S, I / 128) f32 in sorted order, what is not written as it was."""
    permutation, assignments = permutation_of(case, tile, guard), case.ids.numel()
    shape = (permutation.assignments, case.w.data.shape[1] // 2)
    out = GroupScaled(guard.empty(shape, FP8), guard.empty(GroupScaled.scale_shape(*shape), torch.float32))
    x, w = guard.rebuild_copy(case.x), guard.rebuild_copy(case.w)
    sizes = {"top_k": case.ids.shape[1], "assignments": assignments}
    grouped_gemm_swiglu_quantize(x, w, permutation, tile=tile, out=out, **sizes)
    guard.check()
    used = int(permutation.rows_in_use)
    assert out.scale[used:].isnan().all(), "rows not in use were written"
    assert out.data[used:].float().isnan().all(), "rows not in use were written"
    return out


def rounded_apart(case: Case, guard: Guard) -> GroupScaled:
    """What `run_rounded` must give: the product in bf16, and then `quantize_groups`."""
    permutation = permutation_of(case, TILES[0], guard)
    product = guard.empty((permutation.assignments, case.w.data.shape[1] // 2), torch.bfloat16)
    sizes = {"top_k": case.ids.shape[1], "assignments": case.ids.numel()}
    grouped_gemm_swiglu(case.x, case.w, permutation, tile=TILES[0], out=product, **sizes)
    scales = guard.empty(GroupScaled.scale_shape(*product.shape), torch.float32)
    out = GroupScaled(guard.empty(tuple(product.shape), FP8), scales)
    return quantize_groups(product, rows_in_use=permutation.rows_in_use, out=out)


def same_codes(one: GroupScaled, other: GroupScaled) -> bool:
    equal_scales = torch.equal(one.scale.nan_to_num(nan=-1.0), other.scale.nan_to_num(nan=-1.0))
    return equal_scales and torch.equal(one.data.view(torch.uint8), other.data.view(torch.uint8))


def assert_case(out: torch.Tensor, case: Case) -> None:
    """Rows of present assignments match the reference; absent ones were left as they were."""
    present = case.present
    assert_rows(out.cpu()[present], case.expected[present], tolerance(out.device))
    absent = sorted(set(range(len(out))) - set(present.tolist()))
    assert out[absent].isnan().all(), "rows of absent assignments were written"


@each_shape
@each_format
def test_gate_up(kind: type, shape: LayerShape, device: torch.device) -> None:
    """Classes D and F: most experts empty, I of 64 to 192, H not a multiple of the K step."""
    case = gate_up_case(kind, shape, 3, "sentinels", device)
    assert_case(run_gate_up(case, TILES[0], Guard(device)), case)


@each_shape
@each_format
def test_down(kind: type, shape: LayerShape, device: torch.device) -> None:
    case = down_case(kind, shape, 3, "sentinels", device)
    assert_case(run_down(case, TILES[0], Guard(device)), case)


@pytest.mark.parametrize("shape", [SMALL[1], SMALL[3]], ids=lambda shape: shape.name)
@each_format
def test_weights_through_bulk_copies(kind: type, shape: LayerShape, device: torch.device) -> None:
    case = gate_up_case(kind, shape, 3, "sentinels", device)
    assert_case(run_gate_up(case, Tile(16, 64, 4, 4, tma=True), Guard(device)), case)
    case = down_case(kind, shape, 3, "sentinels", device)
    assert_case(run_down(case, Tile(16, 64, 4, 4, tma=True), Guard(device)), case)


@pytest.mark.parametrize("routing", [name for name in ROUTINGS if name != "sentinels"])
def test_routings(routing: str, device: torch.device) -> None:
    case = gate_up_case(Fp8Channel, SMALL[1], 17, routing, device)
    assert_case(run_gate_up(case, TILES[0], Guard(device)), case)
    case = down_case(Fp8Channel, SMALL[1], 17, routing, device)
    assert_case(run_down(case, TILES[0], Guard(device)), case)


def halve(scale: torch.Tensor, *at: int) -> None:
    scale[at] *= 0.5


def wipe(data: torch.Tensor, *at: int | slice) -> None:
    raw = torch.uint8 if data.dtype.itemsize == 1 else data.dtype
    data.view(raw)[at] = 0


def mutations(case: Case) -> dict[str, Callable[[], None]]:
    """One thing wrong each: a row, an expert, a block of K, a channel that matters, a scale."""
    row = int(case.present[0]) // (case.ids.numel() // case.x.data.shape[0])
    assignment = case.present[-1]
    expert = int(case.ids.flatten()[assignment])
    channel = int(case.expected[assignment].abs().argmax())
    changes: dict[str, Callable[[], None]] = {
        "row": lambda: wipe(case.x.data, row),
        "expert": lambda: wipe(case.w.data, expert),
        "k-block": lambda: wipe(case.w.data, expert, slice(None), slice(64, 96)),
        "output-channel": lambda: wipe(case.w.data, expert, channel),
    }
    match case.x, case.w:
        case TokenScaled() as x, Fp8Channel() as w:
            changes["token-scale"] = lambda: halve(x.scale, row)
            changes["channel-scale"] = lambda: halve(w.scale, expert, channel)
        case _, Fp8Block(scale=scale):
            changes["block-scale"] = lambda: halve(scale, expert, 0, 0)
        case _, Fp8Static(scale=scale):
            changes["tensor-scale"] = lambda: halve(scale, expert, channel)
    return changes


@each_format
@pytest.mark.parametrize("product", ["gate-up", "down"])
def test_the_check_sees_one_wrong_thing(product: str, kind: type, device: torch.device) -> None:
    make, run = (gate_up_case, run_gate_up) if product == "gate-up" else (down_case, run_down)
    for name in mutations(make(kind, SMALL[1], 3, "uniform", device)):
        case = make(kind, SMALL[1], 3, "uniform", device)
        mutations(case)[name]()
        out = run(case, TILES[0], Guard(device))
        with pytest.raises(AssertionError, match="row"):
            assert_case(out, case)


@each_format
def test_the_bits_do_not_depend_on_the_tile(kind: type, device: torch.device) -> None:
    """Class F, flashinfer#4486: every selectable tile, not only the one chosen."""
    up, down = (make(kind, SMALL[1], 20, "skewed", device) for make in (gate_up_case, down_case))
    tiles = TILES if kind is Fp8Block else [*TILES, *LONG_STEPS]
    outs = [(run_gate_up(up, tile, Guard(device)), run_down(down, tile, Guard(device))) for tile in tiles]
    assert_case(outs[0][0], up)
    assert_case(outs[0][1], down)
    assert all(torch.equal(a, outs[0][0]) and torch.equal(b, outs[0][1]) for a, b in outs[1:])


@pytest.mark.parametrize("tile", EARLY, ids=str)
@pytest.mark.parametrize("intermediate", [272, 400, 512])
@pytest.mark.parametrize("kind", [Fp8Channel, Fp8Static, Bf16], ids=lambda kind: kind.__name__)
def test_weights_that_come_early_give_the_same_bits(
    kind: type, intermediate: int, tile: Tile, device: torch.device
) -> None:
    """Also where no assignment is present; and the twin: another expert's weights."""
    shape = dataclasses.replace(SMALL[1], intermediate=intermediate)
    for routing, tokens in (("skewed", 20), ("uniform", 1), ("sentinels", 5)):
        case = down_case(kind, shape, tokens, routing, device)
        right = run_down(case, TILES[0], Guard(device))
        out = run_down(case, tile, Guard(device))
        assert torch.equal(out.nan_to_num(nan=7.0), right.nan_to_num(nan=7.0))
        case.ids = case.ids.roll(1) if tokens > 1 else (case.ids + 1) % shape.experts
        assert not torch.equal(run_down(case, tile, Guard(device)).nan_to_num(nan=7.0), right.nan_to_num(nan=7.0))
    case.ids = torch.full_like(case.ids, -1)
    assert run_down(case, tile, Guard(device)).isnan().all()


@pytest.mark.parametrize("tile", ROUNDING, ids=str)
@pytest.mark.parametrize("intermediate", [96, 128, 192, 272])
def test_a_product_that_rounds_gives_what_rounding_behind_it_gives(
    intermediate: int, tile: Tile, device: torch.device
) -> None:
    """Also of a last group of fewer columns, and of a row that is not finite; and the twins: another row, another expert."""
    shape = dataclasses.replace(SMALL[1], intermediate=intermediate)
    for routing, tokens in (("skewed", 20), ("uniform", 1), ("sentinels", 5)):
        case = gate_up_case(Fp8Block, shape, tokens, routing, device)
        assert isinstance(case.x, GroupScaled)
        case.x.scale[-1, 0] = torch.nan
        expected = rounded_apart(case, Guard(device))
        assert same_codes(run_rounded(case, tile, Guard(device)), expected)
    for part in (case.x, case.w):
        part.data.view(torch.uint8)[int(case.ids.flatten()[case.present[0]]) if part is case.w else 0] ^= 0x80
        assert not same_codes(run_rounded(case, tile, Guard(device)), expected)
        part.data.view(torch.uint8)[int(case.ids.flatten()[case.present[0]]) if part is case.w else 0] ^= 0x80


@pytest.mark.parametrize(
    ("kind", "tile"),
    [(Fp8Block, Tile(16, 64, 4, 3)), (Fp8Channel, Tile(16, 128, 4, 3)), (Bf16, Tile(16, 128, 4, 3))],
    ids=str,
)
def test_other_products_do_not_round(kind: type, tile: Tile, device: torch.device) -> None:
    with pytest.raises(KernelContractError, match="quantize"):
        run_rounded(gate_up_case(kind, SMALL[1], 3, "uniform", device), tile, Guard(device))


def test_a_plan_from_corrupt_memory_is_not_followed(device: torch.device) -> None:
    """Class C, vllm#43396: every index is compared with both bounds where it is used."""
    case = gate_up_case(Fp8Channel, SMALL[1], 9, "uniform", device)
    guard = Guard(device)
    permutation = permutation_of(case, TILES[0], guard)
    huge = 2**31 - 1
    permutation.order[:4] = torch.tensor([-1, huge, -huge, case.ids.numel() + 7], dtype=torch.int32, device=device)
    permutation.tiles[:3] = torch.tensor(
        [[huge, 0, 16], [-1, 0, 16], [1, -huge, huge]], dtype=torch.int32, device=device
    )
    permutation.tiles[3:5] = torch.tensor([[0, huge, 16], [2, 3, -5]], dtype=torch.int32, device=device)
    out = guard.empty((permutation.assignments, 96), torch.bfloat16)
    x, w = guard.rebuild_copy(case.x), guard.rebuild_copy(case.w)
    grouped_gemm_swiglu(x, w, permutation, top_k=2, tile=TILES[0], out=out, assignments=case.ids.numel())
    guard.check()


def test_no_rows(device: torch.device) -> None:
    case = gate_up_case(Fp8Channel, SMALL[1], 0, "uniform", device)
    assert run_gate_up(case, TILES[0], Guard(device)).shape == (0, 96)


@pytest.mark.parametrize("pair", [(Fp8Channel, Fp8Block), (Fp8Block, Fp8Channel), (Bf16, Fp8Static)], ids=str)
def test_activations_of_another_format_are_refused(pair: tuple[type, type], device: torch.device) -> None:
    """Class F, vllm#57092 and #33019: scales of another granularity."""
    case = gate_up_case(pair[0], SMALL[1], 3, "uniform", device)
    case.x = gate_up_case(pair[1], SMALL[1], 3, "uniform", device).x
    with pytest.raises(KernelContractError, match=pair[0].__name__):
        run_gate_up(case, TILES[0], Guard(device))


def test_scales_of_another_shape_are_refused(device: torch.device) -> None:
    case = gate_up_case(Fp8Channel, SMALL[1], 3, "uniform", device)
    assert isinstance(case.w, Fp8Channel)
    case.w = Fp8Channel(case.w.data, case.w.scale[:, :1].contiguous())
    with pytest.raises(KernelContractError, match=r"w\.scale"):
        run_gate_up(case, TILES[0], Guard(device))


@pytest.mark.parametrize(
    ("tile", "match"),
    [
        pytest.param(Tile(16, 64, 4, 4, max_halvings=1), "max_halvings", id="below-16-rows"),
        pytest.param(Tile(128, 64, 4, 3, max_halvings=3), "max_halvings", id="an-eighth"),
        pytest.param(Tile(16, 64, 4, 3, tma=True, early=1), r"tile\.early", id="early-blocks-of-weights"),
        pytest.param(Tile(32, 64, 4, 3, tma=True, early=1, max_halvings=1), "early 1", id="early-and-halved"),
        pytest.param(Tile(16, 64, 4, 3, early=1), "early 1", id="early-without-tma"),
        pytest.param(Tile(16, 256, 8, 2), r"tile\.cols", id="two-blocks-of-weights"),
        pytest.param(Tile(16, 64, 4, 3, step_factor=2), r"tile\.step_factor", id="two-blocks-at-a-time"),
    ],
)
def test_tiles_that_cannot_run_are_refused(tile: Tile, match: str, device: torch.device) -> None:
    case = down_case(Fp8Block, SMALL[1], 3, "uniform", device)
    with pytest.raises(KernelContractError, match=match):
        run_down(case, tile, Guard(device))
