"""Measure tiles of the expert layer on this GPU and write the best ones into the table.

    python -m tools.tune_moe                                Qwen3-30B-A3B's shape
    python -m tools.tune_moe --shape mixtral-8x7b --format block

Any legal tile gives the same bits, so only time decides. Kernels are compiled by several processes first.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import multiprocessing
from pathlib import Path

import torch
from benchmarks.moe_layer import FORMATS, SHAPES, draw, random_weights, replay

from octavo.ops.experts.grouped_gemm import STEP, Tile, grouped_gemm, grouped_gemm_swiglu
from octavo.ops.experts.grouped_gemm.table import TABLE
from octavo.ops.experts.moe import MoeWorkspace, moe_workspace
from octavo.ops.experts.permute import permute
from octavo.ops.formats import Weights

SIZES = [1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 32768]
TABLE_FILE = Path(__file__).parents[1] / "src" / "octavo" / "ops" / "experts" / "grouped_gemm" / "table.py"
HEAD = '''"""Tiles by weight shape; written by tools/tune_moe.py from measurements."""

from __future__ import annotations

from octavo.ops.experts.grouped_gemm.tile import Tile

TABLE: dict[tuple[str, int, int, int], list[tuple[int, Tile, Tile]]] = {
'''


def candidates(rows: int, gated: bool) -> list[Tile]:
    """Legal tiles of `rows` rows worth a measurement."""
    most = min(2, (rows // 16).bit_length() - 1)
    tiles = (
        Tile(rows, cols, warps, stages, tma, max_halvings)
        for cols, warps, stages, tma, max_halvings in itertools.product(
            (64, 128), (4, 8), (3, 4, 6), (True, False), sorted({0, most})
        )
        if not (cols == 64 and warps == 8 and not gated) and (tma or (stages == 4 and max_halvings == 0))
    )
    step_bytes = STEP[torch.float8_e4m3fn]
    legal = [tile for tile in tiles if not tile.reasons_against(gated=gated, step_bytes=step_bytes)]
    return [tile for tile in legal if tile.rows * tile.cols * (2 if gated else 1) // (32 * tile.warps) <= 128]


def heights(assignments_per_expert: float) -> list[int]:
    """Tile heights near the mean load of an expert."""
    return [
        rows
        for rows in (16, 32, 64, 128, 256)
        if rows <= max(16, 4 * assignments_per_expert) and rows >= min(128, assignments_per_expert / 8)
    ]


def run_tile(ws: MoeWorkspace, gate_up: Weights, down: Weights, tokens: int, tile: Tile, gated: bool) -> None:
    """One grouped GEMM over whatever the workspace holds."""
    assignments = tokens * ws.top_k
    if gated:
        x = ws.input.held(tokens, gate_up)
        grouped_gemm_swiglu(
            x, gate_up, ws.permutation, top_k=ws.top_k, tile=tile, out=ws.hidden, assignments=assignments
        )
    else:
        h = ws.hidden_quantized.held(ws.permutation.assignments, down)
        grouped_gemm(h, down, ws.permutation, tile=tile, out=ws.expert_out, assignments=assignments)


def compile_tiles(job: tuple[tuple[int, int, int, int], str, list[tuple[Tile, bool]]]) -> None:
    """Compile by running on one token; the kernels land in Triton's cache on disk."""
    shape, kind, tiles = job
    experts, top_k, hidden, intermediate = shape
    gate_up = random_weights(kind, experts, 2, intermediate, hidden)
    down = random_weights(kind, experts, 1, hidden, intermediate)
    ws = moe_workspace(1, top_k, gate_up, down)
    inputs = draw(1, shape)
    for tile, gated in tiles:
        permute(inputs.ids, experts, tile_rows=tile.rows, out=ws.permutation)
        run_tile(ws, gate_up, down, 1, tile, gated)
    torch.cuda.synchronize()


def precompile(shape: tuple[int, int, int, int], kind: str, processes: int) -> None:
    """Compile every candidate of every size."""
    loads = [size * shape[1] / shape[0] for size in SIZES]
    rows = sorted({height for load in loads for height in heights(load)})
    tiles = [(tile, gated) for height in rows for gated in (True, False) for tile in candidates(height, gated)]
    jobs = [(shape, kind, tiles[start::processes]) for start in range(processes)]
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(compile_tiles, jobs))


def best_tiles(
    ws: MoeWorkspace, gate_up: Weights, down: Weights, tokens: int, shape: tuple[int, int, int, int]
) -> dict[str, object]:
    """Every candidate's time at `tokens` tokens, and the pair of equal height with the least sum."""
    inputs = draw(tokens, shape)
    gate_up.activate(inputs.x, ws.input.quantizer(None))
    down.activate(torch.randn_like(ws.hidden[: tokens * shape[1]]), ws.hidden_quantized.quantizer(None))
    times: dict[str, float] = {}
    best: tuple[float, Tile, Tile] | None = None
    for rows in heights(tokens * shape[1] / shape[0]):
        permute(inputs.ids, shape[0], tile_rows=rows, out=ws.permutation)
        winners: list[tuple[float, Tile]] = []
        for gated in (True, False):
            measured = []
            for tile in candidates(rows, gated):

                def call(tile: Tile = tile, gated: bool = gated) -> None:
                    run_tile(ws, gate_up, down, tokens, tile, gated)

                measured.append((replay([call] * 3, 7).median, tile))
                times[f"{'gate_up' if gated else 'down'} {tile}"] = measured[-1][0]
            winners.append(min(measured, key=lambda pair: pair[0]))
        total = winners[0][0] + winners[1][0]
        if best is None or total < best[0]:
            best = (total, winners[0][1], winners[1][1])
    assert best is not None
    return {"tokens": tokens, "us": best[0], "gate_up": best[1], "down": best[2], "times": times}


def write_table(key: tuple[str, int, int, int], found: list[dict[str, object]], top_k: int) -> None:
    """Replace the entries of `key`; an entry serves up to the geometric middle to the next size."""
    entries: list[tuple[int, Tile, Tile]] = []
    for this, after in itertools.pairwise([*found, None]):
        assert this is not None
        tokens = int(str(this["tokens"]))
        most = 2**31 - 1 if after is None else int((tokens * int(str(after["tokens"]))) ** 0.5) * top_k
        gate_up, down = this["gate_up"], this["down"]
        assert isinstance(gate_up, Tile)
        assert isinstance(down, Tile)
        entries.append((most, gate_up, down))
    body = "".join(
        f"    {name!r}: [\n" + "".join(f"        {entry!r},\n" for entry in rows) + "    ],\n"
        for name, rows in {**TABLE, key: entries}.items()
    )
    text = HEAD + body.replace("'", '"') + "}\n"
    for field in ("rows", "cols", "warps", "stages", "tma", "max_halvings"):
        text = text.replace(f"{field}=", "")
    TABLE_FILE.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-30b-a3b")
    parser.add_argument("--format", choices=FORMATS, default="channel")
    parser.add_argument("--processes", type=int, default=12, help="that compile at the same time")
    parser.add_argument("--log", type=Path, help="where to write all times as JSON")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    experts, top_k, hidden, intermediate = shape
    precompile(shape, args.format, args.processes)
    gate_up = random_weights(args.format, experts, 2, intermediate, hidden)
    down = random_weights(args.format, experts, 1, hidden, intermediate)
    ws = moe_workspace(max(SIZES), top_k, gate_up, down)
    found = []
    for tokens in SIZES:
        found.append(best_tiles(ws, gate_up, down, tokens, shape))
        print(tokens, f"{found[-1]['us']:.1f} us", found[-1]["gate_up"], found[-1]["down"], flush=True)
    write_table((type(gate_up).__name__, experts, hidden, intermediate), found, top_k)
    if args.log:
        args.log.write_text(json.dumps(found, default=str, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
