"""Tokens per second of the model on the CPU: `python -m benchmarks.cpu_operations`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks import against
from benchmarks.provenance import write_result
from octavo.checkpoints.folder import resolve_folder
from octavo.models.config import ModelConfig
from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.models.load import load_model

BLOCK = 16
CONTEXT = 512
"""Tokens of each request in the decode rows."""
BURST = (1001,) * 8 + (184,)
"""Prompts of one step of exactly 8192 tokens."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--decode", type=int, nargs="+", default=[1, 32, 256])
    args = against.parse_args(parser, "cpu_operations")
    torch.set_num_threads(args.threads)
    folder = resolve_folder("octavo-tiny", None)
    loaded = load_model(folder, load_format="dummy", device=torch.device("cpu"), seed=0, progress=False)
    workloads = {f"prefill, {len(BURST)} prompts": [(0, count) for count in BURST]}
    workloads |= {f"decode, {n} requests, {CONTEXT} tokens each": [(CONTEXT - 1, 1)] * n for n in args.decode}
    rows, raw = [], {}
    for name, chunks in workloads.items():
        batch, cache = _batch(loaded.config, chunks)
        wall, cpu = _measure(partial(loaded.model.forward, batch, cache), args.repeats)
        tokens = len(batch.token_ids)
        middle = statistics.median(wall)
        raw[name] = {"wall_s": wall, "cpu_s": cpu}
        rows.append(
            [name, tokens, *(_ms(s) for s in (middle, min(wall), max(wall))), _ms(min(cpu)), round(tokens / middle)]
        )
    path = write_result(
        "cpu_operations",
        title="The model on the CPU",
        conditions=f"octavo-tiny's shape (4 layers, 128 experts of which 8 are chosen), random FP8 weights, hidden states "
        f"only, {args.repeats} repeats after 2 warm ones, wall clock and processor time of all threads, "
        f"{args.threads} threads",
        columns=["step", "tokens", "median ms", "least ms", "most ms", "least processor ms", "tokens/s"],
        rows=rows,
        raw=raw,
    )
    print(path.read_text(encoding="utf-8"))


def _batch(config: ModelConfig, chunks: Sequence[tuple[int, int]]) -> tuple[ForwardBatch, KVCache]:
    """(first position, count) of each request -> a batch of random tokens, and a cache of finite numbers."""
    columns = max(-(-(start + count) // BLOCK) for start, count in chunks)
    tables = torch.arange(len(chunks) * columns, dtype=torch.int32).view(len(chunks), columns)
    positions = torch.cat([torch.arange(start, start + count) for start, count in chunks])
    counts = torch.tensor([count for _, count in chunks])
    owners = torch.repeat_interleave(torch.arange(len(chunks)), counts)
    noise = torch.Generator().manual_seed(0)
    cache = KVCache.allocate(
        config.cache,
        num_blocks=tables.numel(),
        block_size=BLOCK,
        device=torch.device("cpu"),
    )
    for layer in cache.layers:
        layer.copy_(torch.randn(layer.shape, generator=noise))
    batch = ForwardBatch(
        token_ids=torch.randint(config.vocab_size, (len(positions),), generator=noise),
        positions=positions,
        slot_mapping=tables[owners, positions // BLOCK].long() * BLOCK + positions % BLOCK,
        block_tables=tables,
        chunk_starts=(0, *counts.cumsum(0).tolist()),
        context_lens=tuple(start + count for start, count in chunks),
    )
    return batch, cache


def _measure(run: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Wall and processor seconds of each call."""
    wall, cpu = [], []
    for _ in range(repeats + 2):
        began, spent = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - spent)
    return wall[2:], cpu[2:]


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


if __name__ == "__main__":
    main()
