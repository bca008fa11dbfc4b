"""What lies between the products, beside an older commit: same bits, and how long; `python -m benchmarks.elementwise --old FOLDER`.

FOLDER holds `src/octavo` of the older commit (`git archive 634b4bc src/octavo | tar -x -C FOLDER`). Qwen3-30B-A3B's shape; one layer;
times under graph replay.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.moe_layer import CUDA, random_weights, replay
from octavo.kernels.attention_input import attention_input
from octavo.kernels.moe import moe_workspace
from octavo.kernels.moe.experts import KernelExperts
from octavo.kernels.paged_attention import MAX_PARTIALS, Partials, paged_attention, plan_paged_attention
from octavo.kernels.rms_norm.cuda import add_norm
from octavo.kernels.rotary import RotaryTable

HEADS, KV_HEADS, WIDTH, HIDDEN, BLOCK_SIZE, EPS = 32, 4, 128, 2048, 16, 1e-6
EXPERTS, TOP_K, INTERMEDIATE = 128, 8, 768
CHECKED = [1, 2, 7, 64, 184, 1001, 4096, 8191, 8192, 8193]
TIMED = [1, 8, 64, 256, 8192]
TILES = [4, 16, 32, 64]
CHUNKS = {
    "1 behind 200": [(1, 201)],
    "64 behind 200": [(1, 201)] * 64,
    "256 behind 200": [(1, 201)] * 256,
    "1 behind 8192": [(1, 8193)],
    "8 behind 3000": [(1, 3001)] * 8,
    "64 behind 1000": [(1, 1001)] * 64,
    "chunks among decodes": [(522, 1514), (1, 700), (30, 5000), (1, 20), (64, 64)],
}
ATTENTION_REPEATS = 20
Call = Callable[[], object]


class Older:
    """The modules of the older commit, as a package of another name."""

    def __init__(self, folder: Path) -> None:
        self._home = tempfile.mkdtemp()
        target = Path(self._home) / "older_octavo"
        shutil.copytree(folder / "src" / "octavo", target)
        for file in target.rglob("*.py"):
            file.write_text(file.read_text().replace("octavo.", "older_octavo."))
        sys.path.insert(0, self._home)

    def __getitem__(self, module: str) -> Any:
        return importlib.import_module(f"older_octavo.kernels.{module}")


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit by bit, but any NaN for any other."""
    if not a.dtype.is_floating_point:
        return torch.equal(a, b)
    if a.element_size() == 1:
        return torch.equal(a.view(torch.uint8), b.view(torch.uint8))
    ints = torch.int16 if a.element_size() == 2 else torch.int32
    return bool(((a.view(ints) == b.view(ints)) | (a.isnan() & b.isnan())).all())


class Rows:
    """Random inputs of `tokens` rows; some rows are zeros, tiny, huge or not finite."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.qkv = torch.randn((tokens, HEADS + 2 * KV_HEADS, WIDTH), device=CUDA).bfloat16() * 3
        self.norms = torch.rand((2, WIDTH), device=CUDA).bfloat16() + 0.5
        self.angles = RotaryTable.make(8200, WIDTH, 1e6, CUDA).at(torch.randint(8200, (tokens,), device=CUDA))
        self.slots = torch.randperm(tokens + 40, device=CUDA)[:tokens]
        blocks = -(-(tokens + 40) // BLOCK_SIZE)
        self.caches = torch.zeros((2, 2, blocks, BLOCK_SIZE, KV_HEADS, WIDTH), dtype=torch.bfloat16, device=CUDA)
        self.x, self.change = torch.randn((2, tokens, HIDDEN), device=CUDA).bfloat16() * 4
        self.weight = torch.rand(HIDDEN, device=CUDA).bfloat16() + 0.5
        self.logits = torch.randn((tokens, EXPERTS), device=CUDA) * 2
        if tokens > 5:
            self.qkv[1] *= 1e-3
            self.qkv[2, 3], self.x[2], self.change[2] = 0, 0, 0
            self.qkv[3, -1, 7], self.qkv[4, -2, 9], self.qkv[5, 1, 100] = torch.nan, torch.inf, -torch.inf
            self.slots[0] = -1
            self.change[4, 9], self.x[5] = torch.inf, self.x[5] * 1e-8
            self.logits[3, 5] = torch.nan

    def attention_input(self, function: Callable[..., torch.Tensor], which: int, **tile: int) -> torch.Tensor:
        return function(
            self.qkv, self.norms[0], self.norms[1], EPS, self.angles, self.caches[which], self.slots, **tile
        )


class Checks:
    """What was compared, and what differed."""

    def __init__(self) -> None:
        self.count = 0
        self.different: list[str] = []

    def __call__(self, name: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        self.count += 1
        if not same(ours, theirs):
            self.different.append(name)


def check_rows(rows: Rows, older: Older, check: Checks) -> None:
    """Norm, rotation and cache write; sum, norm and rounding in every combination that a model asks for."""
    theirs = rows.attention_input(older["attention_input"].attention_input, 0)
    for tile_rows in TILES:
        rows.caches[1].zero_()
        ours = rows.attention_input(attention_input, 1, tile_rows=tile_rows)
        check(f"queries T={rows.tokens} tile {tile_rows}", ours, theirs)
        check(f"cache T={rows.tokens} tile {tile_rows}", rows.caches[1], rows.caches[0])
    norm, quantize = older["rms_norm.cuda"].cuda_rms_norm, older["quantize"].quantize
    for change, bf16, fp8, total in itertools.product((None, rows.change), (False, True), (False, True), (False, True)):
        name = f"T={rows.tokens} change {change is not None} bf16 {bf16} fp8 {fp8} total {total}"
        ours_all = add_norm(rows.x, change, rows.weight, EPS, bf16=bf16, fp8=fp8, total=total)
        summed = rows.x if change is None else rows.x + change
        normed = norm(summed, rows.weight, EPS)
        if total:
            check(f"sum {name}", ours_all.total, summed)
        if bf16:
            check(f"norm {name}", ours_all.in_bf16.data, normed)
        if fp8:
            codes = quantize(normed)
            check(f"codes {name}", ours_all.in_fp8.data, codes.data)
            check(f"scales {name}", ours_all.in_fp8.scale, codes.scale)


class Layers:
    """One expert layer of each commit on the same weights."""

    def __init__(self, older: Older, most: int) -> None:
        gate_up = random_weights("channel", EXPERTS, 2, INTERMEDIATE, HIDDEN)
        down = random_weights("channel", EXPERTS, 1, HIDDEN, INTERMEDIATE)
        room = moe_workspace(most, TOP_K, gate_up, down)
        self.ours = KernelExperts(gate_up, down, top_k=TOP_K, renormalize=True, workspace=room)
        theirs = [older["scaled"].ChannelWeights(w.data, w.scale) for w in (gate_up, down)]  # type: ignore[union-attr]
        room = older["moe"].moe_workspace(most, TOP_K, *theirs)
        self.theirs = older["moe.experts"].KernelExperts(*theirs, top_k=TOP_K, renormalize=True, workspace=room)

    def check(self, rows: Rows, check: Checks) -> None:
        normed = add_norm(rows.x, rows.change, rows.weight, EPS, bf16=True, fp8=True)
        ours = self.ours(normed.in_fp8, rows.logits)
        check(f"experts T={rows.tokens}", ours, self.theirs(normed.in_bf16.data, rows.logits))


class Attention:
    """A batch over a random cache, by both commits, its plans of the number of lines that a graph has."""

    def __init__(self, chunks: list[tuple[int, int]], older: Older) -> None:
        needed = [-(-context // BLOCK_SIZE) for _, context in chunks]
        blocks = iter(torch.split(torch.randperm(sum(needed)).to(torch.int32), needed))
        tables = torch.full((len(chunks), max(needed)), -1, dtype=torch.int32)
        for row, size in enumerate(needed):
            tables[row, :size] = next(blocks)
        starts = tuple(itertools.accumulate((tokens for tokens, _ in chunks), initial=0))
        shape = (2, sum(needed), BLOCK_SIZE, KV_HEADS, WIDTH)
        self.cache = torch.randn(shape, dtype=torch.bfloat16, device=CUDA)
        self.queries = torch.randn((starts[-1], HEADS, WIDTH), dtype=torch.bfloat16, device=CUDA)
        self.older = older["paged_attention"]
        self.plan, self.their_plan = (
            plan(
                tables.to(CUDA), starts, tuple(context for _, context in chunks),
                block_size=BLOCK_SIZE, heads_per_kv_head=HEADS // KV_HEADS,
            )
            for plan in (plan_paged_attention, self.older.plan_paged_attention)
        )  # fmt: skip
        self.room, self.their_room = (kind.allocate(HEADS, WIDTH, CUDA) for kind in (Partials, self.older.Partials))

    def fixed(self, plan: Any) -> Any:
        """`plan` as a graph has it."""
        work = torch.cat((plan.work, plan.work.new_full((MAX_PARTIALS, 7), -1)))
        folds = torch.cat((plan.folds, plan.folds.new_full((len(self.queries), 4), -1)))
        live = torch.tensor([len(plan.work), len(plan.folds)], dtype=torch.int32, device=CUDA)
        return type(plan)(**(vars(plan) | {"work": work, "folds": folds, "live": live}))

    def check(self, name: str, check: Checks) -> None:
        """Launched and as a graph has it, several times."""
        expected = self.older.paged_attention(self.queries, self.cache, self.their_plan, self.their_room)
        for plan, _ in itertools.product((self.plan, self.fixed(self.plan)), range(ATTENTION_REPEATS)):
            self.room.stats.fill_(torch.nan)
            out = torch.full_like(self.queries, torch.nan)
            check(f"attention {name}", paged_attention(self.queries, self.cache, plan, self.room, out=out), expected)

    def times(self) -> list[float]:
        """Microseconds of a call: older and ours."""
        old, new = self.fixed(self.their_plan), self.fixed(self.plan)
        return [
            time(lambda: self.older.paged_attention(self.queries, self.cache, old, self.their_room)),
            time(lambda: paged_attention(self.queries, self.cache, new, self.room)),
        ]


def time(call: Call) -> float:
    """Median microseconds of a call among four under graph replay."""
    return replay([call] * 4, 30).median


Line = tuple[str, int, list[float]]
"""Operation, tokens, and microseconds of the older commit and of this one."""


def lines(tokens: int, older: Older, layers: Layers) -> list[Line]:
    """All that `check_rows` and `Layers` compare, timed."""
    rows = Rows(tokens)
    norm, quantize = older["rms_norm.cuda"].cuda_rms_norm, older["quantize"].quantize
    old_input = older["attention_input"].attention_input
    summed = functools.partial(add_norm, rows.x, rows.change, rows.weight, EPS, fp8=True)
    normed = add_norm(rows.x, rows.change, rows.weight, EPS, bf16=True, fp8=True)
    separate = time(lambda: quantize(norm(rows.x + rows.change, rows.weight, EPS)))
    inputs = [time(lambda: rows.attention_input(old_input, 0))]
    inputs += [time(functools.partial(rows.attention_input, attention_input, 1, tile_rows=size)) for size in TILES]
    theirs = time(lambda: layers.theirs(normed.in_bf16.data, rows.logits))
    return [
        ("attention_input", tokens, inputs),
        ("sum, norm, quantize", tokens, [separate, time(functools.partial(summed, bf16=False))]),
        ("the same, bf16 beside it", tokens, [separate, time(functools.partial(summed, bf16=True))]),
        ("route and experts", tokens, [theirs, time(lambda: layers.ours(normed.in_fp8, rows.logits))]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="folder with src/octavo of the older commit")
    args = parser.parse_args()
    torch.manual_seed(0)
    older, check = Older(args.old), Checks()
    layers = Layers(older, max(CHECKED))
    for tokens in CHECKED:
        rows = Rows(tokens)
        check_rows(rows, older, check)
        layers.check(rows, check)
    found = [line for tokens in TIMED for line in lines(tokens, older, layers)]
    for name, chunks in CHUNKS.items():
        attention = Attention(chunks, older)
        attention.check(name, check)
        found.append(("attention " + name, len(attention.queries), attention.times()))
    print(f"us: older commit, this one (attention_input: tiles of {TILES} rows)")
    for name, tokens, times in found:
        print(f"{name:32}{tokens:6}" + "".join(f"{value:10.1f}" for value in times))
    print(f"{torch.cuda.get_device_name()}: {check.count} comparisons, {len(check.different)} differ")
    print(*check.different[:40], sep="\n")
    sys.exit(bool(check.different))


if __name__ == "__main__":
    main()
