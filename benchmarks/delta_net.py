"""Gated DeltaNet of one layer under graph replay: `python -m benchmarks.delta_net`.

At Qwen3.6's shape, beside the floor: the bytes that must be moved at the rate at which this card copies. Decode is timed in the midst of
a span and on its last row, where the state is written. Each is first compared with float64 on one head.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools

import torch

from benchmarks import against
from benchmarks.moe_layer import CUDA, Timing, copy_rate, replay
from benchmarks.provenance import write_result
from octavo.config.delta_shape import SPAN, DeltaShape
from octavo.ops.delta_net import DeltaPlan, DeltaWeights, StateUse, plan_delta
from octavo.ops.delta_net.cuda import delta_net
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
COLUMNS = ["call", "us", "10th to 90th percentile", "MB", "floor, us"]
LIMIT = 2.0**-7
"""Of a row's error: two roundings to bf16."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Microseconds of a call, and the bytes that it must move."""

    name: str
    timing: Timing
    num_bytes: float

    def row(self, copied_per_s: float) -> list[object]:
        """Cells of the table."""
        return [
            self.name,
            f"{self.timing.median:.1f}",
            f"{self.timing.low:.1f} to {self.timing.high:.1f}",
            f"{self.num_bytes / 1e6:.1f}",
            f"{self.num_bytes / copied_per_s * 1e6:.1f}",
        ]


def floor_bytes(chunks: list[tuple[int, int]]) -> float:
    """Inputs and outputs once, states once where they are read or written, and the open rows before and behind each chunk."""
    heads = SHAPE.value_heads
    of_row = 2 * SHAPE.channels + 8 * heads + 2 * heads * SHAPE.value_dim
    of_open_row = 2 * (SHAPE.channels - SHAPE.queries) + 8 * heads
    total = 0.0
    for tokens, before in chunks:
        borders = (before % SPAN + tokens) // SPAN
        total += tokens * of_row + 4 * SHAPE.state_numbers * ((before > 0) + (borders > 0))
        total += of_open_row * (before % SPAN + min(tokens, (before + tokens) % SPAN))
        total += 2 * SHAPE.history_numbers * ((before > 0) + 1)
    return total


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


def measure(name: str, chunks: list[tuple[int, int]], weights: DeltaWeights) -> Measurement:
    """Time one kind of batch; each of several calls in a graph has states of its own, which the L2 cache does not hold together."""
    tokens = sum(count for count, _ in chunks)
    copies = 1 if len(chunks) * tokens > 4096 else max(1, min(32, 128 // len(chunks)))
    inputs = draw_inputs(tokens)
    states = torch.zeros((copies * len(chunks), SHAPE.state.numbers), device=CUDA)
    starts = list(itertools.accumulate((count for count, _ in chunks), initial=0))
    ends = [before + count for count, before in chunks]

    def plan(copy: int) -> DeltaPlan:
        places = range(copy * len(chunks), (copy + 1) * len(chunks))
        uses = [StateUse(place if before else -1, place) for place, (_, before) in zip(places, chunks, strict=True)]
        return plan_delta(uses, starts, ends, CUDA)

    calls = [functools.partial(delta_net, *inputs, weights, states, plan(copy), SHAPE) for copy in range(copies)]
    return Measurement(name, replay(calls, 20), floor_bytes(chunks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="delta_net", help="file of the result in benchmarks/results")
    args = against.parse_args(parser, "delta_net")
    torch.manual_seed(0)
    copied_per_s, weights = copy_rate(), draw_weights()
    check(weights)
    found = []
    for name, chunks in CHUNKS.items():
        found.append(measure(name, chunks, weights))
        print(*found[-1].row(copied_per_s), sep="\t", flush=True)
    path = write_result(
        args.name,
        title="Gated DeltaNet at Qwen3.6-35B-A3B's shape",
        conditions=f"{SHAPE.key_heads} key heads and {SHAPE.value_heads} value heads of {SHAPE.key_dim}, convolution of {SHAPE.taps}; one "
        "layer between its projections, under graph replay. The floor is what must be read and written, at this card's rate of "
        f"{copied_per_s / 1e12:.2f} TB/s (copied, read and written).",
        columns=COLUMNS,
        rows=[one.row(copied_per_s) for one in found],
        raw=[dataclasses.asdict(one) for one in found],
    )
    print(path.name)


if __name__ == "__main__":
    main()
