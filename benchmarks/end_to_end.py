"""Whole requests on one GPU at Qwen3-30B-A3B's shape in FP8, random weights: `python -m benchmarks.end_to_end`.

`--peer FILE ...` takes what other engines reached at the same workloads on this machine (`benchmarks/peers`). Each workload runs several times on prompts of its own; a SHA-256 over all tokens says whether two settings gave the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import against
from benchmarks.peers.about import name_of
from benchmarks.peers.workloads import WARM, WORKLOADS, Workload
from benchmarks.provenance import write_result
from benchmarks.standbys import await_standbys
from octavo.config import Settings
from octavo.engine.engine import Engine
from octavo.engine.request import Request
from octavo.engine.statistics import StepRecord
from octavo.sampling import SamplingParams
from octavo.startup import start, with_keeper

COLUMNS = ["workload", "tok/s", "lowest and highest", "step, ms"]


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
    parser.add_argument("--peer", type=Path, nargs="*", default=[], help="what scripts of benchmarks/peers wrote")
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
    peers = [json.loads(path.read_text()) for path in args.peer]
    rows, digest = [], hashlib.sha256()
    try:
        engine = runtime.engine(observe=steps.append)
        vocab_size = runtime.config.vocab_size
        ask(engine, WARM, 0, prompts_of(WARM, 0, vocab_size))
        await_standbys(runtime.source)
        for workload in tqdm(WORKLOADS, desc="Workloads"):
            if not args.only or workload.name in args.only:
                measured = measure(engine, workload, args.repeats, vocab_size, steps, digest)
                rows.append([*row_of(workload, measured), *beside(workload, measured, peers)])
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
        columns=[*COLUMNS, *(name_of(peer) for peer in peers), *(["ratio to the better"] if peers else [])],
        rows=rows,
        raw={"start_s": start_s, "start_phases": dict(runtime.phases), "sha256": sha256, "peers": peers},
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
        prompts = prompts_of(workload, seed + 1, vocab_size)
        steps.clear()
        began = time.perf_counter()
        tokens = ask(engine, workload, seed + 1, prompts)
        seconds.append(time.perf_counter() - began)
        digest.update(repr(tokens).encode())
    return Measured(seconds[1:], list(steps))


def prompts_of(workload: Workload, seed: int, vocab_size: int) -> list[list[int]]:
    """Random ids for each request of `workload`; drawn before the clock starts, as for the peers."""
    pick = random.Random(f"{workload.name} {seed}")
    return [[pick.randrange(vocab_size) for _ in range(workload.prompt)] for _ in range(workload.count)]


def ask(engine: Engine, workload: Workload, seed: int, prompts: Sequence[list[int]]) -> list[list[int]]:
    """The tokens that the requests of `workload` got."""
    sampling = SamplingParams(temperature=0.0, max_tokens=workload.made, ignore_eos=True)
    made: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        made[f"{workload.name} {seed} {number}"] = []
        engine.add(Request(f"{workload.name} {seed} {number}", prompt, sampling))
    while engine.has_work:
        for update in engine.step():
            made[update.request_id] += [token.token_id for token in update.tokens]
    assert all(len(tokens) == workload.made for tokens in made.values())
    return list(made.values())


def row_of(workload: Workload, measured: Measured) -> list[object]:
    """Cells of the table."""
    rates = sorted(workload.counted / seconds for seconds in measured.seconds)
    step_ms = 1e3 * statistics.median(measured.seconds) / len(measured.steps)
    return [workload.name, round(statistics.median(rates)), f"{rates[0]:.0f} to {rates[-1]:.0f}", f"{step_ms:.2f}"]


def beside(workload: Workload, measured: Measured, peers: Sequence[Mapping[str, Any]]) -> list[object]:
    """More cells: the median rate of each of the `peers`, with the lowest and the highest, and our median over the best of theirs."""
    if not peers:
        return []
    rates = [sorted(peer["rates"].get(workload.name, [])) for peer in peers]
    cells = [f"{statistics.median(each):.0f} ({each[0]:.0f} to {each[-1]:.0f})" if each else "" for each in rates]
    best = max((statistics.median(each) for each in rates if each), default=None)
    ours = statistics.median(workload.counted / seconds for seconds in measured.seconds)
    return [*cells, "" if best is None else f"{ours / best:.2f}"]


if __name__ == "__main__":
    main()
