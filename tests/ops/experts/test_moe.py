"""The whole layer: right, contained, the same bits for a row wherever it stands."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from cases import ROUTINGS, SMALL, LayerShape, exact_rows, make_weights, to_device
from compare import assert_rows, tolerance
from memory import Guard
from octavo.errors import KernelContractError
from octavo.ops.experts import moe as experts
from octavo.ops.experts.cuda import KernelExperts
from octavo.ops.experts.grouped_gemm import Tile, Tiles, _check_tile
from octavo.ops.experts.grouped_gemm.table import TABLE
from octavo.ops.experts.moe import MoeWorkspace, moe, moe_workspace
from octavo.ops.experts.permute import most_apart
from octavo.ops.experts.reference import moe_reference
from octavo.ops.experts.route.reference import route_reference
from octavo.ops.experts.rules import RoutingRule, SharedRule, SoftmaxRule
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static, Weights
from octavo.ops.quantize.cuda import quantize_groups

FORMATS = [Fp8Channel, Fp8Static, Fp8Block, Bf16]
each_format = pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.__name__)
NAN = float("nan")


@dataclasses.dataclass
class Layer:
    """Weights on the device, and room for some tokens."""

    shape: LayerShape
    gate_up: Weights
    down: Weights
    workspace: MoeWorkspace
    guard: Guard

    def __call__(
        self,
        x: torch.Tensor,
        ids: torch.Tensor,
        weights: torch.Tensor,
        rows_in_use: int | None = None,
        tiles: Tiles | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """out and flags, from poisoned memory between canaries."""
        guard = self.guard
        out, flags = guard.empty(tuple(x.shape), torch.bfloat16), guard.empty((len(x),), torch.bool)
        count = None if rows_in_use is None else guard.copy(torch.tensor([rows_in_use], dtype=torch.int32))
        x, ids, weights = (guard.copy(tensor) for tensor in (x, ids, weights))
        gate_up, down = guard.rebuild_copy(self.gate_up), guard.rebuild_copy(self.down)
        workspace = guard.rebuild(self.workspace)
        moe(
            x, ids, weights, gate_up, down,
            workspace=workspace, out=out, flags=flags, rows_in_use=count, tiles=tiles,
        )  # fmt: skip
        guard.check()
        return out, flags


def layer(kind: type, shape: LayerShape, max_tokens: int, device: torch.device) -> Layer:
    generator = torch.Generator().manual_seed(shape.hidden + shape.experts)
    gate_up = to_device(make_weights(kind, shape.experts, 2, shape.intermediate, shape.hidden, generator), device)
    down = to_device(make_weights(kind, shape.experts, 1, shape.hidden, shape.intermediate, generator), device)
    workspace = moe_workspace(max_tokens, shape.top_k, gate_up, down)
    return Layer(shape, gate_up, down, workspace, Guard(device))


Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""x, ids and weights of `moe`."""


def inputs(shape: LayerShape, tokens: int, routing: str, device: torch.device) -> Inputs:
    generator = torch.Generator().manual_seed(tokens + shape.experts)
    x = exact_rows(tokens, shape.hidden, generator)
    ids = ROUTINGS[routing](tokens, shape.experts, shape.top_k, generator)
    weights = torch.rand((tokens, shape.top_k), generator=generator)
    return x.to(device), ids.to(device), weights.to(device)


def expected(layer: Layer, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    cpu = torch.device("cpu")
    return moe_reference(x.cpu(), ids.cpu(), weights.cpu(), to_device(layer.gate_up, cpu), to_device(layer.down, cpu))


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: shape.name)
@pytest.mark.parametrize("tokens", [1, 2, 5])
def test_moe(shape: LayerShape, tokens: int, device: torch.device) -> None:
    it = layer(Fp8Channel, shape, 5, device)
    args = inputs(shape, tokens, "uniform", device)
    out, flags = it(*args)
    assert_rows(out, expected(it, *args), 2 * tolerance(device))
    assert not flags.any()


@each_format
@pytest.mark.parametrize("routing", ["sentinels", "all-to-last", "duplicates"])
def test_formats(kind: type, routing: str, device: torch.device) -> None:
    it = layer(kind, SMALL[1], 17, device)
    args = inputs(SMALL[1], 17, routing, device)
    out, _ = it(*args)
    assert_rows(out, expected(it, *args), 2 * tolerance(device))


MIXED = [pair for kind in FORMATS[:-1] for pair in ((Bf16, kind), (kind, Bf16))]
"""Of gate and up, and of down: one of them may be left out of the format."""
each_mixture = pytest.mark.parametrize("kinds", MIXED, ids=lambda kinds: "-".join(kind.__name__ for kind in kinds))


@each_mixture
def test_one_product_may_be_left_in_bf16(kinds: tuple[type, type], device: torch.device) -> None:
    parts = [layer(kind, SMALL[1], 17, device) for kind in kinds]
    it = dataclasses.replace(parts[0], down=parts[1].down)
    it.workspace = moe_workspace(17, SMALL[1].top_k, it.gate_up, it.down)
    for tokens in (1, 17):
        args = inputs(SMALL[1], tokens, "duplicates", device)
        out, _ = it(*args)
        assert_rows(out, expected(it, *args), 2 * tolerance(device))


@pytest.mark.parametrize(
    "kinds",
    [(Fp8Block, Fp8Block), (Fp8Block, Bf16), (Bf16, Fp8Block), (Fp8Block, Fp8Channel), (Fp8Channel, Fp8Block)],
    ids=lambda kinds: "-".join(kind.__name__ for kind in kinds),
)
@pytest.mark.parametrize("rows_in_use", [None, 3, 0])
def test_hidden_rows_that_a_product_rounds_have_the_bits_of_a_rounding_behind_it(
    kinds: tuple[type, type], rows_in_use: int | None, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a row of zeros and one that is not finite. Nothing else rounds hidden rows where the product does, and it does for blocks alone."""
    shape = SMALL[1]
    parts = [layer(kind, shape, 9, device) for kind in kinds]
    it = dataclasses.replace(parts[0], down=parts[1].down)
    it.workspace = moe_workspace(9, shape.top_k, it.gate_up, it.down)
    x, ids, weights = inputs(shape, 9, "duplicates", device)
    x[1], x[2, 5] = 0, NAN
    wide, narrow = (Tiles(Tile(16, columns, 4, 3), Tile(16, 64, 4, 3)) for columns in (128, 64))
    right, _ = it(x, ids, weights, rows_in_use, narrow)
    rounded: list[torch.Tensor] = []

    def seen(rows: torch.Tensor, **options: Any) -> Any:
        rounded.append(rows)
        return quantize_groups(rows, **options)

    monkeypatch.setattr("octavo.ops.experts.workspace.quantize_groups", seen)
    out, _ = it(x, ids, weights, rows_in_use, wide)
    assert same(out, right)
    hidden = [rows for rows in rounded if rows.shape[1] == shape.intermediate]
    assert len(hidden) == (kinds == (Bf16, Fp8Block) or kinds == (Fp8Channel, Fp8Block))


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal bits, but for those of NaN."""
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())


@each_mixture
@pytest.mark.parametrize("assignments", [1, 16, 64, 256, 2048, 65536])
def test_tiles_of_two_formats_can_run(
    kinds: tuple[type, type], assignments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a width that persistent tiles take, where a device runs those."""
    monkeypatch.setattr(experts, "runs_persistent_kernels", lambda _device: True)
    drawn = torch.Generator().manual_seed(1)
    gate_up, down = make_weights(kinds[0], 2, 2, 256, 512, drawn), make_weights(kinds[1], 2, 1, 512, 256, drawn)
    workspace = moe_workspace(1, 1, gate_up, down)
    tiles = experts._choose(torch.empty(1, 512), gate_up, down, workspace, assignments)
    for tile, w, gated in ((tiles.gate_up, gate_up, True), (tiles.down, down, False)):
        assert isinstance(tile, Tile)
        _check_tile(tile, w, w.data.shape[-1], gated)


@pytest.mark.parametrize("mutant", ["row", "expert", "k-block", "scale", "routing-weight", "id"])
def test_the_check_sees_one_wrong_thing(mutant: str, device: torch.device) -> None:
    it = layer(Fp8Channel, SMALL[1], 5, device)
    x, ids, weights = inputs(SMALL[1], 5, "uniform", device)
    right = expected(it, x, ids, weights)
    expert = int(ids[2, 0])
    assert isinstance(it.down, Fp8Channel)
    match mutant:
        case "row":
            x[3] = x[2]
        case "expert":
            it.down.data.view(torch.uint8)[expert] = 0
        case "k-block":
            it.gate_up.data.view(torch.uint8)[expert, :, 128:] = 0
        case "scale":
            it.down.scale[expert, :16] *= 2
        case "routing-weight":
            weights[1, 0] *= 1.2
        case "id":
            ids[4, 1] = (ids[4, 1] + 1) % 8
    out, _ = it(x, ids, weights)
    with pytest.raises(AssertionError, match="row"):
        assert_rows(out, right, 2 * tolerance(device))


@each_format
def test_a_row_has_the_same_bits_anywhere(kind: type, device: torch.device) -> None:
    """Class F, flashinfer#3559 and class J: alone, at any position, in any batch, with any neighbours, at any tile."""
    it = layer(kind, SMALL[1], 9, device)
    x, ids, weights = inputs(SMALL[1], 9, "uniform", device)
    whole, _ = it(x, ids, weights)
    for row in (0, 4, 8):
        alone, _ = it(x[row : row + 1], ids[row : row + 1], weights[row : row + 1])
        assert torch.equal(alone[0], whole[row])
    turned = torch.tensor([8, 3, 1, 0, 7, 2, 6, 5, 4], device=device)
    moved, _ = it(x[turned], ids[turned], weights[turned], tiles=Tiles(Tile(32, 64, 4, 3), Tile(32, 128, 8, 2)))
    assert torch.equal(moved, whole[turned])
    x[::2] = NAN
    beside_nan, flags = it(x, ids, weights)
    assert torch.equal(beside_nan[1::2], whole[1::2])
    assert flags.tolist() == [row % 2 == 0 for row in range(9)]


def test_tiles_of_the_table_run_without_bulk_copies(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they load weights early, which is by bulk copies: weights at addresses that these do not take have the same bits."""
    it = layer(Fp8Channel, SMALL[3], 3, device)
    x, ids, weights = inputs(SMALL[3], 3, "uniform", device)
    right, _ = it(x, ids, weights)
    tiles = Tile(16, 64, 4, 3, tma=True), Tile(16, 64, 4, 2, tma=True, early=2)
    monkeypatch.setitem(TABLE, ("Fp8Channel", SMALL[3].experts, SMALL[3].hidden, SMALL[3].intermediate), [(99, *tiles)])
    early, _ = it(x, ids, weights)
    assert torch.equal(early, right)
    odd = torch.empty(it.down.data.numel() + 16, dtype=torch.uint8, device=device)[8:-8].view(it.down.data.dtype)
    down = dataclasses.replace(it.down, data=odd.view(it.down.data.shape).copy_(it.down.data))
    out, flags = torch.empty_like(x), torch.empty(3, dtype=torch.bool, device=device)
    moe(x, ids, weights, it.gate_up, down, workspace=it.workspace, out=out, flags=flags)
    assert torch.equal(out, right)


@pytest.mark.parametrize(
    "rule", [SoftmaxRule(2, True), SharedRule(SoftmaxRule(1, True), gated=True)], ids=["chosen", "shared"]
)
@each_format
def test_few_tokens_have_the_bits_of_many(kind: type, rule: RoutingRule, device: torch.device) -> None:
    """Few are not sorted; two of the three choose the same expert, and one more token is in none of their graphs' use."""
    shape = dataclasses.replace(SMALL[1], experts=32, top_k=2)
    it, drawn = layer(kind, shape, 9, device), torch.Generator().manual_seed(3)
    experts = KernelExperts(it.gate_up, it.down, rule, workspace=it.workspace)
    x, logits = exact_rows(9, shape.hidden, drawn).to(device), torch.randn((9, 32), generator=drawn).to(device)
    logits[1] = logits[0]
    whole = experts(x, logits).clone()
    ids, weights, _ = route_reference(logits.cpu(), rule)
    assert_rows(whole, expected(it, x, ids, weights.float()), 2 * tolerance(device))
    assert most_apart(2, 32) == 4
    for first, count in ((0, 1), (0, 2), (0, 4), (1, 3), (5, 1), (5, 4)):
        rows = slice(first, first + count)
        assert torch.equal(experts(x[rows], logits[rows]), whole[rows])
        used = torch.tensor([count - 1], dtype=torch.int32, device=device)
        part = experts(x[rows], logits[rows], used)
        assert torch.equal(part[:-1], whole[rows][:-1])
        assert part[-1].eq(0).all()
        other = logits[rows].roll(1, 1)
        assert not torch.equal(experts(x[rows], other), whole[rows]), "the twin: other experts"


def test_logits_of_another_router_are_refused(device: torch.device) -> None:
    it = layer(Bf16, dataclasses.replace(SMALL[1], experts=32, top_k=2), 3, device)
    experts = KernelExperts(it.gate_up, it.down, SharedRule(SoftmaxRule(1, True), gated=False), workspace=it.workspace)
    x = torch.zeros((3, SMALL[1].hidden), dtype=torch.bfloat16, device=device)
    with pytest.raises(KernelContractError, match=r"logits\.shape\[1\]: expected 31 to 31, got 32"):
        experts(x, torch.zeros((3, 32), device=device))


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")], ids=str)
def test_a_bad_row_comes_back_flagged(bad: float, device: torch.device) -> None:
    it = layer(Fp8Channel, SMALL[3], 4, device)
    x, ids, weights = inputs(SMALL[3], 4, "uniform", device)
    whole, _ = it(x, ids, weights)
    x[1, 77] = bad
    out, flags = it(x, ids, weights)
    assert flags.tolist() == [False, True, False, False]
    assert torch.equal(out[[0, 2, 3]], whole[[0, 2, 3]])


@pytest.mark.parametrize("count", [-1, 0, 3, 5, 2**31 - 1])
def test_rows_past_the_count_are_not_read_and_become_zero(count: int, device: torch.device) -> None:
    """Class E, vllm#38436 and sglang#30895: padded rows of a graph hold anything."""
    it = layer(Fp8Channel, SMALL[1], 5, device)
    x, ids, weights = inputs(SMALL[1], 5, "uniform", device)
    whole, _ = it(x, ids, weights)
    rows = min(max(count, 0), 5)
    x[rows:], weights[rows:], ids[rows:] = NAN, NAN, 2**31 - 1
    out, flags = it(x, ids, weights, rows_in_use=count)
    assert torch.equal(out[:rows], whole[:rows])
    assert out[rows:].eq(0).all()
    assert not flags.any()


def test_tokens_that_are_all_absent_become_zero(device: torch.device) -> None:
    """Class C, vllm#54747 and class D, TransformerEngine#3067: 0, 1, 4 and 5 of 5 tokens routed nowhere."""
    it = layer(Fp8Channel, SMALL[1], 5, device)
    x, ids, weights = inputs(SMALL[1], 5, "uniform", device)
    whole, _ = it(x, ids, weights)
    for absent in ([2], [0, 1, 3, 4], [0, 1, 2, 3, 4]):
        marked = ids.clone()
        marked[absent] = -1
        out, _ = it(x, marked, weights)
        present = [row for row in range(5) if row not in absent]
        assert torch.equal(out[present], whole[present])
        assert out[absent].eq(0).all()


def test_no_tokens(device: torch.device) -> None:
    """Class D, sglang#22455 and #38773: an empty batch is a size."""
    it = layer(Fp8Channel, SMALL[1], 5, device)
    out, _ = it(*inputs(SMALL[1], 0, "uniform", device))
    assert out.shape == (0, 256)


def test_a_workspace_serves_every_smaller_batch(device: torch.device) -> None:
    it = layer(Fp8Channel, SMALL[1], 300, device)
    args = inputs(SMALL[1], 3, "uniform", device)
    out, _ = it(*args)
    assert_rows(out, expected(it, *args), 2 * tolerance(device))


@pytest.mark.parametrize("what", ["tokens", "hidden", "top-k", "experts", "dtype"])
def test_a_call_that_does_not_fit_is_refused(what: str, device: torch.device) -> None:
    it = layer(Fp8Channel, SMALL[1], 4, device)
    x, ids, weights = inputs(SMALL[1], 5 if what == "tokens" else 4, "uniform", device)
    match what:
        case "hidden":
            x = x[:, :128].contiguous()
        case "top-k":
            ids = ids[:, :1].contiguous()
        case "experts":
            assert isinstance(it.down, Fp8Channel)
            it.down = Fp8Channel(it.down.data[:4], it.down.scale[:4])
        case "dtype":
            x = x.float()
    with pytest.raises(KernelContractError) as error:
        it(x, ids, weights)
    assert "(" in str(error.value)
