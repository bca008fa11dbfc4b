"""Measure tiles of the expert layer on this GPU beside the ones of the table; persistent tiles have nothing to be tuned.

    python -m tools.tune_moe --write                        Qwen3-30B-A3B's shape, and put the best ones into the table
    python -m tools.tune_moe --shape mixtral-8x7b --format block
    python -m tools.tune_moe --tokens 1 2 4 8 16
    python -m tools.tune_moe --shape olmoe-1b-7b --name tiles_olmoe      how near the rules for shapes without a table come

Any legal tile gives the same bits, which is looked at, so only time decides. The first product comes with the rounding of what it gives, which some
tiles do themselves. Each graph goes through several routings and copies of the
weights, so that few tokens do not find their experts in the L2 cache, and each product runs behind a small kernel, whose time is in all
times (see `tools/tune_dense.py`). All tiles are compiled first, on all cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from benchmarks.measurement import replay
from benchmarks.moe_layer import FORMATS, SHAPES, draw, random_weights
from benchmarks.provenance import write_result
from tqdm import tqdm

from octavo.ops.activations import Activations
from octavo.ops.compilation import compiling_instead
from octavo.ops.experts.grouped_gemm import STEP, Tile, grouped_gemm
from octavo.ops.experts.grouped_gemm.choice import tuned_tiles
from octavo.ops.experts.grouped_gemm.table import TABLE
from octavo.ops.experts.moe import MoeWorkspace, hidden_rows, moe_workspace
from octavo.ops.experts.permute import Permutation, permute
from octavo.ops.formats import Fp8Block, Weights
from tools.tune_dense import Before

SIZES = [1, 2, 4, 8, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 32768]
FEW = 16
"""Tokens up to which weights that do not come through bulk copies are worth a measurement, and the height of the last tile of an expert is not."""
MEMORY_BOUND = 512
"""Tokens up to which longer K steps, and weights that are loaded before the wait, are worth one."""
COPIES, ROUTINGS = 4, 8
NAN_CODE = 0x7F
"""Of e4m3."""
SHOWN = 3
"""Best tiles of each product and height that are printed."""
TABLE_FILE = Path(__file__).parents[1] / "src" / "octavo" / "ops" / "experts" / "grouped_gemm" / "table.py"
HEAD = '''"""Tiles by weight shape; written by tools/tune_moe.py from measurements."""

from __future__ import annotations

from octavo.ops.experts.grouped_gemm.tile import Tile

TABLE: dict[tuple[str, int, int, int], list[tuple[int, Tile, Tile]]] = {
'''


def candidates(rows: int, gated: bool, width: int, tokens: int, kind: str) -> list[Tile]:
    """Legal tiles of `rows` rows for K of `width` numbers of 8 bits worth a measurement; a step of weights in blocks is one block."""
    step, few = STEP[torch.float8_e4m3fn], tokens <= FEW
    long = tokens <= MEMORY_BOUND and kind != Fp8Block.__name__
    halvings = sorted({0, min(2, (rows // 16).bit_length() - 1)})
    tiles = (
        Tile(rows, cols, warps, stages, tma, max_halvings, factor, early)
        for cols, warps, stages, tma, max_halvings, factor, early in itertools.product(
            (64, 128),
            (4, 8),
            (2, 3, 4, 6, 8),
            (True, False),
            [0] if few else halvings,
            (1, 2, 4) if long else (1,),
            (0, 2, 4, 8) if long and not gated else (0,),
        )
        if early < 2 * width // step
        and (stages <= 3 if early else stages >= 3)
        and (warps == 4 or cols * (2 if gated else 1) >= 128)
        and (tma or few or (stages == 4 and max_halvings == 0))
        and not (few and cols == 128 and gated and kind != Fp8Block.__name__)
        and (factor == 1 or (width % (factor * step) == 0 and (tma or factor == 2)))
        and stages * factor <= 2 * width // step
    )
    legal = [tile for tile in tiles if not tile.reasons_against(gated=gated, step_bytes=step)]
    return [tile for tile in legal if tile.rows * tile.cols * (2 if gated else 1) // (32 * tile.warps) <= 128]


def heights(assignments_per_expert: float) -> list[int]:
    """Tile heights near the mean load of an expert."""
    return [
        rows
        for rows in (16, 32, 64, 128, 256)
        if rows <= max(16, 4 * assignments_per_expert) and rows >= min(128, assignments_per_expert / 8)
    ]


Result = torch.Tensor | Activations


@dataclasses.dataclass(frozen=True)
class Products:
    """Both products of a layer for the same tokens, routed in several ways to several copies of the weights."""

    layers: Sequence[tuple[Weights, Weights]]
    workspace: MoeWorkspace
    ids: Sequence[torch.Tensor]
    """(T, K) int32 of each routing."""
    permutations: dict[int, list[Permutation]]
    """By the height of tiles: of each routing."""

    @classmethod
    def draw(
        cls,
        tokens: int,
        shape: tuple[int, int, int, int],
        layers: Sequence[tuple[Weights, Weights]],
        workspace: MoeWorkspace,
    ) -> Products:
        """Of `tokens` random tokens, which the workspace then holds."""
        inputs = [draw(tokens, shape) for _ in range(ROUTINGS)]
        gate_up, down = layers[0]
        gate_up.activate(inputs[0].x, workspace.input.quantizer(None))
        down.activate(
            torch.randn_like(workspace.hidden[: tokens * shape[1]]), workspace.hidden_quantized.quantizer(None)
        )
        ids = [one.ids for one in inputs]
        return cls(layers, workspace, ids, {})

    def place(self, rows: int) -> None:
        """Make the permutations for tiles of `rows` rows."""
        experts = self.layers[0][0].data.shape[0]
        self.permutations[rows] = [permute(ids, experts, tile_rows=rows) for ids in self.ids]

    def calls(self, tile: Tile, gated: bool) -> list[Callable[[], Result]]:
        """One call for each routing: its result is what the second product reads, or (S, H) bf16."""
        return [functools.partial(self._run, tile, gated, number) for number in range(len(self.ids))]

    def _run(self, tile: Tile, gated: bool, number: int) -> Result:
        gate_up, down = self.layers[number % len(self.layers)]
        held, permutation = self.workspace, self.permutations[tile.rows][number]
        tokens, top_k = self.ids[number].shape
        assignments = tokens * top_k
        if gated:
            x = held.input.held(tokens, gate_up)
            return hidden_rows(x, gate_up, down, permutation, tile=tile, workspace=held, assignments=assignments)
        h = held.hidden_quantized.held(assignments, down)
        out = held.expert_out[:assignments]
        return grouped_gemm(h, down, permutation, tile=tile, out=out, assignments=assignments)


def parts(result: Result) -> list[torch.Tensor]:
    """Its numbers, codes of FP8 as bytes, and its scales, in the memory that the result is in."""
    data, scales = (result.data, result.scales) if isinstance(result, Activations) else (result, None)
    return [data.view(torch.uint8), *([] if scales is None else [scales])]


def poison(workspace: MoeWorkspace, gated: bool) -> None:
    """Fill with NaN what the first product and the rounding behind it write, or what the second writes; that one's input is as it was."""
    if gated:
        workspace.hidden.fill_(torch.nan)
        workspace.hidden_quantized.scale.fill_(torch.nan)
        workspace.hidden_quantized.data.view(torch.uint8).fill_(NAN_CODE)
    else:
        workspace.expert_out.fill_(torch.nan)


def same(result: Result, expected: Sequence[torch.Tensor]) -> bool:
    """Whether it has the `parts` that are expected."""
    return all(itertools.starmap(torch.equal, zip(parts(result), expected, strict=True)))


def measure(
    products: Products, tiles: Sequence[Tile], gated: bool, expected: Sequence[torch.Tensor], before: Before
) -> list[tuple[float, Tile]]:
    """Microseconds of each tile, the least first; one whose bits are not `expected` is told, and left out."""
    times = []
    for tile in tiles:
        calls = products.calls(tile, gated)
        poison(products.workspace, gated)
        if not same(calls[0](), expected):
            print(f"OTHER BITS: {'gate_up' if gated else 'down'} {tile}", flush=True)
            continue
        times.append((replay([before.behind(call) for call in calls], 9).median, tile))
    return sorted(times, key=lambda pair: pair[0])


def short(tile: Tile) -> str:
    """A tile in few characters."""
    way = "tma" if tile.tma else "async"
    return (
        f"{tile.rows}x{tile.cols} {way} {tile.stages}x{tile.step_factor} {tile.warps}w"
        + "/" * tile.max_halvings
        + f" early {tile.early}" * (tile.early > 0)
    )


@dataclasses.dataclass(frozen=True)
class Found:
    """What was measured at one number of tokens: microseconds of both products, with the fastest tiles and with the chosen ones."""

    tokens: int
    us: float
    gate_up: Tile
    down: Tile
    chosen_us: float
    chosen_gate_up: Tile
    chosen_down: Tile
    times: dict[str, float]
    """Of each product with each tile."""


def best_tiles(products: Products, tokens: int, shape: tuple[int, int, int, int], kind: str, before: Before) -> Found:
    """Every candidate's time, the pair of equal height with the least sum, and the pair that is chosen today."""
    experts, top_k, hidden, intermediate = shape
    now_gate_up, now_down = tuned_tiles((kind, experts, hidden, intermediate), tokens * top_k)
    found: dict[bool, dict[int, list[tuple[float, Tile]]]] = {}
    chosen_us = []
    # the second product first, as the first writes over the rows that were drawn for it
    for gated, chosen in ((False, now_down), (True, now_gate_up)):
        width = hidden if gated else intermediate
        if chosen.rows not in products.permutations:
            products.place(chosen.rows)
        calls = products.calls(chosen, gated)
        expected = [part.clone() for part in parts(calls[0]())]
        now_us = replay([before.behind(call) for call in calls], 9).median
        chosen_us.append(now_us)
        heading = f"T={tokens} {'gate_up' if gated else 'down'}: now {now_us:.2f} ({short(chosen)})"
        found[gated] = {}
        for rows in heights(tokens * top_k / experts):
            times = measure(products, candidates(rows, gated, width, tokens, kind), gated, expected, before)
            found[gated][rows] = times
            heading += f" | {rows} rows: " + ", ".join(f"{us:.2f} {short(tile)}" for us, tile in times[:SHOWN])
        tqdm.write(heading)
    pairs = [
        (first[0][0] + second[0][0], first[0][1], second[0][1])
        for rows, first in found[True].items()
        if first and (second := found[False][rows])
    ]
    us, gate_up, down = min(pairs, key=lambda pair: pair[0])
    all_times = {
        f"{'gate_up' if gated else 'down'} {tile}": us
        for gated, by_rows in found.items()
        for measured in by_rows.values()
        for us, tile in measured
    }
    return Found(tokens, us, gate_up, down, sum(chosen_us), now_gate_up, now_down, all_times)


def written(tile: Tile) -> str:
    """A tile as the table has it: its first six fields, and others up to the last that is not as usual."""
    fields = dataclasses.fields(tile)
    count = max(
        number for number, field in enumerate(fields, 1) if number == 6 or getattr(tile, field.name) != field.default
    )
    return f"Tile({', '.join(str(value) for value in dataclasses.astuple(tile)[:count])})"


def write_table(key: tuple[str, int, int, int], found: list[Found], top_k: int) -> None:
    """Replace the entries of `key`; an entry serves up to the geometric middle to the next size."""
    entries: list[tuple[int, Tile, Tile]] = []
    for this, after in itertools.pairwise([*found, None]):
        assert this is not None
        most = 2**31 - 1 if after is None else int((this.tokens * after.tokens) ** 0.5) * top_k
        entries.append((most, this.gate_up, this.down))
    body = "".join(
        f"    {name!r}: [\n"
        + "".join(f"        ({most}, {written(up)}, {written(down)}),\n" for most, up, down in rows)
        + "    ],\n"
        for name, rows in {**TABLE, key: entries}.items()
    )
    text = HEAD + body.replace("'", '"') + "}\n"
    TABLE_FILE.write_text(text, encoding="utf-8")


def compile_all(products: Products, tokens: int, shape: tuple[int, int, int, int], kind: str) -> None:
    """Compile every candidate of `tokens` tokens, and the chosen ones."""
    experts, top_k, hidden, intermediate = shape
    gate_up, down = tuned_tiles((kind, experts, hidden, intermediate), tokens * top_k)
    for rows in {*heights(tokens * top_k / experts), gate_up.rows}:
        products.place(rows)
        for gated, chosen, width in ((True, gate_up, hidden), (False, down, intermediate)):
            for tile in {*candidates(rows, gated, width, tokens, kind), *([chosen] if chosen.rows == rows else [])}:
                products.calls(tile, gated)[0]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-30b-a3b")
    parser.add_argument("--format", choices=FORMATS, default="channel")
    parser.add_argument("--tokens", type=int, nargs="+", default=SIZES)
    parser.add_argument("--write", action="store_true", help="put the best pair of each size into the table")
    parser.add_argument("--name", help="of a result in benchmarks/results, beside which the fastest tiles stand")
    parser.add_argument("--log", type=Path, help="where to write all times as JSON")
    args = parser.parse_args()
    shape = SHAPES[args.shape]
    experts, top_k, hidden, intermediate = shape
    layers = [
        (
            random_weights(args.format, experts, 2, intermediate, hidden),
            random_weights(args.format, experts, 1, hidden, intermediate),
        )
        for _ in range(COPIES)
    ]
    kind = type(layers[0][0]).__name__
    ws = moe_workspace(max(args.tokens), top_k, *layers[0])
    with compiling_instead(len(os.sched_getaffinity(0))):
        for tokens in args.tokens:
            compile_all(Products.draw(tokens, shape, layers, ws), tokens, shape, kind)
    found: list[Found] = []
    before = Before()
    print(f"nothing but the kernel before: {replay([before.behind(lambda: None)] * 16, 9).median:.2f}", flush=True)
    for tokens in tqdm(args.tokens, desc="Sizes"):
        products = Products.draw(tokens, shape, layers, ws)
        for rows in heights(tokens * top_k / experts):
            products.place(rows)
        found.append(best_tiles(products, tokens, shape, kind, before))
        if args.log:
            args.log.write_text(json.dumps([dataclasses.asdict(one) for one in found], indent=1), encoding="utf-8")
    cells = [(one.tokens, round(one.chosen_us, 1), round(one.us, 1), f"{one.us / one.chosen_us:.2f}") for one in found]
    for row in cells:
        print(*row, sep=" | ", flush=True)
    if args.name:
        write_result(
            args.name,
            title=f"Tiles that are chosen beside the fastest, {args.shape}, {args.format} scales",
            conditions="both products of the experts' layer, and the rounding between them, for random tokens behind a small kernel, whose time is in all times; microseconds, "
            "medians of 9 replays of a graph over several routings and copies of the weights; the fastest is of one height of all legal tiles",
            columns=("tokens", "chosen, us", "fastest, us", "share of its speed"),
            rows=[list(row) for row in cells],
            raw={str(one.tokens): dataclasses.asdict(one) for one in found},
        )
    if args.write:
        write_table((kind, experts, hidden, intermediate), found, top_k)


if __name__ == "__main__":
    main()
