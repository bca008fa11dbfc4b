"""Attention in float32 products of tiles of fixed shape, merged in order of position."""

from __future__ import annotations

import torch

from benchmarks.torch_baseline.attention_plan import KV_TILE, KVStep, TileGroup, TilePlan
from octavo.ops.contract import Dims


def attention(queries: torch.Tensor, cache: torch.Tensor, plan: TilePlan) -> torch.Tensor:
    """softmax(q k^T / sqrt(D)) v over the keys at or before each query's position.

    A row's bits depend on its query and the keys and values it sees: not on the batch, the chunk it came in, the
    blocks, or what unused slots hold. NaN that a query sees makes its row NaN, and no other.

    Args:
        queries: (T, H, D) bf16; read.
        cache: (2, blocks, block size, G, D) bf16, written by `write_kv` for these tokens too; read.
        plan: of this batch; H = G times its heads_per_kv_head.

    Returns:
        (T, H, D) bf16, new.

    Raises:
        KernelContractError: a tensor has another dtype or size.
    """
    dims = Dims()
    dims.check("cache", cache, (2, "blocks", "block size", "G", "D"), dtype=torch.bfloat16)
    kv_heads, width = cache.shape[3:]
    dims.check("queries", queries, ("T", "H", "D"), dtype=torch.bfloat16)
    shared = queries.shape[1] // kv_heads
    out = torch.empty_like(queries)
    slots = cache.view(2, -1, kv_heads, width)
    for group in plan.groups:
        tiles = _query_tiles(queries, group, kv_heads, plan.tile_rows)
        mixed = _attend(group, tiles, slots, group.tokens * shared)
        out.index_copy_(0, group.live_rows, _live_queries(mixed, group).to(torch.bfloat16))
    return out


def _query_tiles(queries: torch.Tensor, group: TileGroup, kv_heads: int, tile_rows: int) -> torch.Tensor:
    """(G, N, R, D) float32, scaled; a tile's row is (token, query head of the KV head), then zeros."""
    _, heads, width = queries.shape
    shared = heads // kv_heads
    rows = queries.index_select(0, group.rows).float().mul_(width**-0.5)
    tiles = rows.view(group.num_tiles, group.tokens, kv_heads, shared, width).permute(2, 0, 1, 3, 4)
    out = rows.new_zeros((kv_heads, group.num_tiles, tile_rows, width))
    used = out[:, :, : group.tokens * shared]
    used.view(kv_heads, group.num_tiles, group.tokens, shared, width).copy_(tiles)
    return out


def _live_queries(mixed: torch.Tensor, group: TileGroup) -> torch.Tensor:
    """(G, N, tokens * shared, D) -> (L, H, D), in the order of `group.live_rows`."""
    kv_heads, tiles, rows, width = mixed.shape
    shared = rows // group.tokens
    by_token = mixed.view(kv_heads, tiles, group.tokens, shared, width).permute(1, 2, 0, 3, 4)
    return by_token.reshape(tiles * group.tokens, kv_heads * shared, width).index_select(0, group.live)


def _attend(group: TileGroup, queries: torch.Tensor, slots: torch.Tensor, used: int) -> torch.Tensor:
    """Online softmax over the KV tiles in order: (G, N, R, D) float32 -> (G, N, used, D) float32.

    The first tile holds position 0, which every query sees, so the maximum is a number from there on. A tile of which
    a query sees nothing adds exactly zero to its sums and multiplies them by exactly one. Rows from `used` on are
    padding: they go through the products, whose shape is fixed, and nowhere else.
    """
    kv_heads, tiles, _, width = queries.shape
    best = queries.new_full((kv_heads, tiles, used, 1), -torch.inf)
    total = queries.new_zeros((kv_heads, tiles, used, 1))
    mixed = queries.new_zeros((kv_heads, tiles, used, width))
    for step in group.steps:
        keys, values = _read_tile(slots, step)
        scores = _products(queries[:, step.first :], keys.transpose(-1, -2))
        seen = scores[:, :, :used]
        _hide(seen, step)
        now_best, now_total, now_mixed = (state[:, step.first :] for state in (best, total, mixed))
        highest = torch.maximum(now_best, seen.amax(-1, keepdim=True))
        seen.sub_(highest).exp_()
        shrink = now_best.sub_(highest).exp_()
        now_total.mul_(shrink).add_(seen.sum(-1, keepdim=True))
        now_mixed.mul_(shrink).add_(_products(scores, values)[:, :, :used])
        now_best.copy_(highest)
    return mixed.div_(total)


def _read_tile(slots: torch.Tensor, step: KVStep) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a KV tile, each (G, n, KV_TILE, D) float32; values that are not finite read as numbers.

    Their keys are NaN (`write_kv`) or not seen, so this only keeps 0 x NaN out of rows that do not see them.
    """
    kv_heads, width = slots.shape[2:]
    keys, values = (
        side.index_select(0, step.slots).float().view(-1, KV_TILE, kv_heads, width).permute(2, 0, 1, 3)
        for side in (slots[0], slots[1])
    )
    return keys, values.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)


def _hide(scores: torch.Tensor, step: KVStep) -> None:
    """Select minus infinity where a key is not visible: scores (G, n, used, KV_TILE), written in place."""
    scores[:, : step.masked - step.first].masked_fill_(step.hidden, -torch.inf)


def _products(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b, tile by tile: a (G, n, R, K), b (G, n or 1, K, N) -> (G, n, R, N) float32."""
    heads, tiles, rows, _ = a.shape
    out = a.new_empty((heads, tiles, rows, b.shape[-1]))
    for head in range(heads):
        torch.bmm(a[head], b[head].expand(tiles, -1, -1), out=out[head])
    return out
