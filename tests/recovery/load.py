"""A hundred mixed requests for octavo-tiny, and what is told of them."""

from __future__ import annotations

import random

from engine.harness import Outcome
from octavo.config import Settings
from octavo.engine import Engine, Request
from octavo.sampling import SamplingParams

SAMPLINGS = [
    SamplingParams(temperature=0, logprobs=2),
    SamplingParams(temperature=0.8, top_p=0.9, logprobs=0),
    SamplingParams(temperature=1.3, top_k=20, min_p=0.01),
    SamplingParams(temperature=0.7, presence_penalty=0.5, frequency_penalty=0.5, logprobs=1),
    SamplingParams(temperature=0, repetition_penalty=1.3, prompt_logprobs=1),
    SamplingParams(temperature=1.0, logit_bias={7: 5.0, 9: -5.0}, min_tokens=3, stop_token_ids=[5, 7]),
]


def settings(**changes: object) -> Settings:
    """Steps that hold all running requests with their whole histories, and short waits."""
    small: dict[str, object] = {
        "device": "cpu",
        "cpu_threads": 1,
        "max_model_len": 128,
        "max_num_seqs": 100,
        "max_num_batched_tokens": 1280,
        "num_gpu_blocks_override": 420,
        "max_worker_restarts": 1000,
        "worker_step_timeout": 1.0,
        "crash_dir": None,
    }
    return Settings(**{**small, **changes})  # type: ignore[arg-type]


def requests(count: int = 100, prefix: str = "r") -> list[Request]:
    """Prompts that share beginnings; answers of 4 to 50 tokens, most of them short."""
    dice = random.Random(4)
    made = []
    for i in range(count):
        sampling = SAMPLINGS[i % len(SAMPLINGS)]
        prompt = [*range(40, 40 + 18 * (i % 6 == 0)), *(dice.randrange(256) for _ in range(dice.randint(1, 9)))]
        ends = sampling.stop_token_ids
        sampling = sampling.replace(
            max_tokens=4 + 47 * i * i // count**2, ignore_eos=not ends, seed=None if i % 5 else i
        )
        made.append(Request(f"{prefix}{i}", prompt, sampling))
    return made


def answers(engine: Engine, asked: list[Request]) -> dict[str, Outcome]:
    """Ask all, and step until all have ended."""
    for request in asked:
        engine.add(request)
    outcomes = {request.request_id: Outcome() for request in asked}
    while engine.has_work:
        for update in engine.step(0.05):
            outcomes[update.request_id].take(update)
    return outcomes
