"""Recovery at full shape from a real illegal access: `python -m benchmarks.recovery`, on one GPU.

The same requests run twice, once undisturbed and once with faults in the worker; tokens and logprobs must be equal.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import time
from collections import defaultdict

import msgspec

from benchmarks import against
from benchmarks.provenance import write_result
from benchmarks.standbys import await_standbys
from octavo.config import Settings
from octavo.engine.engine import Engine
from octavo.engine.request import Request
from octavo.engine.statistics import RecoveryRecord
from octavo.sampling import SamplingParams
from octavo.startup import start, with_keeper

COLUMNS = ("fault", "requests", "tokens computed again", "seconds", "of which", "longest pause of all tokens, s")


@dataclasses.dataclass
class Run:
    """What all requests gave, and when."""

    answers: dict[str, list[tuple[int, float]]]
    """(token, logprob) of each place."""
    ends: dict[str, str]
    arrivals: list[float]

    def pause_s(self) -> float:
        """Longest time in which nobody got a token."""
        return max(late - early for early, late in zip(self.arrivals, self.arrivals[1:], strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3-30b-a3b-fp8-dynamic")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--load-format", default="dummy")
    parser.add_argument("--num-prompts", type=int, default=100)
    parser.add_argument(
        "--faults", nargs="+", default=["out-of-bounds", "kill", "out-of-bounds"], help="kinds, a few steps apart"
    )
    parser.add_argument("--name", default="recovery", help="of the result")
    args = against.parse_args(parser, "recovery")
    began = time.monotonic()
    settings = Settings.from_values(
        {
            "model": args.model,
            "device": args.device,
            "load_format": args.load_format,
            "max_model_len": 2100,
            "inject_fault": [f"{kind}@step:{FIRST_FAULT + APART * i}" for i, kind in enumerate(args.faults)],
        }
    )
    records: list[RecoveryRecord] = []
    runtime = start(settings, with_keeper)
    start_s = time.monotonic() - began
    try:
        engine = runtime.engine(observe_recovery=records.append)
        requests = draw(args.num_prompts, runtime.config.vocab_size)
        undisturbed = ask(engine, requests, "undisturbed")
        await_standbys(runtime.source)
        runs = [undisturbed, ask(engine, requests, "disturbed")]
    finally:
        runtime.close()
    check(runs, records, len(args.faults), args.num_prompts)
    print(f"start {start_s:.1f} s: {runtime.phases}")
    rows = [
        [
            kind,
            record.requests,
            record.tokens,
            round(record.seconds, 2),
            ", ".join(f"{name} {seconds:.2f}" for name, seconds in record.phases.items()),
            round(runs[1].pause_s(), 2),
        ]
        for kind, record in zip(args.faults, records, strict=True)
    ]
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in runtime.phases.items())
    write_result(
        args.name,
        title=f"Recovery, {args.model}",
        conditions=f"{args.num_prompts} requests of {PROMPT} prompt and {MADE} made tokens with logprobs, half greedy and half "
        f"sampled, all at once; all finished, with the tokens and logprobs of an undisturbed run. The whole start "
        f"beside it, weights included: {start_s:.1f} s ({phases}). Longest pause undisturbed: {runs[0].pause_s():.2f} s",
        columns=COLUMNS,
        rows=rows,
        raw={"recoveries": msgspec.to_builtins(records), "start_s": start_s, "start_phases": dict(runtime.phases)},
    )
    for row in rows:
        print(*row, sep=" | ")


PROMPT, MADE = 128, 64
"""Tokens of a request."""
APART = 10
"""Steps between one fault and the next."""
FIRST_FAULT = MADE + 30
"""An engine step of the second run: each takes a step per made token, and a few more."""


def draw(count: int, vocab_size: int) -> list[tuple[list[int], SamplingParams]]:
    """Prompts and how to sample."""
    rng = random.Random(0)
    greedy = SamplingParams(temperature=0.0, max_tokens=MADE, ignore_eos=True, logprobs=0)
    drawn = []
    for number in range(count):
        sampling = greedy if number % 2 else greedy.replace(temperature=1.0, top_p=0.9, seed=number)
        drawn.append(([rng.randrange(vocab_size) for _ in range(PROMPT)], sampling))
    return drawn


def ask(engine: Engine, requests: list[tuple[list[int], SamplingParams]], name: str) -> Run:
    """All requests at once, to their ends."""
    for number, (prompt, sampling) in enumerate(requests):
        engine.add(Request(f"{name} {number}", prompt, sampling))
    run = Run(defaultdict(list), {}, [])
    while engine.has_work:
        for update in engine.step():
            which = update.request_id.removeprefix(name)
            for token in update.tokens:
                assert token.score is not None
                run.answers[which].append((token.token_id, token.score.logprob))
                run.arrivals.append(time.monotonic())
            if update.finish_reason is not None:
                run.ends[which] = update.finish_reason.value
    return run


def check(runs: list[Run], records: list[RecoveryRecord], faults: int, requests: int) -> None:
    """Exit with what is wrong, if anything is."""
    undisturbed, disturbed = runs
    if any(list(run.ends.values()) != ["length"] * requests for run in runs):
        sys.exit(f"not all requests finished: {undisturbed.ends} {disturbed.ends}")
    differ = [number for number, answer in undisturbed.answers.items() if answer != disturbed.answers[number]]
    for number in differ[:5]:
        pairs = enumerate(zip(undisturbed.answers[number], disturbed.answers[number], strict=True))
        place, (expected, got) = next((place, pair) for place, pair in pairs if pair[0] != pair[1])
        print(f"request{number}, token {place}: {got} instead of {expected}")
    if differ:
        sys.exit(f"{len(differ)} of {requests} answers differ from those of the undisturbed run")
    if len(records) != faults:
        sys.exit(f"{len(records)} recoveries for {faults} faults")


if __name__ == "__main__":
    main()
