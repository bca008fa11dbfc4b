"""Masks that come late: their requests lose steps and no bits, and nobody else loses anything."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.harness import Outcome, collect, finish
from grammar.grammars import Forms
from grammar.test_engine import FORMS, alone, disturbed, engine, kill_follower, request
from octavo.engine import Engine, FinishReason
from octavo.engine.masks import Masks
from octavo.engine.step import CAUTIOUS
from octavo.grammar import Follower
from octavo.grammar.follower import Told
from octavo.messages import StepMasks, StepPlan
from octavo.structured_outputs import StructuredOutputsParams
from octavo.testing.mock_worker import MockWorker

END_S = 60.0


@pytest.fixture(scope="module")
def forms() -> Iterator[Forms]:
    """Of this module's own: its processes are killed."""
    opened = Forms()
    yield opened
    opened.close()


class Delayed(Follower):
    """Gives the n-th answer when it has been looked for `delays[n % len(delays)]` times after it came."""

    delays: tuple[int, ...] = (0,)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._due = 0
        self._count = 0
        self._held: deque[tuple[int, Told]] = deque()

    def follow(self, *args: Any) -> None:
        self._due += 1
        super().follow(*args)

    def advance(self, moves: Any) -> None:
        self._due += len(moves)
        super().advance(moves)

    def wait(self, timeout_s: float) -> None:
        """Nothing that is asked is waited for by the clock."""

    def take(self) -> Iterator[Told]:
        while self._due and not self.ended:
            for told in super().take():
                self._due -= 1
                self._held.append((self.delays[self._count % len(self.delays)], told))
                self._count += 1
            if self._due:
                super().wait(END_S)
        held, self._held = self._held, deque()
        for left, told in held:
            if left or self._held:  # in order
                self._held.append((max(0, left - 1), told))
            else:
                yield told


@pytest.fixture
def delayed(monkeypatch: pytest.MonkeyPatch) -> type[Delayed]:
    monkeypatch.setattr("octavo.engine.masks.Follower", Delayed)
    monkeypatch.setattr("octavo.engine.engine.PATIENCE_S", 0.0)
    return Delayed


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    drawn=st.lists(
        st.tuples(
            st.sampled_from([*FORMS, None]),
            st.binary(min_size=1, max_size=40),
            st.fixed_dictionaries(
                {"seed": st.integers(0, 99), "max_tokens": st.sampled_from([4, 7, 30])},
                optional={"logprobs": st.just(1), "min_tokens": st.just(3), "stop_token_ids": st.just([ord("q")])},
            ),
        ),
        min_size=1,
        max_size=6,
    ),
    delays=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    budget=st.sampled_from([4, 17, 256]),
    blocks=st.sampled_from([8, 20, 128]),
    die_at=st.sampled_from([None, None, 4, 11]),
    kill_follower_at=st.sampled_from([None, None, 6]),
    abort_at=st.sampled_from([None, 5, 9]),
)
def test_late_masks_change_no_bit(
    delayed: type[Delayed],
    forms: Forms,
    drawn: list[Any],
    delays: list[int],
    budget: int,
    blocks: int,
    die_at: int | None,
    kill_follower_at: int | None,
    abort_at: int | None,
) -> None:
    """With chunks, preemption, aborts and dead processes between; the mock worker asserts that no token comes without its mask."""
    compiled = {name: forms.compile(form) for name, form in FORMS.items()}
    requests = [
        request(f"r{number}", prompt, compiled.get(form or ""), **sampling)
        for number, (form, prompt, sampling) in enumerate(drawn)
    ]
    delayed.delays = (0,)
    expected = {each.request_id: alone(forms, each) for each in requests}
    delayed.delays = tuple(delays)

    def abort(made: Engine) -> None:
        made.abort("r0")

    outcomes = disturbed(forms, requests, budget, blocks, die_at, {kill_follower_at: kill_follower, abort_at: abort})
    if outcomes["r0"].reason is FinishReason.ABORT:
        got, whole = outcomes.pop("r0"), expected.pop("r0")
        assert got.token_ids == whole.token_ids[: len(got.token_ids)]
    assert outcomes == expected


def test_who_is_free_loses_no_step(delayed: type[Delayed], forms: Forms) -> None:
    """Each step gives a free request its token, however late the masks of others are."""
    grammar = forms.compile(FORMS["regex"])

    def steps(*delays: int) -> int:
        delayed.delays = delays
        made, _ = engine(forms)
        made.add(request("slow", b"x", grammar))
        made.add(request("free", b"y", None, max_tokens=20, ignore_eos=True))
        count, ended = 0, False
        while not ended:
            count += 1
            ended = any(update.request_id == "free" and update.finish_reason for update in made.step())
        made.close()
        return count

    assert steps(0) == steps(9) == steps(100)


def test_a_request_that_was_late_holds_up_no_step_for_a_while(
    delayed: type[Delayed], forms: Forms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps wait once for it, then not before it has made `CAUTIOUS` more tokens."""
    waited: list[int] = []

    class Counting(Masks):
        def wait_for(self, sequences: Any, timeout_s: float) -> None:
            super().wait_for(sequences, timeout_s)
            waited.extend(len(each.tokens) for each in sequences if each.mask() is None)

    monkeypatch.setattr("octavo.engine.engine.Masks", Counting)
    delayed.delays = (5,)
    made, _ = engine(forms)
    made.add(request("slow", b"x", forms.compile(StructuredOutputsParams(regex="[a-z]{60}"))))
    made.add(request("free", b"y", None, max_tokens=200, ignore_eos=True))
    finish(made)
    made.close()
    assert waited == list(range(2, 61, CAUTIOUS + 1))


class Silent(Follower):
    """Gives no answer before it may, and counts how often one is waited for."""

    waits = 0
    may_answer = False

    def wait(self, timeout_s: float) -> None:
        Silent.waits += 1
        super().wait(timeout_s)

    def take(self) -> Iterator[Told]:
        return super().take() if self.may_answer else iter(())


def test_no_step_waits_until_a_grammar_is_compiled(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    """To begin with a large one takes longer than many steps, which others need not notice."""
    monkeypatch.setattr("octavo.engine.masks.Follower", Silent)
    monkeypatch.setattr("octavo.engine.engine.PATIENCE_S", END_S)
    monkeypatch.setattr(Silent, "may_answer", False)
    monkeypatch.setattr(Silent, "waits", 0)
    made, _ = engine(forms)
    made.add(request("new", b"x", forms.compile(FORMS["regex"])))
    made.add(request("free", b"y", None, max_tokens=20, ignore_eos=True))
    outcomes: dict[str, Outcome] = {}
    while "free" in made.sequences:
        collect(outcomes, made.step())
    assert Silent.waits == 0
    assert len(outcomes["new"].token_ids) == 1
    Silent.may_answer = True
    while made.has_work:
        collect(outcomes, made.step())
    made.close()
    assert Silent.waits > 0
    assert outcomes["new"] == alone(forms, request("new", b"x", forms.compile(FORMS["regex"])))


class Hasty(Masks):
    """The twin: what is not told yet is taken to be what was told before."""

    def wait_for(self, sequences: Any, timeout_s: float) -> None:
        super().wait_for(sequences, timeout_s)
        for sequence in sequences:
            if sequence.allowed is not None:
                sequence.allowed = len(sequence.tokens), sequence.allowed[1]


def test_the_comparison_sees_a_mask_of_the_token_before(
    delayed: type[Delayed], forms: Forms, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request("a", b"x", forms.compile(FORMS["schema"]))
    delayed.delays = (0,)
    expected = alone(forms, asked)
    delayed.delays = (3,)
    assert alone(forms, asked) == expected
    monkeypatch.setattr("octavo.engine.engine.Masks", Hasty)
    assert alone(forms, asked) != expected


def test_a_step_is_launched_before_its_masks_are_known(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan goes out while the token before is unknown; then come its masks, and only then the next plan."""
    monkeypatch.setattr("octavo.engine.engine.PATIENCE_S", END_S)
    made, source = engine(forms)
    said: list[tuple[str, int]] = []
    worker = source.workers[0]
    send, tell, receive = worker.send, worker.tell, worker.receive

    def log(kind: str, call: Any) -> Any:
        def logged(argument: Any) -> Any:
            result = call(argument)
            if isinstance(argument, (StepPlan, StepMasks)):
                said.append((kind, argument.step))
            elif result is not None:
                said.append((kind, result.step))
            return result

        return logged

    def receive_begun(timeout_s: Any) -> Any:
        """The first token takes as long as the process needs to begin with the grammar."""
        while made._masks.pending and ("receive", 1) not in said:
            made._masks.wait(END_S)
        return receive(timeout_s)

    for name, call in (("send", send), ("tell", tell), ("receive", receive_begun)):
        setattr(worker, name, log(name, call))
    made.add(request("a", b"x", forms.compile(FORMS["regex"]), min_tokens=10))
    outcome = finish(made)["a"]
    made.close()
    assert len(outcome.token_ids) > 3
    first = [
        ("send", 1),
        ("tell", 1),
        ("send", 2),
        ("receive", 1),
        ("tell", 2),
        ("send", 3),
        ("receive", 2),
        ("tell", 3),
    ]
    assert said[: len(first)] == first
    assert isinstance(worker, MockWorker)


def test_a_large_grammar_is_written_while_nobody_waits(forms: Forms) -> None:
    """It does not fit in the socket at once, and beside running requests its follower is only looked at."""
    follower = Follower(forms.fork_server)
    follower.follow(1, 0, bytes(8 << 20), [])
    told: list[Told] = []
    while not told:
        assert not follower.ended
        told += follower.take()
    follower.close()
    assert told == [Told(1, None)], "zeros are no grammar"
