"""The workloads of `benchmarks.end_to_end`, for engines in whose environment Octavo is not installed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path


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
WARM = Workload("warm", 16, 1000, 4)
MAX_MODEL_LEN = 2100
BUDGET = 8192
"""Tokens of a step."""
MAX_REQUESTS = 256
"""That run at once."""

Generate = Callable[[list[list[int]], int], Sequence[Sequence[int]]]
"""From prompts, and how many tokens each gets, to these tokens, greedily."""


def parse_args(description: str | None) -> argparse.Namespace:
    """What every such script takes."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder with a config.json")
    parser.add_argument("out", type=Path, help="file for the rates, for `benchmarks.end_to_end --peer`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="names of workloads; default: all")
    parser.add_argument("--extra", type=json.loads, default={}, help="JSON object: more arguments of the engine")
    return parser.parse_args()


def measure(generate: Generate, vocab_size: int, args: argparse.Namespace, about: dict[str, object]) -> None:
    """Run each workload once unmeasured and then as often as told; write all rates to `args.out` as they come, with what is said `about`
    the engine."""
    ask(generate, WARM, 0, vocab_size)
    rates: dict[str, list[float]] = {}
    for workload in WORKLOADS:
        if args.only and workload.name not in args.only:
            continue
        seconds = [ask(generate, workload, seed, vocab_size) for seed in range(args.repeats + 1)]
        rates[workload.name] = [workload.counted / each for each in seconds[1:]]
        print(workload.name, *(f"{rate:.0f}" for rate in rates[workload.name]), flush=True)
        args.out.write_text(json.dumps(about | {"rates": rates}, indent=2) + "\n")


def ask(generate: Generate, workload: Workload, seed: int, vocab_size: int) -> float:
    """Seconds that the requests of `workload` took."""
    pick = random.Random(f"{workload.name} {seed}")
    prompts = [[pick.randrange(vocab_size) for _ in range(workload.prompt)] for _ in range(workload.count)]
    began = time.perf_counter()
    answers = generate(prompts, workload.made)
    seconds = time.perf_counter() - began
    assert [len(answer) for answer in answers] == [workload.made] * workload.count
    return seconds
