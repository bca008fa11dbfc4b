"""Requests with the queries, keys and values of all their positions, run in chunks through a paged cache."""

from __future__ import annotations

import dataclasses
import itertools

import torch

from cases import HeadShape
from octavo.ops.activations import FP8
from octavo.ops.attention.cuda import MAX_SPLIT_RESULTS, SplitResults, paged_attention, plan_paged_attention
from octavo.ops.attention.reference import attention_reference
from octavo.ops.quantize.reference import static_reference


@dataclasses.dataclass
class Request:
    """queries (L, H, D), keys and values (L, G, D) bf16, on the host."""

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor

    @classmethod
    def draw(cls, length: int, shape: HeadShape, seed: int) -> Request:
        noise = torch.Generator().manual_seed(seed)
        sizes = (shape.heads, shape.kv_heads, shape.kv_heads)
        return cls(*(torch.randn((length, size, shape.width), generator=noise).bfloat16() for size in sizes))

    def expected(self) -> torch.Tensor:
        """(L, H, D) float64"""
        return attention_reference(self.queries, self.keys, self.values)

    def __len__(self) -> int:
        return len(self.queries)


@dataclasses.dataclass(frozen=True)
class Chunk:
    """`count` tokens of `request` from position `start`, whose KV blocks are `blocks`."""

    request: Request
    start: int
    count: int
    blocks: list[int]


def poisoned(
    num_blocks: int, block_size: int, shape: HeadShape, device: torch.device, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    """A cache of NaN: what is not written must not be seen."""
    size = (2, num_blocks, block_size, shape.kv_heads, shape.width)
    return torch.full(size, torch.nan, dtype=torch.bfloat16, device=device).to(dtype)


def write(chunk: Chunk, cache: torch.Tensor) -> None:
    """Keys and values as `prepare_qkv` leaves them: no value that is not finite, but NaN for its key; in FP8 at scale 1."""
    block_size, end = cache.shape[2], chunk.start + chunk.count
    slots = [chunk.blocks[p // block_size] * block_size + p % block_size for p in range(chunk.start, end)]
    keys, values = chunk.request.keys[chunk.start : end], chunk.request.values[chunk.start : end]
    finite = values.isfinite()
    keys = torch.where(finite.all(-1, keepdim=True), keys, torch.nan)
    sides = [keys, torch.where(finite, values, 0.0)]
    if cache.dtype == FP8:
        sides = [static_reference(side, torch.ones(1)).view(torch.uint8) for side in sides]
        cache = cache.view(torch.uint8)
    flat = cache.view(2, -1, *cache.shape[3:])
    for side, new in zip(flat, sides, strict=True):
        side[torch.tensor(slots, device=cache.device)] = new.to(cache.device)


def attend(
    chunks: list[Chunk],
    cache: torch.Tensor,
    *,
    columns: int | None = None,
    max_split_results: int = MAX_SPLIT_RESULTS,
    stages: int | None = None,
    warps: int | None = None,
) -> list[torch.Tensor]:
    """Write and attend as one batch; the rows of each chunk, on the host."""
    block_size, device = cache.shape[2], cache.device
    tables = torch.full((len(chunks), columns or max(len(c.blocks) for c in chunks)), -1, dtype=torch.int32)
    starts = [0]
    for row, chunk in enumerate(chunks):
        tables[row, : len(chunk.blocks)] = torch.tensor(chunk.blocks, dtype=torch.int32)
        write(chunk, cache)
        starts.append(starts[-1] + chunk.count)
    queries = torch.cat([c.request.queries[c.start : c.start + c.count] for c in chunks]).to(device)
    plan = plan_paged_attention(
        tables.to(device),
        tuple(starts),
        tuple(c.start + c.count for c in chunks),
        block_size=block_size,
        heads_per_kv_head=queries.shape[1] // cache.shape[3],
        max_split_results=max_split_results,
    )
    split_results = SplitResults.allocate(queries.shape[1], queries.shape[2], device, count=max_split_results)
    for tensor in (split_results.stats, split_results.acc):
        tensor.fill_(torch.nan)
    out = torch.full_like(queries, torch.nan)
    paged_attention(queries, cache, plan, split_results, out=out, stages=stages, warps=warps)
    return [out[begin:end].cpu() for begin, end in itertools.pairwise(starts)]


def whole(
    request: Request, shape: HeadShape, device: torch.device, *, max_split_results: int = MAX_SPLIT_RESULTS
) -> torch.Tensor:
    """All rows of `request` in one step with nothing beside it."""
    blocks = list(range(-(-len(request) // 16)))
    cache = poisoned(len(blocks), 16, shape, device)
    return attend([Chunk(request, 0, len(request), blocks)], cache, max_split_results=max_split_results)[0]
