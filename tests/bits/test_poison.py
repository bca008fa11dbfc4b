"""NaN belongs to the request that made it."""

from __future__ import annotations

import functools
from collections import Counter

import pytest

from bits.schedules import HEADS, House, Job, Solo, make_engine, run_schedule
from bits.tiny import tiny_machine
from octavo.engine.update import FinishReason
from octavo.errors import RequestFailedError
from octavo.sampling import SamplingParams

POISON = 59
HOUSE = House(budget=64, seats=32, block_size=4, num_blocks=130, ahead=2)


def clean(i: int, arrival: int = 0) -> Job:
    sampling = SamplingParams(
        seed=i, temperature=float(i % 3), logprobs=i % 2, logit_bias={POISON: -100.0}, max_tokens=6, ignore_eos=True
    )
    return Job(f"clean-{i}-{arrival}", (*HEADS[i % 3][: i % 14], i), sampling, arrival)


POISONED = {
    "in the prompt": Job("poisoned", (*HEADS[0][:9], POISON, *HEADS[1][:5]), SamplingParams(seed=1)),
    "in a long prompt, cut into chunks": Job("poisoned", (*HEADS[0], POISON, *HEADS[1][:9]), SamplingParams(seed=1)),
    "as a sampled token": Job(
        "poisoned", tuple(HEADS[0][:11]), SamplingParams(temperature=0, logit_bias={POISON: 100.0}, logprobs=1)
    ),
}


@functools.cache
def solo() -> Solo:
    """Of the clean requests, which are the same in all tests: each runs alone once."""
    return Solo(tiny_machine(POISON))


@pytest.mark.parametrize("where", POISONED)
@pytest.mark.parametrize("threshold", [0, 6], ids=["whole", "chunked"])
def test_one_request_of_32_with_nan_fails_alone(where: str, threshold: int) -> None:
    machine = tiny_machine(POISON)
    poisoned = POISONED[where]
    # Those that come later take over the blocks that hold NaN.
    first, later = [clean(i) for i in range(31)], [clean(i, arrival=9) for i in range(31)]
    jobs = [*first[:13], poisoned, *first[13:], *later]
    seen: Counter[str] = Counter()
    engine = make_engine(machine, House(**{**vars(HOUSE), "threshold": threshold}), seen)
    answers = run_schedule(engine, jobs, seen)
    assert answers["poisoned"].finish is FinishReason.ERROR
    assert isinstance(answers["poisoned"].error, RequestFailedError)
    assert solo().differences([*first, *later], answers) == []

    history = [*poisoned.prompt, *(token_id for token_id, _ in answers["poisoned"].tokens), 0]
    probe = run_schedule(engine, [Job("probe", tuple(history), SamplingParams(seed=1))], seen)["probe"]
    assert probe.finish is FinishReason.ERROR
    assert probe.num_cached_tokens <= history.index(POISON), "a block with NaN is in the prefix index"
    again = run_schedule(engine, [poisoned], seen)["poisoned"]
    assert again.finish is FinishReason.ERROR
    assert again.tokens == answers["poisoned"].tokens
