"""Whole requests on one GPU at Qwen3-30B-A3B's shape in FP8, random weights: `python -m benchmarks.end_to_end`.

The workloads are those of a script for vLLM's offline engine; `--peer FILE` takes the lines that it printed on this machine.
Each workload runs several times on prompts of its own; a SHA-256 over all tokens says whether two settings gave the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import random
import re
import statistics
import time
from pathlib import Path

from tqdm import tqdm

from benchmarks import against
from benchmarks.provenance import write_result
from benchmarks.standbys import await_standbys
from octavo.config import Settings
from octavo.engine.engine import Engine
from octavo.engine.request import Request
from octavo.engine.statistics import StepRecord
from octavo.sampling import SamplingParams
from octavo.startup import start, with_keeper

COLUMNS = ("workload", "tok/s", "lowest and highest", "step, ms", "vLLM 0.26.0", "ratio")
OURS = 4
"""Columns that need no peer."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """`count` requests at once, of `prompt` random tokens, greedy, with `made` tokens each."""

    name: str
    count: int
    prompt: int
    made: int

    @property
    def counted(self) -> int:
        """Tokens that the rate is of: those made, or the prompts' if there is one each."""
        return self.count * (self.prompt if self.made == 1 else self.made)


WORKLOADS = [
    Workload("seed burst", 100, 1000, 1),
    Workload("prefill", 512, 1000, 1),
    *(Workload(f"decode b={count}", count, 128, 256) for count in (1, 8, 32, 64, 128, 256)),
]


@dataclasses.dataclass
class Measured:
    """Seconds of each run, and the steps of the last."""

    seconds: list[float]
    steps: list[StepRecord]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3-30b-a3b-fp8-dynamic")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="names of workloads; default: all")
    parser.add_argument("--enforce-eager", action="store_true", help="no graphs")
    parser.add_argument("--peer", type=Path, help="what the script for vLLM printed")
    parser.add_argument("--name", default="end_to_end", help="of the result")
    args = against.parse_args(parser, "end_to_end")
    began = time.monotonic()
    settings = Settings.from_values(
        {
            "model": args.model,
            "device": args.device,
            "load_format": "dummy",
            "max_model_len": 2100,
            "max_num_seqs": 256,
            "max_num_batched_tokens": 8192,
            "enforce_eager": args.enforce_eager,
        }
    )
    steps: list[StepRecord] = []
    runtime = start(settings, with_keeper)
    start_s = time.monotonic() - began
    print(f"start {start_s:.1f} s: {runtime.phases}", flush=True)
    peer = peer_rates(args.peer)
    rows, digest = [], hashlib.sha256()
    try:
        engine = runtime.engine(observe=steps.append)
        vocab_size = runtime.config.vocab_size
        ask(engine, Workload("warm", 16, 1000, 4), 0, vocab_size)
        await_standbys(runtime.source)
        for workload in tqdm(WORKLOADS, desc="Workloads"):
            if not args.only or workload.name in args.only:
                measured = measure(engine, workload, args.repeats, vocab_size, steps, digest)
                rows.append(row_of(workload, measured, peer))
                print(*rows[-1], sep=" | ", flush=True)
    finally:
        runtime.close()
    sha256 = digest.hexdigest()
    print(f"SHA-256 of all tokens: {sha256[:16]}")
    graphs = "no graphs" if args.enforce_eager else "graphs"
    write_result(
        args.name,
        title=f"Whole requests, {args.model}",
        conditions=f"random weights, greedy, all requests of a workload at once, budget 8192, 256 requests at a time, prefix "
        f"caching on, {graphs}, offline; prompts of 1000 tokens and one made (prompt tok/s), or of 128 and 256 made (made "
        f"tok/s); medians of {args.repeats}; SHA-256 of all tokens {sha256[:16]}",
        columns=COLUMNS if peer else COLUMNS[:OURS],
        rows=rows if peer else [row[:OURS] for row in rows],
        raw={"start_s": start_s, "start_phases": dict(runtime.phases), "sha256": sha256},
    )


def measure(
    engine: Engine,
    workload: Workload,
    repeats: int,
    vocab_size: int,
    steps: list[StepRecord],
    digest: hashlib._Hash,
) -> Measured:
    """Run `workload` once unmeasured and `repeats` times; its tokens go into `digest`."""
    seconds = []
    for seed in range(repeats + 1):
        steps.clear()
        began = time.perf_counter()
        tokens = ask(engine, workload, seed + 1, vocab_size)
        seconds.append(time.perf_counter() - began)
        digest.update(repr(tokens).encode())
    return Measured(seconds[1:], list(steps))


def ask(engine: Engine, workload: Workload, seed: int, vocab_size: int) -> list[list[int]]:
    """The tokens that the requests of `workload` got."""
    pick = random.Random(f"{workload.name} {seed}")
    sampling = SamplingParams(temperature=0.0, max_tokens=workload.made, ignore_eos=True)
    made: dict[str, list[int]] = {}
    for number in range(workload.count):
        prompt = [pick.randrange(vocab_size) for _ in range(workload.prompt)]
        made[f"{workload.name} {seed} {number}"] = []
        engine.add(Request(f"{workload.name} {seed} {number}", prompt, sampling))
    while engine.has_work:
        for update in engine.step():
            made[update.request_id] += [token.token_id for token in update.tokens]
    assert all(len(tokens) == workload.made for tokens in made.values())
    return list(made.values())


def row_of(workload: Workload, measured: Measured, peer: dict[str, float]) -> list[object]:
    """Cells of the table."""
    rates = sorted(workload.counted / seconds for seconds in measured.seconds)
    rate, theirs = statistics.median(rates), peer.get(workload.name)
    step_ms = 1e3 * statistics.median(measured.seconds) / len(measured.steps)
    return [
        workload.name,
        round(rate),
        f"{rates[0]:.0f} to {rates[-1]:.0f}",
        f"{step_ms:.2f}",
        "" if theirs is None else round(theirs),
        "" if theirs is None else f"{rate / theirs:.2f}",
    ]


def peer_rates(log: Path | None) -> dict[str, float]:
    """Name of a workload -> tok/s, the best of several lines; {} without a log."""
    rates: dict[str, float] = {}
    for line in log.read_text().splitlines() if log else []:
        found = re.match(r"E2E (.+): n=\d+ prompt=\d+ out=(\d+) .*prompt (\d+) tok/s  out (\d+) tok/s", line)
        if found:
            name, made, prompt_rate, made_rate = found.groups()
            rates[name] = max(rates.get(name, 0.0), float(prompt_rate if made == "1" else made_rate))
    return rates


if __name__ == "__main__":
    main()
