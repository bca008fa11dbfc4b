"""Every batch size, every routing: the rows of a pool come out as they did when checked against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cases import QWEN3_30B, ROUTINGS, LayerShape
from compare import BF16_ROUNDING, assert_rows, tolerance
from layer import CUDA, GpuLayer, Rows
from memory import Guard
from octavo.ops.activations import Activations, GroupScaled, Unscaled
from octavo.ops.experts.combine import combine
from octavo.ops.experts.combine.reference import combine_reference
from octavo.ops.experts.grouped_gemm import Tile, grouped_gemm_swiglu
from octavo.ops.experts.grouped_gemm.reference import grouped_gemm_reference, grouped_gemm_swiglu_reference
from octavo.ops.experts.moe import moe
from octavo.ops.experts.permute import Permutation, permute
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static
from octavo.ops.quantize.cuda import quantize, swiglu_quantize
from octavo.ops.quantize.reference import ReferenceQuantizer

pytestmark = pytest.mark.gpu
LARGE = [size + off for size in (4096, 8192, 16384, 32768, 65536, 131072) for off in range(-3, 4)]


def hidden_again(layer: GpuLayer, x: Activations, ids: torch.Tensor) -> torch.Tensor:
    """(S, I) bf16 in sorted order, by a tile that does not round."""
    tile = Tile(64, 64, 4, 3, tma=True)
    permutation = permute(ids, layer.shape.experts, tile_rows=tile.rows)
    out = torch.empty((ids.numel(), layer.shape.intermediate), dtype=torch.bfloat16, device=CUDA)
    sizes = {"top_k": ids.shape[1], "assignments": ids.numel()}
    return grouped_gemm_swiglu(x, layer.gate_up, permutation, tile=tile, out=out, **sizes)


def assert_right(layer: GpuLayer, rows: Rows, computed_by: GpuLayer | None = None) -> torch.Tensor:
    """Every stage of the layer against float64 from the stage before; returns out (T, H). `computed_by`: a mutant.

    Stage by stage, because a rounding of h to the other side of an FP8 code moves a row's end result by percents.
    """
    out, flags = (computed_by or layer)(rows)
    assert not flags.any()
    ws, ids = layer.workspace, rows.ids.flatten()
    used = int(ws.permutation.rows_in_use)
    order = ws.permutation.order[:used].long()
    limit = tolerance(CUDA)
    x = layer.gate_up.activate(rows.x, ReferenceQuantizer())
    hidden = grouped_gemm_swiglu_reference(x, layer.gate_up, rows.ids)[order]
    # products with scales per block may have rounded what they stored
    product = hidden_again(layer, x, rows.ids) if isinstance(layer.down, Fp8Block) else ws.hidden
    assert_rows(product[:used], hidden, limit)
    h = layer.down.activate(product[:used], ReferenceQuantizer())
    if not isinstance(h, Unscaled):
        assert torch.equal(ws.hidden_quantized.data[:used].view(torch.uint8), h.data.view(torch.uint8))
    if isinstance(h, GroupScaled):
        assert torch.equal(ws.hidden_quantized.scale[:used], h.scale)
    assert_rows(ws.expert_out[order], grouped_gemm_reference(h, layer.down, ids[order]), limit)
    assert_rows(
        out, combine_reference(ws.expert_out[: len(ids)], rows.ids, rows.weights, layer.shape.experts), BF16_ROUNDING
    )
    return out


@pytest.fixture(scope="module")
def qwen() -> GpuLayer:
    return GpuLayer.make(Fp8Channel, QWEN3_30B, max(LARGE))


@pytest.mark.parametrize("routing", ROUTINGS)
def test_every_small_size(routing: str, qwen: GpuLayer) -> None:
    """Every T from 0 to 2,100, a tenth of them for each routing, at a moving place of the pool."""
    pool = Rows.draw(QWEN3_30B, 2200, routing)
    right = assert_right(qwen, pool)
    for tokens in range(list(ROUTINGS).index(routing), 2101, len(ROUTINGS)):
        at = tokens % 97
        out, _ = qwen(pool[at : at + tokens])
        assert torch.equal(out, right[at : at + tokens]), f"T={tokens}"


def test_every_small_size_uniform(qwen: GpuLayer) -> None:
    pool = Rows.draw(QWEN3_30B, 2200, seed=1)
    right, _ = qwen(pool)
    for tokens in range(2101):
        at = 2200 - tokens - tokens % 89 if tokens < 2100 else 0
        at = max(at, 0)
        out, _ = qwen(pool[at : at + tokens])
        assert torch.equal(out, right[at : at + tokens]), f"T={tokens}"


@pytest.mark.parametrize("routing", ["uniform", "all-to-last", "sentinels"])
def test_large_sizes(routing: str, qwen: GpuLayer) -> None:
    """Every T within 3 of 4096 to 131072; the pool is computed in pieces of 1000 and checked against float64."""
    pool = Rows.draw(QWEN3_30B, max(LARGE), routing)
    right = torch.cat([qwen(pool[at : at + 1000])[0] for at in range(0, max(LARGE), 1000)])
    for at in (0, max(LARGE) - 512):
        piece = slice(at, at + 512)
        assert torch.equal(assert_right(qwen, pool[piece]), right[piece])
    for tokens in LARGE:
        at = max(LARGE) - tokens
        out, flags = qwen(pool[at:])
        assert torch.equal(out, right[at:]), f"T={tokens}"
        assert not flags.any()


@pytest.mark.parametrize("kind", [Fp8Static, Fp8Block, Bf16], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "shape",
    [
        LayerShape("mixtral", 8, 2, 4096, 1792),
        LayerShape("odd", 60, 4, 2048, 1408),
        LayerShape("narrow", 257, 10, 1024, 176),
    ],
    ids=lambda shape: shape.name,
)
def test_formats(kind: type, shape: LayerShape) -> None:
    layer = GpuLayer.make(kind, shape, 1030)
    pool = Rows.draw(shape, 1030, "skewed")
    right = assert_right(layer, pool)
    for tokens in (0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 300, 511, 512, 513, 1024):
        assert torch.equal(layer(pool[:tokens])[0], right[:tokens]), f"T={tokens}"


@pytest.mark.parametrize("tokens", [1, 127, 1025, 8192])
def test_nothing_outside_is_touched(tokens: int, qwen: GpuLayer) -> None:
    """Canaries around every buffer, NaN in all fresh memory; and the incident's batch, 8 x 1001 + 184 tokens."""
    rows = Rows.draw(QWEN3_30B, tokens, "sentinels")
    right, _ = qwen(rows)
    guard = Guard(CUDA)
    small = GpuLayer(
        QWEN3_30B, qwen.gate_up, qwen.down, guard.rebuild(qwen.workspace) if tokens < 1000 else qwen.workspace
    )
    out, flags = guard.empty(tuple(rows.x.shape), torch.bfloat16), guard.empty((tokens,), torch.bool)
    x, ids, weights = guard.copy(rows.x), guard.copy(rows.ids), guard.copy(rows.weights)
    moe(x, ids, weights, small.gate_up, small.down, workspace=small.workspace, out=out, flags=flags)
    guard.check()
    assert torch.equal(out, right)


class TestPast2To31:
    """Class A: rows whose offset passes 2^31 elements hold what the same rows hold alone."""

    def test_quantize(self) -> None:
        """vllm#42173: 524,416 rows of 4096."""
        x = torch.zeros((524_416, 4096), dtype=torch.bfloat16, device=CUDA)
        x[-8:] = torch.randn((8, 4096), device=CUDA).bfloat16()
        whole, alone = quantize(x), quantize(x[-8:].clone())
        assert torch.equal(whole.data[-8:].view(torch.uint8), alone.data.view(torch.uint8))
        assert torch.equal(whole.scale[-8:], alone.scale)

    def test_swiglu_quantize(self) -> None:
        """vllm#53390: 524,289 rows of 2 x 2048, and 74,899 of 2 x 14336."""
        for rows, width in ((524_289, 2048), (74_899, 14336)):
            x = torch.zeros((rows, 2 * width), dtype=torch.bfloat16, device=CUDA)
            x[-8:] = torch.randn((8, 2 * width), device=CUDA).bfloat16()
            whole, alone = swiglu_quantize(x), swiglu_quantize(x[-8:].clone())
            assert torch.equal(whole.data[-8:].view(torch.uint8), alone.data.view(torch.uint8))

    @pytest.mark.parametrize("tokens", [52_428, 52_429, 65_536])
    def test_combine(self, tokens: int) -> None:
        """vllm#50220: top-k 10, H 4096."""
        y = torch.zeros((tokens * 10, 4096), dtype=torch.bfloat16, device=CUDA)
        y[-40:] = torch.randn((40, 4096), device=CUDA).bfloat16()
        ids = torch.zeros((tokens, 10), dtype=torch.int32, device=CUDA)
        weights = torch.rand((tokens, 10), device=CUDA)
        out, few = (torch.empty((n, 4096), dtype=torch.bfloat16, device=CUDA) for n in (tokens, 4))
        combine(y, ids, weights, 1, out=out, flags=torch.empty(tokens, dtype=torch.bool, device=CUDA))
        flags = torch.empty(4, dtype=torch.bool, device=CUDA)
        combine(y[-40:].clone(), ids[-4:].clone(), weights[-4:].clone(), 1, out=few, flags=flags)
        assert torch.equal(out[-4:], few)

    @pytest.mark.parametrize("tokens", [37_449, 37_450, 56_000])
    def test_the_whole_chain(self, tokens: int) -> None:
        """sglang#4727 and #4856: H 7168, top-k 8, S x H past 2^31, all tokens on the same experts."""
        shape = LayerShape("deepseek-rows", 8, 8, 7168, 256)
        layer = GpuLayer.make(Fp8Channel, shape, tokens)
        pool = Rows.draw(shape, tokens)
        out, _ = layer(pool)
        assert torch.equal(out[-8:], assert_right(layer, pool[tokens - 8 :]))

    def test_the_last_expert_of_a_weight_stack(self) -> None:
        """Liger-Kernel#1296: 64 experts of 2 x 14336 x 4096 are 7.5e9 elements."""
        shape = LayerShape("tall-stack", 64, 1, 4096, 14336)
        layer = GpuLayer.make(Fp8Channel, shape, 4)
        rows = Rows.draw(shape, 4, "all-to-last")
        assert_right(layer, rows)


def test_the_check_sees_one_wrong_thing(qwen: GpuLayer) -> None:
    """One row of x, one block of K, one scale: each is seen by the stage it touches."""
    rows = Rows.draw(QWEN3_30B, 300, seed=5)
    assert_right(qwen, rows)
    expert = int(rows.ids[7, 0])
    assert isinstance(qwen.gate_up, Fp8Channel)
    assert isinstance(qwen.down, Fp8Channel)
    broken: dict[str, Callable[[Fp8Channel, Fp8Channel], object]] = {
        "k-block": lambda w1, w2: w1.data.view(torch.uint8)[expert, :, 128:256].zero_(),
        "expert": lambda w1, w2: w2.data.view(torch.uint8)[expert].zero_(),
        "scale": lambda w1, w2: w2.scale[expert, ::64].mul_(2),
    }
    for breaks in broken.values():
        w1 = Fp8Channel(qwen.gate_up.data.clone(), qwen.gate_up.scale.clone())
        w2 = Fp8Channel(qwen.down.data.clone(), qwen.down.scale.clone())
        breaks(w1, w2)
        with pytest.raises(AssertionError, match="row"):
            assert_right(qwen, rows, computed_by=GpuLayer(QWEN3_30B, w1, w2, qwen.workspace))


def test_a_million_assignments_are_sorted_as_torch_sorts() -> None:
    """Class J, sglang#33511 and class A, vllm#39213: stable at 4097 x 16, and 131072 x 8 assignments, over 100 runs."""
    for tokens, top_k, experts in ((4097, 16, 128), (131_072, 8, 128), (65_536, 10, 512)):
        ids = torch.randint(-1, experts + 1, (tokens, top_k), dtype=torch.int32, device=CUDA)
        permutation = Permutation.allocate(ids.numel(), experts, CUDA)
        key = torch.where((ids < 0) | (ids >= experts), experts, ids).flatten()
        used = int((key < experts).sum())
        order = key.sort(stable=True).indices[:used].int()
        for _ in range(100):
            permutation.order.fill_(-1)
            permute(ids, experts, tile_rows=128, out=permutation)
            assert torch.equal(permutation.order[:used], order)
        counts = torch.bincount(key, minlength=experts + 1)[:experts]
        assert int(permutation.rows_in_use) == int(counts.sum())
        assert int(permutation.num_tiles) == int(((counts + 127) // 128).sum())
