"""Paged attention under graph replay, and the dense layers around it: `python -m benchmarks.attention`.

    python -m benchmarks.attention --fixed --only "decode 1 " "decode 32 " --stages 2 4
    python -m benchmarks.attention --shape 16x2x256 --only decode prefill --warps 4       Qwen3.6 and Qwen3-Next

At Qwen3-30B-A3B's shape if not told otherwise. Attention is first compared with float32 products of the same keys and values. Each graph holds
several calls on different parts of the cache, so that short contexts are not found in the L2 cache. With `--stages` and
`--warps` all is also computed with as many tiles of keys in flight or by as many warps, and the bits must be the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks import against
from benchmarks.measurement import CUDA, Timing, copy_rate, replay
from benchmarks.provenance import write_result
from octavo.ops.activations import FP8, Unscaled
from octavo.ops.attention.cuda import (
    MAX_SPLIT_RESULTS,
    PagedPlan,
    SplitResults,
    paged_attention,
    plan_paged_attention,
)
from octavo.ops.attention.layer import AttentionShape
from octavo.ops.formats import Bf16, Fp8Channel, LinearWeight
from octavo.ops.linear.dense_gemm import dense_gemm
from octavo.ops.quantize.cuda import quantize

CHUNKS: dict[str, list[tuple[int, int]]] = {
    **{
        f"decode {count} behind {context}": [(1, context + 1)] * count
        for context in (256, 1000, 8192)
        for count in (1, 8, 16, 32, 64, 256)
    },
    "prefill 8 x 1001": [(1001, 1001)] * 8,
    "prefill 8192": [(8192, 8192)],
    "chunk of 8192 behind 23808": [(8192, 32000)],
    "chunk of 522 behind 992": [(522, 1514)],
    "8 chunks of 522 behind 992": [(522, 1514)] * 8,
    "prefill 8 x 1001 beside 64 decodes behind 1000": [(1001, 1001)] * 8 + [(1, 1001)] * 64,
}
"""Name to (tokens, context with them) of each chunk."""
WEIGHTS: dict[str, tuple[type, int, int]] = {
    "qkv": (Fp8Channel, 5120, 2048),
    "out": (Fp8Channel, 2048, 4096),
    "router": (Bf16, 128, 2048),
    "head": (Bf16, 151936, 2048),
}
"""Name to (format, N, K)."""
ROWS = {"qkv": [1, 8, 64, 256, 8192], "out": [1, 8, 64, 256, 8192], "router": [1, 64, 8192], "head": [1, 64, 256]}
BEYOND_CACHE = 150e6
"""Bytes of keys and values that a graph goes through, where that is no more than `COPIES` times what a call reads."""
COPIES = 128
MOST_TOKENS = 2**22
"""That the cache holds."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Microseconds of a call, and what it moves and computes."""

    name: str
    timing: Timing
    num_bytes: float
    operations: float

    def row(self) -> list[object]:
        """Cells of the table."""
        seconds = self.timing.median * 1e-6
        return [
            self.name,
            f"{self.timing.median:.1f}",
            f"{self.timing.low:.1f} to {self.timing.high:.1f}",
            f"{self.num_bytes / seconds / 1e12:.2f}",
            f"{self.operations / seconds / 1e12:.0f}",
        ]


COLUMNS = ["call", "us", "10th to 90th percentile", "TB/s", "TFLOP/s"]


def plans(shape: AttentionShape, chunks: list[tuple[int, int]], block_size: int) -> tuple[list[PagedPlan], int]:
    """A plan for each copy, its requests on blocks of their own in a mixed order; and how many blocks that takes."""
    needed = [-(-context // block_size) for _, context in chunks]
    tokens = sum(needed) * block_size
    count = min(COPIES, max(2, round(BEYOND_CACHE / (tokens * shape.kv_heads * shape.head_dim * 4))))
    count = max(1, min(count, MOST_TOKENS // tokens))
    blocks = torch.randperm(sum(needed) * count, generator=torch.Generator().manual_seed(0)).to(torch.int32)
    starts = tuple(itertools.accumulate((tokens for tokens, _ in chunks), initial=0))
    made = []
    pieces = iter(torch.split(blocks, needed * count))
    for _ in range(count):
        tables = torch.full((len(chunks), max(needed)), -1, dtype=torch.int32)
        for row, size in enumerate(needed):
            tables[row, :size] = next(pieces)
        made.append(
            plan_paged_attention(
                tables.to(CUDA),
                starts,
                tuple(context for _, context in chunks),
                block_size=block_size,
                heads_per_kv_head=shape.heads // shape.kv_heads,
            )
        )
    return made, len(blocks)


def check(
    queries: torch.Tensor, cache: torch.Tensor, plan: PagedPlan, chunk: tuple[int, int], out: torch.Tensor
) -> None:
    """The first chunk against float32. Raises: AssertionError where a row differs by more than 1 %."""
    tokens, context = chunk
    blocks = plan.tables[0, : -(-context // plan.block_size)].long()
    keys, values = (side[blocks].flatten(0, 1)[:context].float() for side in cache)
    hidden = torch.arange(context, device=CUDA) > torch.arange(context - tokens, context, device=CUDA)[:, None]
    heads, width = queries.shape[1:]
    for head in (0, heads - 1):
        group = head // plan.shared
        scores = queries[:tokens, head].float() @ keys[:, group].t() * width**-0.5
        exact = scores.masked_fill_(hidden, -torch.inf).softmax(-1) @ values[:, group]
        error = ((out[:tokens, head].float() - exact).norm(dim=-1) / exact.norm(dim=-1)).max()
        assert float(error) < 1e-2, f"head {head} differs by {float(error):.3g}"


def fixed(plan: PagedPlan) -> PagedPlan:
    """`plan` as a graph has it: more lines than are in use, whose number only the device knows."""
    work, small_work = (
        torch.cat((lines, lines.new_full((MAX_SPLIT_RESULTS, lines.shape[1]), -1)))
        for lines in (plan.work, plan.small_work)
    )
    merges = torch.cat((plan.merges, plan.merges.new_full((64, 4), -1)))
    counts = [len(plan.work), len(plan.small_work), len(plan.merges)]
    lines_in_use = torch.tensor(counts, dtype=torch.int32, device=CUDA)
    return dataclasses.replace(plan, work=work, small_work=small_work, merges=merges, lines_in_use=lines_in_use)


def measure_attention(
    name: str,
    shape: AttentionShape,
    chunks: list[tuple[int, int]],
    split_results: SplitResults,
    ways: Mapping[str, dict[str, Any]],
    *,
    as_graph: bool,
    block_size: int,
) -> list[Measurement]:
    """Time one kind of batch, computed in several ways. Raises: AssertionError where the bits of two ways differ."""
    made, num_blocks = plans(shape, chunks, block_size)
    heads, width = shape.heads, shape.head_dim
    made = [fixed(plan) for plan in made] if as_graph else made
    cache = torch.empty((2, num_blocks, block_size, shape.kv_heads, width), dtype=torch.bfloat16, device=CUDA).normal_()
    queries = torch.randn((sum(tokens for tokens, _ in chunks), heads, width), dtype=torch.bfloat16, device=CUDA)
    expected, out = torch.empty_like(queries), torch.empty_like(queries)
    check(queries, cache, made[0], chunks[0], paged_attention(queries, cache, made[0], split_results, out=expected))
    pairs = sum(tokens * context - tokens * (tokens - 1) // 2 for tokens, context in chunks)
    num_bytes = sum(context for _, context in chunks) * shape.kv_heads * width * 4 + 2 * queries.nbytes
    found = []
    for way, options in ways.items():
        calls = [
            functools.partial(paged_attention, queries, cache, plan, split_results, out=out, **options) for plan in made
        ]
        calls[0]()
        assert torch.equal(out, expected), f"{name}{way} has other bits"
        found.append(Measurement(name + way, replay(calls, 20), num_bytes, 4.0 * pairs * heads * width))
    return found


def measure_dense(name: str, rows: int) -> Measurement:
    """Time one linear layer, its quantisation included; the copies of a small weight do not fit the L2 cache together."""
    kind, columns, width = WEIGHTS[name]
    copies = 1 if name == "head" else 8
    weights: list[LinearWeight] = []
    for _ in range(copies):
        noise = torch.randn((columns, width), device=CUDA)
        if kind is Fp8Channel:
            weights.append(
                Fp8Channel((noise * 100).clamp_(-448, 448).to(FP8), torch.full((columns,), 1e-4, device=CUDA))
            )
        else:
            weights.append(Bf16(noise.bfloat16() / width**0.5))
    dtype = torch.bfloat16 if kind is Fp8Channel else torch.float32
    x = torch.randn((rows, width), dtype=torch.bfloat16, device=CUDA)
    out = torch.empty((rows, columns), dtype=dtype, device=CUDA)

    def call(weight: LinearWeight) -> torch.Tensor:
        return dense_gemm(quantize(x) if isinstance(weight, Fp8Channel) else Unscaled(x), weight, out=out)

    timing = replay([functools.partial(call, weight) for weight in weights], 20)
    num_bytes = weights[0].data.nbytes + x.nbytes + out.nbytes
    return Measurement(f"{name}, {rows} rows", timing, num_bytes, 2.0 * rows * columns * width)


def wanted(name: str, only: list[str]) -> bool:
    """Whether `name` begins as one of `only` does; with none, any."""
    return not only or any(name.startswith(each) for each in only)


def ways(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What a row's name ends in, and the options of `paged_attention`: the ways it chooses, and those that were asked for."""
    found: dict[str, dict[str, Any]] = {"": {}}
    found |= {f", {stages} stages": {"stages": stages} for stages in args.stages}
    return found | {f", {warps} warps": {"warps": warps} for warps in args.warps}


def shape(text: str) -> AttentionShape:
    """From HEADSxKV_HEADSxWIDTH."""
    return AttentionShape(*map(int, text.split("x")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="attention", help="file of the result in benchmarks/results")
    parser.add_argument("--stages", type=int, nargs="*", default=[], help="other depths for all tiles")
    parser.add_argument("--warps", type=int, nargs="*", default=[], help="other numbers of warps for all tiles")
    parser.add_argument("--shape", type=shape, default=shape("32x4x128"), metavar="HEADSxKV_HEADSxWIDTH")
    parser.add_argument("--fixed", action="store_true", help="plans of a fixed size, as graphs have them")
    parser.add_argument("--block-size", type=int, default=64, help="tokens")
    parser.add_argument("--only", nargs="*", default=[], help="how the names of what is measured begin; default: all")
    args = against.parse_args(parser, "attention")
    torch.manual_seed(0)
    copy = copy_rate()
    split_results = SplitResults.allocate(args.shape.heads, args.shape.head_dim, CUDA)
    found: list[Measurement] = []
    for name, chunks in CHUNKS.items():
        if wanted(name, args.only):
            new = measure_attention(
                name, args.shape, chunks, split_results, ways(args), as_graph=args.fixed, block_size=args.block_size
            )
            found.extend(new)
            print(*("\t".join(map(str, one.row())) for one in new), sep="\n", flush=True)
    for name, sizes in ROWS.items():
        for rows in sizes:
            if wanted(f"{name}, {rows} rows", args.only):
                found.append(measure_dense(name, rows))
                print(*found[-1].row(), sep="\t", flush=True)
    path = write_result(
        args.name,
        title="Attention and dense layers at Qwen3-30B-A3B's shape",
        conditions=f"{args.shape.heads} heads over {args.shape.kv_heads} KV heads of {args.shape.head_dim}, blocks of {args.block_size} tokens, bf16 cache; FP8 qkv and out "
        "projections with the quantisation of their input, bf16 router and head; under graph replay, per call of one layer. "
        f"This card copies {copy / 1e12:.2f} TB/s (read and written).",
        columns=COLUMNS,
        rows=[one.row() for one in found],
        raw=[dataclasses.asdict(one) for one in found],
    )
    print(path.name)


if __name__ == "__main__":
    main()
