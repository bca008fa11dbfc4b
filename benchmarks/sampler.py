"""Time of sampling and scoring one step: `python -m benchmarks.sampler [--device cuda]`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks import against
from benchmarks.provenance import write_result
from octavo.sampling import SamplingParams
from octavo.worker.sampling.adjust import Row
from octavo.worker.sampling.counts import TokenCounts
from octavo.worker.sampling.sampler import sample
from octavo.worker.sampling.scores import score

VOCAB = 151_936
"""Of Qwen3."""
KINDS = {
    "greedy": SamplingParams(temperature=0),
    "temperature": SamplingParams(temperature=0.7, seed=1),
    "min-p": SamplingParams(temperature=0.7, min_p=0.05, seed=1),
    "top-k and top-p": SamplingParams(temperature=0.7, top_k=20, top_p=0.8, seed=1),
    "top-p": SamplingParams(temperature=0.7, top_p=0.8, seed=1),
    "penalties, 1000 tokens": SamplingParams(temperature=0.7, repetition_penalty=1.1, seed=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 110])
    parser.add_argument("--repeats", type=int, default=7)
    args = against.parse_args(parser, "sampler")
    device = torch.device(args.device)
    rows, raw = [], {}
    for count in args.rows:
        logits = 3 * torch.randn((count, VOCAB), generator=torch.Generator().manual_seed(0)).to(device)
        for name, run in _runs(logits).items():
            times = _measure(run, args.repeats, device)
            raw[f"{name}, {count} rows"] = times
            rows.append([name, count, _ms(statistics.median(times)), _ms(min(times)), _ms(max(times))])
    path = write_result(
        f"sampler_{args.device}",
        title=f"Sampling one step, {args.device}",
        conditions=f"{VOCAB} ids, logits on the device, {args.repeats} repeats after 2 warm ones, wall clock, "
        f"{torch.get_num_threads()} CPU threads",
        columns=["what", "rows", "median ms", "least ms", "most ms"],
        rows=rows,
        raw=raw,
    )
    print(path.read_text(encoding="utf-8"))


def _runs(logits: torch.Tensor) -> dict[str, Callable[[], object]]:
    """One call for each way to choose, and one that scores with 20 likeliest."""
    counts = TokenCounts(len(logits), VOCAB, logits.device)
    for slot in range(len(logits)):
        counts.begin(slot, range(1000), range(500, 1000))
    token_ids = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)

    def sampling(params: SamplingParams, allowed: bytes | None = None) -> Callable[[], object]:
        slots = range(len(logits)) if params.repetition_penalty != 1 else [-1] * len(logits)
        rows = [Row(params, 1000 + index, (), slot, allowed) for index, slot in enumerate(slots)]
        return lambda: sample(logits, rows, counts).token_ids

    runs: dict[str, Callable[[], object]] = {name: sampling(params) for name, params in KINDS.items()}
    every_other = b"\x55" * -(-VOCAB // 8)
    runs["greedy, every other id allowed"] = sampling(KINDS["greedy"], every_other)
    return runs | {"logprobs, 20 likeliest": lambda: score(logits, token_ids, 20)}


def _measure(run: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Seconds of each call."""
    times = []
    for _ in range(repeats + 2):
        _wait(device)
        began = time.perf_counter()
        run()
        _wait(device)
        times.append(time.perf_counter() - began)
    return times[2:]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


if __name__ == "__main__":
    main()
