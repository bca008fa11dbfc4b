"""What bounds the sampling of one request, on the runner with the exact toy model: launched ahead, cut and preempted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bits.schedules import House, Job, Machine, Solo, houses, make_engine, run_schedule
from engine.harness import completing
from octavo.config.facts import PagedKv
from octavo.engine.update import FinishReason
from octavo.errors import RequestFailedError
from octavo.sampling import SamplingParams
from octavo.worker.sampling.scores import score
from worker.toy import HIDDEN, VOCAB, ToyModel

MACHINE = Machine(ToyModel(), vocab_size=VOCAB, eos_token_id=58, cache=(PagedKv(1, HIDDEN),))
LETTERS = [3, 7, 11]
words = st.lists(st.lists(st.sampled_from(LETTERS), min_size=1, max_size=3), max_size=5)


@st.composite
def bounded(draw: st.DrawFn) -> list[Job]:
    """Requests of few letters, so that forbidden words are met all the time."""
    return [
        Job(
            f"job-{number}",
            tuple(draw(st.lists(st.integers(0, 52), min_size=1, max_size=20))),
            SamplingParams(
                temperature=draw(st.sampled_from([0.0, 1.5])),
                seed=draw(st.integers(0, 99)),
                max_tokens=12,
                ignore_eos=True,
                allowed_token_ids=draw(st.sampled_from([[*range(53)], LETTERS, LETTERS])),
                bad_word_ids=draw(words),
                presence_penalty=draw(st.sampled_from([0.0, 0.0, 1.0])),
            ),
            draw(st.integers(0, 4)),
        )
        for number in range(draw(st.integers(1, 4)))
    ]


def obeys(job: Job, made: Sequence[int], finish: FinishReason | None) -> bool:
    """Whether each token was one that was left, and an end by error one where none was."""
    letters = set(job.sampling.allowed_token_ids or ())
    left = [letters - completing(job.sampling.bad_word_ids, list(made[:count])) for count in range(len(made) + 1)]
    return all(map(lambda token, ids: token in ids, made, left)) and (finish is FinishReason.ERROR) <= (not left[-1])


CROWDED = House(budget=20, seats=4, block_size=4, num_blocks=14, threshold=7)
"""With `MEETING` in it requests are preempted, and one ends for want of ids, whatever else is drawn."""
MEETING = [
    Job(f"job-{number}", tuple(range(20)), SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, **bounds))
    for number, bounds in enumerate(
        [{"allowed_token_ids": LETTERS}] * 4 + [{"allowed_token_ids": [3], "bad_word_ids": [[3, 3]]}]
    )
]


def test_no_schedule_makes_what_is_forbidden_or_another_token() -> None:
    seen: Counter[str] = Counter()
    solo = Solo(MACHINE)

    @settings(deadline=None, max_examples=150)
    @given(houses(), bounded())
    @example(CROWDED, MEETING)
    def sweep(house: House, drawn: list[Job]) -> None:
        answers = run_schedule(make_engine(MACHINE, house, seen), drawn, seen)
        assert solo.differences(drawn, answers) == []
        for job in drawn:
            answer = answers[job.name]
            assert obeys(job, [token for token, _ in answer.tokens], answer.finish), job
            seen["ended for want of ids"] += answer.finish is FinishReason.ERROR

    sweep()
    assert min(seen["preemptions"], seen["ended for want of ids"]) > 0


def test_where_no_id_is_left_the_error_names_what_forbids_them() -> None:
    job = Job("job", (1, 2), SamplingParams(temperature=0, allowed_token_ids=[3], bad_word_ids=[[3, 3]]))
    answer = run_schedule(make_engine(MACHINE, House(), Counter()), [job], Counter())["job"]
    assert [token for token, _ in answer.tokens] == [3]
    with pytest.raises(RequestFailedError, match="bad_words"):
        raise answer.error or AssertionError("no error")


def test_given_ids_have_the_scores_that_all_ids_have() -> None:
    logits = torch.randn((3, VOCAB), generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([1, 2, 3])
    every = score(logits, tokens, VOCAB)
    asked = score(logits, tokens, 2, [[5, 60], [], [9]])
    for row, place, id_ in ((0, 0, 5), (0, 1, 60), (2, 0, 9)):
        assert asked.top_ids[row, place] == id_
        (column,) = (every.top_ids[row] == id_).nonzero()[0].tolist()
        assert asked.top_logprobs[row, place] == every.top_logprobs[row, column]
    assert asked.top_ids[1].tolist() == every.top_ids[1, :2].tolist()
    assert torch.equal(asked.logprobs, every.logprobs)


def test_a_request_gets_the_scores_of_its_ids_in_its_order() -> None:
    jobs = [
        Job("ids", (1, 2), SamplingParams(temperature=0, max_tokens=3, logprob_token_ids=[9, 4])),
        Job("most", (1, 2), SamplingParams(temperature=0, max_tokens=3, logprobs=3)),
    ]
    answers = run_schedule(make_engine(MACHINE, House(), Counter()), jobs, Counter())
    for (_, of_ids), (_, of_most) in zip(answers["ids"].tokens, answers["most"].tokens, strict=True):
        assert of_ids is not None
        assert of_most is not None
        assert [id_ for id_, _ in of_ids.top] == [9, 4]
        assert (of_ids.logprob, of_ids.rank, len(of_most.top)) == (of_most.logprob, of_most.rank, 3)
