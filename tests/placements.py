"""Calls of every operation, small enough to be made many times: what is placed at the edges of mappings."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from cases import QWEN3_30B, ROUTINGS, SMALL, SMALL_HEADS, LayerShape
from guard_pages import Scenario
from octavo.ops.activations import FP8, GroupScaled, TokenScaled, Unscaled
from octavo.ops.adjust import AdjustSettings
from octavo.ops.adjust.cuda import cuda_adjust
from octavo.ops.delta_net import DeltaPlan, StateUse, plan_delta
from octavo.ops.delta_net.cpu import CpuDeltaNet
from octavo.ops.delta_net.cuda import delta_net
from octavo.ops.delta_net.layer import split_states
from octavo.ops.draw import DrawSettings
from octavo.ops.draw.cuda import cuda_draw, draw_sorted
from octavo.ops.draw.select import select
from octavo.ops.experts.combine import combine
from octavo.ops.experts.cuda import KernelExperts
from octavo.ops.experts.grouped_gemm import (
    PersistentTile,
    Tile,
    grouped_gemm,
    grouped_gemm_swiglu,
    grouped_gemm_swiglu_quantize,
)
from octavo.ops.experts.grouped_gemm.choice import rounds
from octavo.ops.experts.moe import moe, moe_workspace
from octavo.ops.experts.permute import Permutation, most_apart, permute
from octavo.ops.experts.route import MAX_TOP_K, route
from octavo.ops.experts.rules import RoutingRule, SharedRule, SigmoidRule, SoftmaxRule
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static
from octavo.ops.gates.cuda import MAX_WIDTH, add_share, gate_heads, gate_norm, swiglu
from octavo.ops.inputs import Inputs
from octavo.ops.largest.cuda import cuda_largest
from octavo.ops.linear.cuda import KernelLinear
from octavo.ops.linear.dense_gemm import AnyTile, DenseTile, EarlyTile, dense_gemm
from octavo.ops.norm.cpu import rms_norm
from octavo.ops.norm.cuda import add_norm, cuda_rms_norm
from octavo.ops.peak.cuda import cuda_peak
from octavo.ops.persistent import runs_persistent_kernels
from octavo.ops.quantize.cuda import (
    quantize,
    quantize_groups,
    quantize_static,
    swiglu_quantize,
)
from octavo.ops.rotary import rotary
from octavo.ops.weighted_sum import Addend, WeightedSum
from ops.delta_net.draws import SHAPES as DELTA_SHAPES
from ops.delta_net.draws import Tokens as DeltaTokens
from ops.delta_net.draws import draw_weights
from ops.experts.test_grouped_gemm import down_case, gate_up_case
from ops.linear.test_dense_gemm import Case as Product
from ops.prepare_qkv.test_prepare_qkv import Case as AttentionInput
from placed_model import attention, attention_inputs, model, real_attention

FORMATS = [Fp8Channel, Fp8Static, Fp8Block, Bf16]
ODD = LayerShape("odd", 3, 2, 37, 19)
"""No size is a multiple of anything: no bulk copies, no vectors."""
MANY_TILES = LayerShape("many-tiles", 8, 2, 256, 96)
"""Of the permutation of 8 tokens there are 9 entries: no multiple of the tiles whose programs run next to each other."""
NARROW_TILES = LayerShape("narrow-tiles", 8, 2, 128, 32)
"""The same for the interpreter."""
WHOLE_STEPS = LayerShape("whole-steps", 8, 2, 256, 128)
"""What persistent tiles can make."""


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def _count(number: int, device: torch.device) -> torch.Tensor:
    return torch.tensor([number], dtype=torch.int32, device=device)


def _peak(rows: torch.Tensor) -> list[torch.Tensor]:
    found = cuda_peak(rows)
    assert found.column is not None
    return [found.finite, found.highest, found.column]


def _draw(logits: torch.Tensor, values: torch.Tensor) -> list[torch.Tensor]:
    settings = DrawSettings(values)
    drawn = [cuda_draw(logits, settings), *([select(logits, settings, room=8)] if len(logits) < 100 else [])]
    return [*drawn, draw_sorted(logits, cuda_largest(logits, 2), settings)] if logits.shape[1] > 300 else drawn


def _adjust(logits: torch.Tensor, counts: torch.Tensor, *settings: torch.Tensor) -> list[torch.Tensor]:
    return [cuda_adjust(logits, counts, AdjustSettings(*settings), out=torch.empty_like(logits))]


def _counts(rows: int, device: torch.device) -> list[tuple[int, torch.Tensor | None]]:
    """How many rows are in use, and the tensor that says so: all of them without one, and all but one."""
    return [(rows, None), (rows - 1, _count(rows - 1, device))]


def rows(device: torch.device) -> Iterator[Scenario]:
    """Norm, quantization and rotation: operations on rows."""
    sizes = [(2, 301)]
    if device.type == "cuda":
        sizes += [(3, 37), (33, 2048), (7, 1001), (2049, 37)]
    for tokens, width in sizes:
        x, weight = (_noise(*shape).bfloat16().to(device) for shape in ((tokens, width), (width,)))
        gate_up, scale = _noise(tokens, 2 * width).bfloat16().to(device), torch.tensor([0.03], device=device)
        label = f"{tokens}x{width}"
        yield Scenario(f"rms_norm {label}", (x, weight), lambda x, w: [cuda_rms_norm(x, w, 1e-6), rms_norm(x, w, 1e-6)])
        settings = torch.rand((5, tokens), dtype=torch.float64).to(device)
        settings[0] += 0.1
        settings[2] = width // 3
        yield Scenario(f"draw {label}", (_noise(tokens, width).to(device), settings), _draw)
        allowed = torch.randint(256, (1, -(-width // 8)), dtype=torch.uint8).to(device)
        places = torch.arange(tokens, dtype=torch.int32).to(device) % 3 - 1
        held = torch.ones((2, width), dtype=torch.int32, device=device)
        logits, penalties = _noise(tokens, width).to(device), torch.rand((3, tokens), dtype=torch.float64).to(device)
        yield Scenario(f"adjust {label}", (logits, held, penalties, places, allowed, 1 - places), _adjust)
        if width > 300:
            yield Scenario(f"largest {label}", (_noise(tokens, width).to(device),), lambda x: [cuda_largest(x, 2)])
        yield Scenario(f"add_norm {label}", (x, x * 2, weight), _add_norm)
        yield Scenario(
            f"gates {label}", (x, x[:, None] * 2, weight, gate_up.float(), settings[0, :, None].float()), _gates
        )
        for number, used in _counts(tokens, device):
            yield Scenario(f"quantize {label} {number}", (x, scale, used), _quantize)
            yield Scenario(f"swiglu_quantize {label} {number}", (gate_up, used), _swiglu_quantize)
    for kind in (torch.float32, torch.bfloat16):
        for width in (301, 9001):  # by one program, and by several
            yield Scenario(f"peak {kind} {width}", (_noise(3, width).to(kind).to(device),), _peak)
    for shape in SMALL_HEADS:
        case = AttentionInput.draw(5, shape, seed=1)
        turned = (
            case.qkv.to(device),
            dataclasses.replace(case.rows, cos=case.rows.cos.to(device), sin=case.rows.sin.to(device)),
        )
        yield Scenario(f"rotary {shape.name}", turned, lambda x, table: [rotary(x, table)])


def _tensors(made: Inputs) -> list[torch.Tensor]:
    return [made.bf16] if made.scaled is None else [made.scaled.data, made.scaled.scale]


def _gates(
    x: torch.Tensor, gates: torch.Tensor, weight: torch.Tensor, gate_up: torch.Tensor, logits: torch.Tensor
) -> list[torch.Tensor]:
    by_heads = []
    if gates.shape[2] <= MAX_WIDTH:
        by_groups = gates.unflatten(1, (-1, 2 if gates.shape[1] % 2 == 0 else 1))
        made = [
            gate_norm(x, each, weight, 1e-6, form) for each in (gates, by_groups) for form in (Unscaled, GroupScaled)
        ]
        made += [gate_heads(x, gates, form) for form in (Unscaled, GroupScaled)]
        by_heads = [part for each in made for part in _tensors(each)]
    return [*by_heads, swiglu(gate_up), add_share(x, gates[:, 0], logits), add_share(x, gates[:, 0], None)]


def _quantize(x: torch.Tensor, scale: torch.Tensor, used: torch.Tensor | None) -> list[torch.Tensor]:
    parts = (
        quantize(x, rows_in_use=used),
        quantize_groups(x, rows_in_use=used),
        quantize_static(x, scale, rows_in_use=used),
    )
    return [tensor for part in parts for tensor in (part.data, part.scale)]


def _add_norm(x: torch.Tensor, change: Addend, weight: torch.Tensor) -> list[torch.Tensor]:
    tensors = []
    for form in (TokenScaled, GroupScaled):
        total, out = add_norm(x, change, weight, 1e-6, forms=frozenset({form, Unscaled}))
        assert out.scaled is not None
        tensors += [total, out.bf16, out.scaled.data, out.scaled.scale]
    return tensors


def _add_norm_of_parts(
    x: torch.Tensor, y: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, weight: torch.Tensor, experts: int,
    used: torch.Tensor | None,
) -> list[torch.Tensor]:  # fmt: skip
    return _add_norm(x, WeightedSum(y, ids, weights, experts, used), weight)


def _swiglu_quantize(gate_up: torch.Tensor, used: torch.Tensor | None) -> list[torch.Tensor]:
    scaled = swiglu_quantize(gate_up, rows_in_use=used)
    return [scaled.data, scaled.scale]


def _routings(device: torch.device) -> Iterator[tuple[str, int, torch.Tensor]]:
    """A name, how many experts there are, and ids (T, K) of some of them and of others."""
    sizes = [(5, 8, 2), (3, 60, 4), (513, 8, 2)]
    sizes += [(1, 1, 1), (7, 257, 8), (8193, 128, 8)] if device.type == "cuda" else []
    for tokens, experts, top_k in sizes:
        drawn = torch.Generator().manual_seed(tokens)
        ids = ROUTINGS["sentinels"](tokens, experts, top_k, drawn).to(device)
        yield f"{tokens}x{experts} top-{top_k}", experts, ids


def routing(device: torch.device) -> Iterator[Scenario]:
    """The router and the weighted sum: a program for each row."""
    for label, experts, ids in _routings(device):
        tokens, top_k = ids.shape
        if device.type == "cpu" and tokens > 100:
            continue
        logits, weights = _noise(tokens, experts).to(device), _noise(tokens, top_k).to(device)
        y = _noise(tokens * top_k, 37).bfloat16().to(device)
        x, norm = (_noise(*shape).bfloat16().to(device) for shape in ((tokens, 37), (37,)))
        for number, used in _counts(tokens, device):
            yield Scenario(f"route {label} {number}", (logits, top_k, used), _route)
            yield Scenario(f"combine {label} {number}", (y, ids, weights, experts, used), _combine)
            for slack in (0, 7):
                few = logits[: most_apart(top_k, experts)]
                yield Scenario(
                    f"route {len(few)} of {label} {number} slack {slack}", (few, top_k, slack, used), _route_apart
                )
            placed = (x, y, ids, weights, norm, experts, used)
            yield Scenario(f"add_norm of parts {label} {number}", placed, _add_norm_of_parts)


def sorting(device: torch.device) -> Iterator[Scenario]:
    """The permutation of the experts' products, of few assignments and of many, in memory of just its size and in more."""
    for label, experts, ids in _routings(device):
        for (number, used), slack in zip(_counts(len(ids), device), (0, 7), strict=True):
            yield Scenario(f"permute {label} {number} slack {slack}", (ids, experts, slack, used), _permute)
            if used is not None:
                yield Scenario(f"permute {label} {number}", (ids, experts, 0, used), _permute)


def _route(logits: torch.Tensor, top_k: int, used: torch.Tensor | None) -> list[torch.Tensor]:
    bias = torch.zeros(logits.shape[1], device=logits.device)
    rules: tuple[RoutingRule, ...] = (SoftmaxRule(top_k, True), SigmoidRule(top_k, True, bias))
    if top_k < min(MAX_TOP_K, logits.shape[1]):  # the last logit as that of a shared expert
        rules += (
            SharedRule(SoftmaxRule(top_k, True), gated=True),
            SharedRule(SigmoidRule(top_k, True, bias), gated=False),
        )
    outs = [route(x, rule, rows_in_use=used) for x in (logits, logits.bfloat16()) for rule in rules]
    return [tensor for out in outs for tensor in (out.ids, out.weights, out.flags)]


def _route_apart(logits: torch.Tensor, top_k: int, slack: int, used: torch.Tensor | None) -> list[torch.Tensor]:
    permutation = Permutation.allocate(len(logits) * top_k + slack, logits.shape[1], logits.device)
    out = route(logits, SoftmaxRule(top_k, True), rows_in_use=used, permutation=permutation)
    return [out.ids, out.weights, out.flags, *_permuted(permutation)]


def _permute(ids: torch.Tensor, experts: int, slack: int, used: torch.Tensor | None) -> list[torch.Tensor]:
    permutation = Permutation.allocate(ids.numel() + slack, experts, ids.device)
    permute(ids, experts, tile_rows=16, rows_in_use=used, out=permutation)
    return _permuted(permutation)


def _permuted(permutation: Permutation) -> list[torch.Tensor]:
    return [permutation.order, permutation.rows_in_use, permutation.tiles, permutation.num_tiles]


def _combine(
    y: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, experts: int, used: torch.Tensor | None
) -> list[torch.Tensor]:
    out, flags = y.new_empty((len(ids), y.shape[1])), torch.empty(len(ids), dtype=torch.bool, device=y.device)
    return [combine(y, ids, weights, experts, out=out, flags=flags, rows_in_use=used), flags]


def delta(device: torch.device) -> Iterator[Scenario]:
    """Gated DeltaNet: chunks that begin, go on, and keep a state, beside single rows in the midst of a span and at its end, and a
    line that is not in use. Where kernels are interpreted, a shape has one of three forms, in turn."""
    for number, (name, shape) in enumerate(DELTA_SHAPES.items()):
        tokens, weights = DeltaTokens.draw(23, shape, seed=1), draw_weights(shape)
        uses = [StateUse(4, 4), StateUse(-1, 1), StateUse(2, 0, keep=3, keep_after=2), StateUse(5, 5)]
        plan = plan_delta(uses, (0, 1, 5, 22, 23), (8, 4, 31, 16), torch.device("cpu"))
        chunks, spans = (
            torch.cat((part, torch.full_like(part[:1], -1))).to(device) for part in (plan.chunks, plan.spans)
        )
        plan = DeltaPlan(chunks, plan.first_single.to(device), spans)
        inputs = [part.to(device) for part in vars(tokens).values()]
        weights = type(weights)(*(part.to(device) for part in vars(weights).values()))
        states = torch.zeros((6, shape.state.numbers), device=device)
        for kept in split_states(states, shape):
            kept.copy_(_noise(*kept.shape).abs_().clamp_(max=1.0))
        by_head = [part.unflatten(1, (shape.key_heads, -1)).contiguous() for part in inputs]
        forms = [("1 tile", inputs, 1), ("2 tiles", inputs, 2), ("by key head", by_head, 1)]
        for form, given, tiles in forms if device.type == "cuda" else [forms[number % len(forms)]]:
            yield Scenario(f"delta_net {name}, {form}", (shape, weights, given, states.clone(), plan, tiles), _delta)


def _delta(shape: Any, weights: Any, inputs: Any, states: torch.Tensor, plan: Any, tiles: int) -> list[torch.Tensor]:
    qkv, write, decay = inputs
    own, cpu = states.clone(), CpuDeltaNet(shape, weights)
    out = delta_net(qkv, write, decay, weights, states, plan, shape, tiles=tiles)
    return [out, states, cpu(qkv, write, decay, own, plan), own]


def grouped(device: torch.device, kind: type) -> Iterator[Scenario]:
    """Both grouped products of a format."""
    calls: list[tuple[LayerShape, int, Tile | PersistentTile]] = [(ODD, 5, Tile(16, 64, 4, 3))]
    if kind is Fp8Block:
        calls.append((ODD, 5, Tile(16, 128, 4, 3)))
    if device.type == "cpu" and kind is Fp8Channel:
        calls += [(NARROW_TILES, 8, Tile(16, 64, 4, 3)), (NARROW_TILES, 8, Tile(16, 64, 4, 3, tma=True))]
    elif device.type == "cuda":
        calls += [(MANY_TILES, 8, Tile(16, 64, 4, 3)), (MANY_TILES, 8, Tile(16, 64, 4, 3, tma=True))]
        calls += [(shape, 17, Tile(16, 64, 4, 3)) for shape in SMALL]
        calls += [(ODD, 21, Tile(32, 64, 4, 3, max_halvings=1)), (MANY_TILES, 301, Tile(64, 64, 4, 3, True, 2))]
        calls += [(WHOLE_STEPS, tokens, PersistentTile()) for tokens in (8, 301)]
    for shape, tokens, tile in calls:
        label = f"{kind.__name__} {shape.name} T={tokens} {tile}"
        if _makes(tile, kind, gated=True):
            up = gate_up_case(kind, shape, tokens, "uniform", device)
            yield Scenario(f"grouped_gemm_swiglu {label}", (up.x, up.w, up.ids, tile), _gate_up)
        if _makes(tile, kind, gated=False):
            down = down_case(kind, shape, tokens, "uniform", device)
            yield Scenario(f"grouped_gemm {label}", (down.x, down.w, down.ids, tile), _down)


def _makes(tile: Tile | PersistentTile, kind: type, *, gated: bool) -> bool:
    return isinstance(tile, Tile) or kind.__name__ in tile.formats(gated=gated)


def _gate_up(x: Any, w: Any, ids: torch.Tensor, tile: Tile | PersistentTile) -> list[torch.Tensor]:
    experts, rows, _ = w.data.shape
    permutation = permute(ids, experts, tile_rows=tile.rows, out=Permutation.allocate(ids.numel(), experts, ids.device))
    sizes: dict[str, Any] = {"top_k": ids.shape[1], "assignments": ids.numel()}
    if isinstance(w, Fp8Block) and rounds(tile, w):
        data = torch.zeros((ids.numel(), rows // 2), dtype=FP8, device=ids.device)
        codes = GroupScaled(data, torch.empty(GroupScaled.scale_shape(*data.shape), device=ids.device))
        grouped_gemm_swiglu_quantize(x, w, permutation, tile=tile, out=codes, **sizes)
        return [codes.data.view(torch.uint8), codes.scale]
    out = torch.empty((ids.numel(), rows // 2), dtype=torch.bfloat16, device=ids.device)
    return [grouped_gemm_swiglu(x, w, permutation, tile=tile, out=out, **sizes)]


def _down(x: Any, w: Any, ids: torch.Tensor, tile: Tile | PersistentTile) -> list[torch.Tensor]:
    experts, rows, _ = w.data.shape
    permutation = permute(ids, experts, tile_rows=tile.rows, out=Permutation.allocate(ids.numel(), experts, ids.device))
    out = torch.empty((ids.numel(), rows), dtype=torch.bfloat16, device=ids.device)
    return [grouped_gemm(x, w, permutation, tile=tile, out=out, assignments=ids.numel())]


def dense(device: torch.device, kind: type) -> Iterator[Scenario]:
    """Linear layers of a format, and the same as a model calls them."""
    sizes = [(1, 80, 128), (5, 70, 19)]
    if device.type == "cuda":
        sizes += [(37, 200, 72), (1, 1, 256), (17, 80, 2048), (257, 331, 208)]
    for rows, columns, width in sizes:
        case = Product.draw(kind, rows, columns, width, device, bias=True)
        tiles: list[AnyTile | None] = [None]
        if width % 128 == 0:
            tiles.append(DenseTile(64, 64, 4, 3, tma=True))
        for tile in tiles:
            label = f"{kind.__name__} {rows}x{columns}x{width} {tile}"
            yield Scenario(f"dense_gemm {label}", (case.x, case.w, tile), _dense)
        x = _noise(rows, width).bfloat16().to(device)
        yield Scenario(f"linear {kind.__name__} {rows}x{columns}x{width}", (x, case.w), _linear)
    if device.type == "cuda" and _makes(PersistentTile(), kind, gated=False):
        for rows in (1, 40, 257):
            case = Product.draw(kind, rows, 512, 256, device)
            yield Scenario(f"dense_gemm {kind.__name__} {rows}, persistent", (case.x, case.w, PersistentTile()), _dense)
    if runs_persistent_kernels(device):
        for rows, columns, width, tile in (
            (1, 80, 128, EarlyTile(16, 1)),
            (5, 513, 2048, EarlyTile(16, 2)),
            (33, 64, 640, EarlyTile(64, 3)),
            (127, 200, 1280, EarlyTile(128, 1)),
            # several tiles of rows, the last of which has some past the end, or one that is there
            (37, 80, 256, EarlyTile(16, 2, 2)),
            (201, 513, 2048, EarlyTile(64, 3)),
            (65, 200, 640, EarlyTile(64, 2, 1)),
        ):
            case = Product.draw(kind, rows, columns, width, device, bias=True)
            yield Scenario(
                f"dense_gemm {kind.__name__} {rows}x{columns}x{width} {tile}", (case.x, case.w, tile), _dense
            )


def _dense(x: Any, w: Any, tile: AnyTile | None) -> list[torch.Tensor]:
    shape, device = (len(x.data), len(w.data)), w.data.device
    kinds = (torch.bfloat16,) if isinstance(tile, PersistentTile) else (torch.bfloat16, torch.float32)
    return [dense_gemm(x, w, out=torch.empty(shape, dtype=kind, device=device), tile=tile) for kind in kinds]


def _linear(x: torch.Tensor, w: Any) -> list[torch.Tensor]:
    layer = KernelLinear(w)
    return [layer(x), layer.float32(x)]


def experts(device: torch.device, kind: type) -> Iterator[Scenario]:
    """The expert layer as a whole, in a workspace of just its size and in a larger one."""
    calls = [(ODD, 3)]
    if device.type == "cuda":
        calls += [(MANY_TILES, 8), (SMALL[3], 17)]
    if device.type == "cuda" and kind is Fp8Channel:
        calls += [(SMALL[2], 17), (SMALL[5], 17), (MANY_TILES, 129), (MANY_TILES, 1025)]
    for shape, tokens in calls:
        up, down = (make(kind, shape, 1, "uniform", device).w for make in (gate_up_case, down_case))
        x = (_noise(tokens, shape.hidden) / 4).bfloat16().to(device)
        label = f"{kind.__name__} {shape.name} T={tokens}"
        for routing, slack, used in (("uniform", 0, None), ("sentinels", 3, _count(tokens, device))):
            drawn = torch.Generator().manual_seed(tokens)
            ids = ROUTINGS[routing](tokens, shape.experts, shape.top_k, drawn).to(device)
            weights = torch.rand((tokens, shape.top_k), generator=drawn).to(device)
            if device.type == "cuda" or slack == 0:
                yield Scenario(f"moe {label} {routing}", (x, ids, weights, up, down, slack, used), _moe)
        if kind in (Fp8Channel, Bf16):
            logits = _noise(tokens, shape.experts).to(device)
            yield Scenario(f"experts {label}", (x, logits, up, down, shape), _experts)


def real_experts(device: torch.device) -> Iterator[Scenario]:
    """The expert layer of Qwen3-30B-A3B, with the tiles of its table."""
    from layer import GpuLayer, Rows  # for a GPU alone

    layer = GpuLayer.make(Fp8Channel, QWEN3_30B, 1)
    for tokens in (1, 3, 33, 300, 2049):
        drawn = Rows.draw(QWEN3_30B, tokens)
        args = (drawn.x, drawn.ids, drawn.weights, layer.gate_up, layer.down, 0, None)
        yield Scenario(f"moe {QWEN3_30B.name} T={tokens}", args, _moe)


def _moe(
    x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, up: Any, down: Any, slack: int, used: Any
) -> list[torch.Tensor]:
    workspace = moe_workspace(len(x) + slack, ids.shape[1], up, down)
    out, flags = torch.empty_like(x), torch.empty(len(x), dtype=torch.bool, device=x.device)
    moe(x, ids, weights, up, down, workspace=workspace, out=out, flags=flags, rows_in_use=used)
    return [out, flags]


def _experts(x: torch.Tensor, logits: torch.Tensor, up: Any, down: Any, shape: LayerShape) -> list[torch.Tensor]:
    workspace = moe_workspace(len(x), shape.top_k, up, down)
    return [KernelExperts(up, down, SoftmaxRule(shape.top_k, True), workspace=workspace)(x, logits)]


Group = Callable[[torch.device], Iterator[Scenario]]
GROUPS: dict[str, Group] = {
    "rows": rows,
    "routing": routing,
    "sorting": sorting,
    "delta-net": delta,
    "attention-inputs": attention_inputs,
    "attention": attention,
    "model-in-graphs": functools.partial(model, graphs=True),
    **{f"dense-{kind.__name__}": functools.partial(dense, kind=kind) for kind in FORMATS},
    **{f"grouped-{kind.__name__}": functools.partial(grouped, kind=kind) for kind in FORMATS},
    **{f"experts-{kind.__name__}": functools.partial(experts, kind=kind) for kind in FORMATS},
}
GPU_GROUPS: dict[str, Group] = GROUPS | {
    "attention-of-Qwen3-30B-A3B": real_attention,
    "experts-of-Qwen3-30B-A3B": real_experts,
    "model-launched": functools.partial(model, graphs=False),
    "model-without-FP8": functools.partial(model, graphs=True, fp8=False),
}
"""Those of both, and those that are too much for the interpreter."""
