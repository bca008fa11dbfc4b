"""A row's bits: alone, anywhere, in any company, eager and replayed, at every tile, and again and again."""

from __future__ import annotations

import pytest
import torch

from cases import QWEN3_30B
from layer import CUDA, GpuLayer, Rows
from octavo.ops.experts.grouped_gemm import PersistentTile, Tile, Tiles
from octavo.ops.experts.grouped_gemm.table import TABLE
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel

pytestmark = pytest.mark.gpu
TILES = [
    (Tile(16, 64, 4, 4), Tile(16, 64, 4, 4)),
    (Tile(32, 64, 4, 3), Tile(32, 128, 4, 4)),
    (Tile(64, 64, 4, 4), Tile(64, 128, 8, 3)),
    (Tile(64, 128, 8, 3), Tile(64, 64, 4, 5)),
    (Tile(128, 64, 8, 3), Tile(128, 128, 8, 3)),
    (Tile(256, 64, 8, 3), Tile(256, 128, 8, 3)),
    (Tile(16, 64, 4, 6, tma=True), Tile(16, 64, 4, 6, tma=True)),
    (Tile(64, 128, 8, 3, tma=True), Tile(64, 64, 4, 4, tma=True)),
    (Tile(128, 128, 8, 3, tma=True), Tile(128, 128, 8, 3, tma=True)),
    (Tile(64, 64, 4, 3, max_halvings=2), Tile(64, 64, 4, 3, max_halvings=1)),
    (Tile(128, 64, 4, 3, tma=True, max_halvings=2), Tile(128, 128, 4, 3, tma=True, max_halvings=2)),
    (Tile(256, 64, 8, 3, tma=True, max_halvings=2), Tile(256, 128, 8, 3, tma=True, max_halvings=2)),
]
LONG_STEPS = [
    (Tile(16, 64, 4, 3, step_factor=2), Tile(16, 128, 8, 3, tma=True, step_factor=2)),
    (Tile(16, 64, 4, 3, tma=True, step_factor=4), Tile(16, 64, 4, 3, step_factor=4)),
]
"""Not for scales per block."""
PERSISTENT: dict[type, list[Tiles]] = {
    Fp8Channel: [Tiles(Tile(128, 64, 4, 3, tma=True), PersistentTile())],
    Fp8Block: [Tiles(PersistentTile(), PersistentTile()), Tiles(Tile(128, 64, 4, 3, tma=True), PersistentTile())],
}


@pytest.fixture(scope="module")
def qwen() -> GpuLayer:
    return GpuLayer.make(Fp8Channel, QWEN3_30B, 32768)


def test_alone_and_in_any_batch(qwen: GpuLayer) -> None:
    pool = Rows.draw(QWEN3_30B, 32768)
    whole, _ = qwen(pool)
    for row in range(0, 32768, 331):
        assert torch.equal(qwen(pool[row : row + 1])[0][0], whole[row])
    for tokens in (2, 3, 8, 17, 64, 200, 1000, 5000, 20000):
        order = torch.randperm(32768, generator=torch.Generator().manual_seed(tokens))[:tokens].to(CUDA)
        assert torch.equal(qwen(pool[order])[0], whole[order])


def test_with_nan_for_neighbours(qwen: GpuLayer) -> None:
    pool = Rows.draw(QWEN3_30B, 4096)
    whole, _ = qwen(pool)
    bad = torch.rand(4096, device=CUDA) < 0.3
    pool.x[bad, 7] = (
        torch.tensor([torch.nan, torch.inf, -torch.inf], device=CUDA).repeat(4096)[: int(bad.sum())].bfloat16()
    )
    out, flags = qwen(pool)
    assert torch.equal(flags, bad)
    assert torch.equal(out[~bad], whole[~bad])


@pytest.mark.parametrize("kind", [Fp8Channel, Fp8Block, Bf16], ids=lambda kind: kind.__name__)
def test_at_every_tile(kind: type, qwen: GpuLayer) -> None:
    layer = qwen if kind is Fp8Channel else GpuLayer.make(kind, QWEN3_30B, 700)
    pool = Rows.draw(QWEN3_30B, 700, "skewed")
    step_bytes = 128
    whole, _ = layer(pool)
    pairs = [*TILES, *([] if kind is Fp8Block else LONG_STEPS)]
    pairs += [(a, b) for rows in TABLE.values() for _, a, b in rows] if kind is Fp8Channel else []
    assert all(not gate_up.reasons_against(gated=True, step_bytes=step_bytes) for gate_up, _ in pairs)
    tiles = [Tiles(*pair) for pair in pairs] + PERSISTENT.get(kind, [])
    for tile in tiles:
        assert torch.equal(layer(pool, tiles=tile)[0], whole), tile


def test_under_replay_at_any_padding(qwen: GpuLayer) -> None:
    pool = Rows.draw(QWEN3_30B, 512)
    eager, _ = qwen(pool)
    count = torch.zeros(1, dtype=torch.int32, device=CUDA)
    for size in (1, 8, 64, 256, 512):
        rows = Rows(*(torch.empty_like(t[:size]) for t in (pool.x, pool.ids, pool.weights)))
        out = torch.empty_like(rows.x)
        qwen(pool[:size], out=out, rows_in_use=count)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            qwen(rows, out=out, rows_in_use=count)
        for tokens in sorted({0, 1, size // 3, size - 1, size}):
            for buffer, real in ((rows.x, pool.x), (rows.ids, pool.ids), (rows.weights, pool.weights)):
                buffer.view(torch.uint8).fill_(0xFF)
                buffer[:tokens] = real[:tokens]
            count.fill_(tokens)
            out.fill_(torch.nan)
            graph.replay()
            assert torch.equal(out[:tokens], eager[:tokens]), (size, tokens)
            assert out[tokens:].eq(0).all(), (size, tokens)


@pytest.mark.parametrize("tokens", [1, 100, 1024])
def test_two_thousand_times(tokens: int, qwen: GpuLayer) -> None:
    rows = Rows.draw(QWEN3_30B, tokens, "skewed")
    first, _ = qwen(rows)
    out = torch.empty_like(first)
    different = torch.zeros((), dtype=torch.int64, device=CUDA)
    for _ in range(2000):
        out.fill_(torch.nan)
        qwen(rows, out=out)
        different += (out != first).sum()
    assert int(different) == 0


def test_the_check_sees_a_batch_dependent_layer(qwen: GpuLayer) -> None:
    """A mutant that scales activations by the batch's amax, as per-tensor dynamic FP8 does."""
    pool = Rows.draw(QWEN3_30B, 64)
    pool.x[63] *= 30

    def mutant(rows: Rows) -> torch.Tensor:
        step = rows.x.float().abs().max() / 448
        coarse = (rows.x.float() / step).to(torch.float8_e4m3fn).float() * step
        return qwen(Rows(coarse.bfloat16(), rows.ids, rows.weights))[0]

    assert not torch.equal(mutant(pool)[:1], mutant(pool[:1]))
    assert torch.equal(qwen(pool)[0][:1], qwen(pool[:1])[0])
