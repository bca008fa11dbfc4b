"""Requests, and one run of all of them."""

from __future__ import annotations

import asyncio
import bisect
import dataclasses
import hashlib
import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from octavo.cli.bench.client import BenchClient, Outcome
from octavo.cli.bench.prompts import random_prompts
from octavo.cli.bench.recovery.kills import Kill
from octavo.cli.bench.recovery.processes import Kind

PERCENTILES = (50, 99, 100)
SAMPLINGS: Sequence[dict[str, Any]] = (
    {"temperature": 0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.2, "top_k": 20, "min_p": 0.01},
    {"temperature": 0.7, "presence_penalty": 0.5, "frequency_penalty": 0.5},
    {"temperature": 0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "stop": ["e", "42"], "include_stop_str_in_output": True},
    {"temperature": 0.9, "stop": ["\n", "a b"], "min_tokens": 3},
)

Payload = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Load:
    """One run of all requests, or several, one after the other."""

    outcomes: Sequence[Outcome]
    kills: Sequence[Kill] = ()

    @property
    def errors(self) -> list[str]:
        return [outcome.error for outcome in self.outcomes if not outcome.success]

    @property
    def digest(self) -> str:
        """SHA-256 over the answers."""
        return hashlib.sha256(json.dumps([outcome.answer for outcome in self.outcomes]).encode()).hexdigest()

    def differing(self, plain: Load) -> int:
        """Count the answers that are not those of `plain`, one run of the same requests; failed ones do not count."""
        expected = itertools.cycle(plain.outcomes)
        return sum(
            mine.success and mine.answer != other.answer for mine, other in zip(self.outcomes, expected, strict=False)
        )

    def recoveries_s(self) -> list[float]:
        """The longest time after each death of a worker or keeper in which no client got anything, in seconds.

        A kill ends what it looks at: the time after it is its own, unless the server had not recovered yet.
        """
        arrivals = sorted(itertools.chain.from_iterable(outcome.arrivals for outcome in self.outcomes))
        begins = [kill.at_s for kill in self.kills if kill.kind is not Kind.STANDBY and not kill.recovering]
        pauses = []
        for begin, end in itertools.zip_longest(begins, begins[1:], fillvalue=float("inf")):
            after = arrivals[bisect.bisect_right(arrivals, begin) : bisect.bisect_right(arrivals, end)]
            pauses.append(max((late - early for early, late in itertools.pairwise([begin, *after])), default=0.0))
        return pauses

    def tails(self) -> dict[str, float]:
        """Percentiles, in seconds, of the time to the first token, between chunks, and of the whole answer."""
        done = [outcome for outcome in self.outcomes if outcome.success]
        samples = {
            "ttft": [outcome.ttft_s for outcome in done],
            "itl": [itl for outcome in done for itl in outcome.itls_s],
            "e2el": [outcome.latency_s for outcome in done],
        }
        return {
            f"{name}_p{percent}_s": float(np.percentile(values or [0.0], percent))
            for name, values in samples.items()
            for percent in PERCENTILES
        }


async def ask_all(client: BenchClient, payloads: Sequence[Payload], concurrency: int | None) -> list[Outcome]:
    """Stream all of them, `concurrency` at once, or all."""
    free = asyncio.Semaphore(concurrency or len(payloads))

    async def ask(payload: Payload) -> Outcome:
        async with free:
            return await client.stream("/v1/completions", payload, len(payload["prompt"]))

    return list(await asyncio.gather(*map(ask, payloads)))


def uniform_requests(*, count: int, input_len: int, output_len: int, vocab_size: int, seed: int) -> list[Payload]:
    """Different prompts of one length, and answers of one length, sampled as the server does by default."""
    prompts = random_prompts(count=count, length=input_len, vocab_size=vocab_size, seed=seed)
    # With its ids a token that completes no character is a chunk too, and is timed.
    common = {"max_tokens": output_len, "ignore_eos": True, "return_token_ids": True}
    return [{**common, "prompt": prompt, "seed": seed + i} for i, prompt in enumerate(prompts)]


def mixed_requests(*, count: int, input_len: int, output_len: int, vocab_size: int, seed: int) -> list[Payload]:
    """Prompts and answers of up to these lengths, sampled in every way; all of them always answer the same."""
    dice = random.Random(seed)
    made = []
    for number in range(count):
        made.append(
            {
                "prompt": [dice.randrange(vocab_size) for _ in range(dice.randint(1, input_len))],
                "max_tokens": max(4, dice.randint(1, output_len)),
                "seed": seed + number,
                "return_token_ids": True,
                **SAMPLINGS[number % len(SAMPLINGS)],
                **dice.choice([{}, {"ignore_eos": True}]),
                **dice.choice([{}, {"logprobs": 0}, {"logprobs": 3}]),
            }
        )
    return made
