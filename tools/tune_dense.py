"""Measure tiles of the dense products on this GPU beside the ones that are chosen.

    python -m tools.tune_dense                              the products of Qwen3-30B-A3B
    python -m tools.tune_dense --products qkv --rows 64 256
    python -m tools.tune_dense --products qkv out delta_qkvz --format block --brief --rows 512 2048 8192

Any legal tile gives the same bits, which is looked at, so only time decides. Each graph goes through copies of the weight that the L2 cache does not
hold. Before each product a kernel runs that does next to nothing, as in a step: the product's launch overlaps it, which it would not
with a kernel that takes all shared memory. Its time is in all times. All tiles are compiled first, on all cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from benchmarks.measurement import CUDA, replay
from tqdm import tqdm

from octavo.ops.activations import BLOCK, FP8, Activations, blocks
from octavo.ops.bulk_copy import empty_with_room
from octavo.ops.compilation import compiling_instead
from octavo.ops.experts.grouped_gemm import STEP, PersistentTile
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, LinearWeight
from octavo.ops.linear.choice import early_tile
from octavo.ops.linear.dense_gemm import AnyTile, EarlyTile, choose, choose_dense, dense_gemm
from octavo.ops.linear.tile import DenseTile
from octavo.ops.persistent import runs_persistent_kernels
from octavo.ops.quantize.cuda import CudaQuantizer, quantize

SHAPES = {
    "qkv": (5120, 2048),
    "out": (2048, 4096),
    "router": (128, 2048),
    "head": (151936, 2048),
    "delta_qkvz": (12288, 2048),
    "next_qkv": (9216, 2048),
    "next_router": (513, 2048),
    "next_logits": (64, 2048),
}
"""N, K: of Qwen3-30B-A3B, and the projections before Gated DeltaNet and gated attention of Qwen3-Next and Qwen3.6, Qwen3-Next's router with its shared
expert's gate, and what the logits of its gates are made by."""
WIDE = ("router", "head", "next_router", "next_logits")
"""In bf16."""
FORMATS: dict[str, type] = {"channel": Fp8Channel, "block": Fp8Block, "bf16": Bf16}
ROWS = [1, 16, 32, 64, 128, 192, 256, 384, 512, 1024, 8192]
BEYOND_CACHE = 150e6
"""Bytes of weights that a graph goes through: the L2 cache of an H200 has 60 MB."""
SHARED = 16
"""Programs, at most, that read the same weights where there are up to 1,024 rows."""
FEW = 16
"""Rows up to which weights that do not come through bulk copies are worth a measurement."""
SHOWN = 6
"""Best tiles of each size that are printed."""


class Before:
    """Runs the kernel that products are launched behind: it rounds one row to FP8."""

    def __init__(self) -> None:
        self._row = torch.ones((1, 128), dtype=torch.bfloat16, device=CUDA)
        self._out = quantize(self._row)

    def behind(self, product: Callable[[], object]) -> Callable[[], object]:
        """A call that launches both."""

        def call() -> object:
            quantize(self._row, out=self._out)
            return product()

        return call


@dataclasses.dataclass(frozen=True)
class Product:
    """One product at T rows: copies of its weight (N, K), inputs (T, K), and memory for the result (T, N)."""

    weights: Sequence[LinearWeight]
    inputs: Activations
    out: torch.Tensor

    def tiles(self, *, brief: bool) -> list[AnyTile]:
        """The one that is chosen, and others that are worth a measurement: many, or if `brief` the chosen one of Triton's and all of the other types."""
        x, w = self.inputs, self.weights[0]
        others = candidates(w, len(self.out))
        if brief:
            others = [choose_dense(x, w), *(tile for tile in others if not isinstance(tile, DenseTile))]
        return [choose(x, w, self.out), *others]

    def calls(self, tile: AnyTile) -> list[Callable[[], object]]:
        """One call for each copy."""
        return [lambda w=w: dense_gemm(self.inputs, w, out=self.out, tile=tile) for w in self.weights]  # type: ignore[misc]


def copies(kind: type, columns: int, width: int) -> list[LinearWeight]:
    """Random weights (N, K) of `kind` that together are larger than the cache."""
    number = max(1, min(640, round(BEYOND_CACHE / (columns * width * (2 if kind is Bf16 else 1)))))
    return [_random(kind, columns, width) for _ in range(number)]


def _random(kind: type, columns: int, width: int) -> LinearWeight:
    data = torch.randn((columns, width), device=CUDA)
    if kind is Bf16:
        return Bf16(data.bfloat16())
    codes = (data * 100).clamp_(-448, 448).to(FP8)
    if kind is Fp8Block:
        return Fp8Block(codes, torch.rand((blocks(columns), blocks(width)), device=CUDA))
    return Fp8Channel(codes, torch.rand(columns, device=CUDA))


def product(weights: Sequence[LinearWeight], rows: int) -> Product:
    """Of `rows` random rows."""
    columns, width = weights[0].data.shape
    x = empty_with_room((rows, width), torch.bfloat16, CUDA).normal_()
    inputs = weights[0].activate(x, CudaQuantizer())
    return Product(weights, inputs, torch.empty((rows, columns), dtype=torch.bfloat16, device=CUDA))


def candidates(weight: LinearWeight, rows: int) -> list[AnyTile]:
    """Legal tiles for `rows` rows worth a measurement."""
    (columns, width), dtype = weight.data.shape, weight.data.dtype
    step = STEP[dtype]
    heights = [height for height in (16, 32, 64, 128, 256) if max(16, 2 * rows) >= height >= min(64, rows / SHARED)]
    sizes = [*itertools.product(heights, (64, 128), (4, 8), (True,))]
    if rows <= FEW:
        sizes = [(16, 64, 4, tma) for tma in (True, False)]
    tiles = (
        DenseTile(height, cols, warps, stages, tma=tma, step_factor=factor)
        for (height, cols, warps, tma), stages, factor in itertools.product(sizes, (3, 4, 5, 6, 8), (1, 2, 4))
        if factor * step <= width
        and height * cols // (32 * warps) <= 128
        and (warps == 4 or height * cols >= 8192)
        and (tma or (factor <= 2 and stages != 5))
        and not (weight.blockwise and (factor > 1 or cols > BLOCK))
    )
    legal = [tile for tile in tiles if not tile.reasons_against(gated=False, step_bytes=step * dtype.itemsize)]
    large, kind = PersistentTile(), type(weight).__name__
    can = rows >= large.rows and not large.reasons_against(kind, columns, width, gated=False)
    early = early_candidates(weight, rows)
    return [*legal, *early, *([large] if can and runs_persistent_kernels(CUDA) else [])]


def early_candidates(weight: LinearWeight, rows: int) -> list[EarlyTile]:
    """Tiles of all heights whose weights are asked for early."""
    heights = [height for height in (16, 32, 64, 128) if height < 2 * rows or height == 16]
    tiles = [early_tile(rows, height, weight) for height in heights]
    return [tile for tile in tiles if tile and not tile.reasons_against(weight, CUDA)]


def measure(measured: Product, tiles: Sequence[AnyTile], before: Before) -> list[tuple[float, AnyTile]]:
    """Microseconds of each tile, the least first; one whose bits are not the first one's is told, and left out."""
    expected, times = None, []
    for tile in tiles:
        calls = measured.calls(tile)
        measured.out.fill_(torch.nan)
        calls[0]()
        expected = measured.out.clone() if expected is None else expected
        if torch.equal(measured.out, expected):
            times.append((replay([before.behind(call) for call in calls], 9).median, tile))
        else:
            print(f"OTHER BITS: {tile}", flush=True)
    return sorted(times, key=lambda pair: pair[0])


def short(tile: AnyTile) -> str:
    """A tile in few characters."""
    if isinstance(tile, EarlyTile):
        return f"{tile.rows} early, ring of {tile.ring}x{tile.together}"
    if isinstance(tile, PersistentTile):
        return "persistent"
    way = "tma" if tile.tma else "async"
    return f"{tile.rows}x{tile.cols} {way} {tile.stages}x{tile.step_factor} {tile.warps}w"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--products", nargs="+", choices=SHAPES, default=["qkv", "out", "router"])
    add(
        "--format",
        choices=FORMATS,
        help="of the weights, but of a router's and a head's (default: channel)",
        default="channel",
    )
    add("--rows", nargs="+", type=int, default=ROWS)
    add(
        "--brief",
        action="store_true",
        help="only the tile that is chosen, the best of Triton's as far as is known, those that ask for weights early, and the persistent one",
    )
    add("--log", type=Path, help="where to write all times as JSON")
    args = parser.parse_args()
    weights = {name: copies(Bf16 if name in WIDE else FORMATS[args.format], *SHAPES[name]) for name in args.products}
    sizes = [(name, rows) for name in args.products for rows in args.rows]
    tiles = {}
    with compiling_instead(len(os.sched_getaffinity(0))):
        for name, rows in sizes:
            one = product(weights[name], rows)
            tiles[name, rows] = list(dict.fromkeys(one.tiles(brief=args.brief)))
            for tile in tiles[name, rows]:
                one.calls(tile)[0]()
    found, before = [], Before()
    print(f"nothing but the kernel before: {replay([before.behind(lambda: None)] * 16, 9).median:.2f}", flush=True)
    for name, rows in tqdm(sizes, desc="Sizes"):
        times = measure(product(weights[name], rows), tiles[name, rows], before)
        chosen = tiles[name, rows][0]
        now = next(us for us, tile in times if tile == chosen)
        found.append({"product": name, "rows": rows, "times": [(us, str(tile)) for us, tile in times]})
        told = ", ".join(f"{us:.2f} {short(tile)}" for us, tile in times[:SHOWN])
        tqdm.write(f"{name} {rows}: now {now:.2f} ({short(chosen)}) | {told}")
        if args.log:
            args.log.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
