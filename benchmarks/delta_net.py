"""Gated DeltaNet of one layer under graph replay: `python -m benchmarks.delta_net`, or to choose constants

    python -m benchmarks.delta_net --only decode --tiles 2 4 --channels 512 --chunks
    python -m benchmarks.delta_net --only prefill --stages 3 4
    python -m benchmarks.delta_net --peer vllm.json      beside what `benchmarks.peers.vllm_delta_net` wrote on this card

At Qwen3.6's shape, beside the floor: the bytes that must be moved at the rate at which this card copies. Decode is timed in the midst of
a span and on its last row, where the state is written. A request is first compared with float64, and token by token with itself; of what
that gives a SHA-256 is printed, by which the bits of two trees are told apart. Other ways must have the bits of the first.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import against
from benchmarks.measurement import COLUMNS, CUDA, Measurement, copy_rate, replay
from benchmarks.peers.about import name_of
from benchmarks.provenance import write_result
from benchmarks.step_floor import state_bytes
from octavo.config.delta_shape import SPAN, DeltaShape
from octavo.ops.delta_net import DeltaPlan, DeltaWeights, StateUse, plan_delta
from octavo.ops.delta_net.cuda import delta_net
from octavo.ops.delta_net.layer import split_states
from octavo.ops.delta_net.reference import delta_net_reference

SHAPE = DeltaShape(key_heads=16, value_heads=32, key_dim=128, value_dim=128, taps=4)
MIDST, LAST = 7, SPAN - 1
CHUNKS: dict[str, list[tuple[int, int]]] = {
    **{
        f"decode, {count} requests, {where}": [(1, 1008 + before)] * count
        for count in (1, 8, 64, 256)
        for where, before in (("row 8 of 16", MIDST), ("row 16 of 16", LAST))
    },
    "prefill 8192": [(8192, 0)],
    "prefill 8 x 1001": [(1001, 0)] * 8,
    "prefill 8 x 1001 beside 64 decodes": [(1001, 0)] * 8 + [(1, 1008 + MIDST)] * 64,
}
"""Name to (tokens, tokens before them) of each chunk."""
BY_KEY_HEAD = ", by key head"
"""How the name of a way ends whose inputs lie so, with gates behind them, as Qwen3-Next's projection gives them."""
AS_CHUNKS = ", as chunks"
"""How the name of a way ends in which single rows are computed as chunks are."""
LIMIT = 2.0**-7
"""Of a row's error: two roundings to bf16."""


def floor_bytes(chunks: list[tuple[int, int]]) -> float:
    """Inputs and outputs once, states once where they are read or written, and the open rows before and behind each chunk."""
    heads = SHAPE.value_heads
    of_row = 2 * SHAPE.channels + 8 * heads + 2 * heads * SHAPE.value_dim
    return state_bytes(SHAPE, chunks) + of_row * sum(tokens for tokens, _ in chunks)


def draw_weights() -> DeltaWeights:
    """Taps of order one; states that halve in some ten tokens."""
    taps = torch.randn((SHAPE.channels, SHAPE.taps), device=CUDA).bfloat16()
    return DeltaWeights(
        taps, torch.randn(SHAPE.value_heads, device=CUDA) - 3.0, torch.randn(SHAPE.value_heads, device=CUDA)
    )


def draw_inputs(tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the projections give of so many tokens."""
    qkv = torch.randn((tokens, SHAPE.channels), device=CUDA).bfloat16()
    write, decay = torch.randn((2, tokens, SHAPE.value_heads), device=CUDA)
    return qkv, write, decay


def by_key_head(
    qkv: torch.Tensor, write: torch.Tensor, decay: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `draw_inputs` gives, by key head."""
    heads = SHAPE.key_heads
    values = SHAPE.value_heads * SHAPE.value_dim
    parts = [part.unflatten(1, (heads, -1)) for part in qkv.split([SHAPE.queries, SHAPE.queries, values], dim=1)]
    write, decay = torch.cat([part.unflatten(1, (heads, -1)) for part in (write, decay)], dim=2).chunk(2, dim=2)
    return torch.cat([*parts, torch.zeros_like(parts[-1])], dim=2), write, decay


def check(weights: DeltaWeights) -> None:
    """A request in two chunks against float64. Raises: AssertionError where a row differs by more than two roundings."""
    tokens, first = 75, 41
    inputs, states = draw_inputs(tokens), torch.full((1, SHAPE.state.numbers), torch.nan, device=CUDA)
    parts = []
    for begin, end in ((0, first), (first, tokens)):
        plan = plan_delta([StateUse(0 if begin else -1, 0)], (0, end - begin), (end,), CUDA)
        qkv, write, decay = (part[begin:end].contiguous() for part in inputs)
        parts.append(delta_net(qkv, write, decay, weights, states, plan, SHAPE))
    exact = delta_net_reference(*inputs, weights, SHAPE)[0]
    given = torch.cat(parts).view(exact.shape).double()
    error = ((given - exact).norm(dim=-1) / exact.norm(dim=-1)).max()
    assert float(error) < LIMIT, f"a row differs by {float(error):.3g}"


def digest(weights: DeltaWeights) -> str:
    """SHA-256 of what two requests give in chunks, and of the states behind them.

    Raises: AssertionError where the second, token by token over three spans, has other bits than in one chunk.
    """
    tokens, first = 96, 41
    inputs, states = draw_inputs(tokens), torch.zeros((3, SHAPE.state.numbers), device=CUDA)

    def run(chunks: list[tuple[int, int, StateUse]]) -> torch.Tensor:
        rows = torch.cat([torch.arange(begin, end, device=CUDA) for begin, end, _ in chunks])
        starts = list(itertools.accumulate((end - begin for begin, end, _ in chunks), initial=0))
        plan = plan_delta([use for *_, use in chunks], starts, [end for _, end, _ in chunks], CUDA)
        qkv, write, decay = (part[rows] for part in inputs)
        return delta_net(qkv, write, decay, weights, states, plan, SHAPE)

    whole = run([(0, tokens, StateUse(-1, 0))])
    parts = [run([(0, first, StateUse(-1, 1)), (0, first, StateUse(-1, 2))])[:first]]
    parts += [run([(t, t + 1, StateUse(1, 1)), (t, t + 1, StateUse(2, 2))])[:1] for t in range(first, tokens)]
    assert torch.equal(torch.cat(parts), whole), "a token has other bits than in a chunk"
    memory, _, history, _ = split_states(states, SHAPE)
    found = hashlib.sha256()
    for part in (whole, memory, history):
        assert part.isfinite().all()
        found.update(part.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def as_chunks(plan: DeltaPlan) -> DeltaPlan:
    """`plan` with single rows computed as chunks are."""
    return dataclasses.replace(plan, first_single=torch.full_like(plan.first_single, len(plan.chunks)))


def draw_states(count: int) -> torch.Tensor:
    """States in the midst of a request, none of whose numbers is zero."""
    states = torch.randn((count, SHAPE.state.numbers), device=CUDA)
    _, gates, history, rows = split_states(states, SHAPE)
    gates.sigmoid_()
    history.normal_()
    rows.normal_()
    return states


def measure(
    name: str, chunks: list[tuple[int, int]], weights: DeltaWeights, ways: Mapping[str, dict[str, Any]]
) -> list[Measurement]:
    """Time one kind of batch in several ways; each of several calls in a graph has states of its own, which the L2 cache does not hold
    together. Raises: AssertionError where the bits of two ways differ."""
    tokens = sum(count for count, _ in chunks)
    copies = 1 if len(chunks) * tokens > 4096 else max(1, min(32, 128 // len(chunks)))
    inputs, states = draw_inputs(tokens), draw_states(copies * len(chunks))
    starts = list(itertools.accumulate((count for count, _ in chunks), initial=0))
    ends = [before + count for count, before in chunks]

    def plan(copy: int) -> DeltaPlan:
        places = range(copy * len(chunks), (copy + 1) * len(chunks))
        uses = [StateUse(place if before else -1, place) for place, (_, before) in zip(places, chunks, strict=True)]
        return plan_delta(uses, starts, ends, CUDA)

    plans, found = [plan(copy) for copy in range(copies)], []
    expected: tuple[torch.Tensor, torch.Tensor] | None = None
    before = states[: len(chunks)].clone()
    for way, options in ways.items():
        own = [as_chunks(each) for each in plans] if way == AS_CHUNKS else plans
        given_inputs = by_key_head(*inputs) if way == BY_KEY_HEAD else inputs
        calls = [functools.partial(delta_net, *given_inputs, weights, states, each, SHAPE, **options) for each in own]
        states[: len(chunks)] = before
        given = calls[0](), states[: len(chunks)].clone()
        expected = given if expected is None else expected
        # as integers: a NaN is equal to itself
        assert torch.equal(given[0], expected[0]), f"{name}{way} has other bits"
        assert torch.equal(given[1].view(torch.int32), expected[1].view(torch.int32)), f"{name}{way} keeps other bits"
        found.append(Measurement(name + way, replay(calls, 20), floor_bytes(chunks)))
    return found


def ways_of(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What a row's name ends in, and the options of `delta_net`: its own, and those that were asked for."""
    found: dict[str, dict[str, Any]] = {"": {}}
    found |= {f", {tiles} tiles": {"tiles": tiles} for tiles in args.tiles}
    found |= {f", {channels} channels": {"channels": channels} for channels in args.channels}
    found |= {f", {stages} stages": {"stages": stages} for stages in args.stages}
    found |= {AS_CHUNKS: {}} if args.chunks else {}
    found |= {BY_KEY_HEAD: {}} if args.by_key_head else {}
    return found


def beside(name: str, us: float, peers: Sequence[Mapping[str, Any]]) -> list[object]:
    """More cells: the median time of each of the `peers`, and ours over the least of theirs; a peer's decode is the same at every row."""
    times = [
        [statistics.median(each) for its, each in peer["us"].items() if name == its or name.startswith(f"{its}, ")]
        for peer in peers
    ]
    least = min((found[0] for found in times if found), default=None)
    cells = [f"{found[0]:.1f}" if found else "" for found in times]
    return [*cells, *(["" if least is None else f"{us / least:.2f}"] if peers else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="delta_net", help="file of the result in benchmarks/results")
    parser.add_argument("--only", nargs="*", default=[""], help="how the names of what is measured begin; default: all")
    parser.add_argument("--tiles", type=int, nargs="*", default=[], help="of a program of single rows, beside its own")
    parser.add_argument("--channels", type=int, nargs="*", default=[], help="of a program of the convolution")
    parser.add_argument("--stages", type=int, nargs="*", default=[], help="spans of a chunk on their way or in use")
    parser.add_argument("--chunks", action="store_true", help="single rows computed as chunks are")
    parser.add_argument(
        "--by-key-head", action="store_true", help="inputs by key head, as Qwen3-Next's projection gives them"
    )
    parser.add_argument("--peer", type=Path, nargs="*", default=[], help="what scripts of benchmarks/peers wrote")
    args = against.parse_args(parser, "delta_net")
    peers = [json.loads(path.read_text()) for path in args.peer]
    torch.manual_seed(0)
    copied_per_s, weights = copy_rate(), draw_weights()
    check(weights)
    print("bits", digest(weights), flush=True)
    found: list[Measurement] = []
    for name, chunks in CHUNKS.items():
        if name.startswith(tuple(args.only)):
            new = measure(name, chunks, weights, ways_of(args))
            found.extend(new)
            print(*("\t".join(map(str, one.row(copied_per_s))) for one in new), sep="\n", flush=True)
    rows = [[*one.row(copied_per_s), *beside(one.name, one.timing.median, peers)] for one in found]
    path = write_result(
        args.name,
        title="Gated DeltaNet at Qwen3.6-35B-A3B's shape",
        conditions=f"{SHAPE.key_heads} key heads and {SHAPE.value_heads} value heads of {SHAPE.key_dim}, convolution of {SHAPE.taps}; one "
        "layer between its projections, under graph replay. The floor is what must be read and written, at this card's rate of "
        f"{copied_per_s / 1e12:.2f} TB/s (copied, read and written).",
        columns=[*COLUMNS, *map(name_of, peers), *(["ratio"] if peers else [])],
        rows=rows,
        raw=[*(dataclasses.asdict(one) for one in found), *peers],
    )
    print(path.name)


if __name__ == "__main__":
    main()
