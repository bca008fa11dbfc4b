"""Requests with a grammar in the engine: whatever disturbs them, they get the tokens that they get alone."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jsonschema_rs
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.harness import Outcome, collect, finish
from grammar.grammars import BYTES, Forms
from octavo.engine import Engine, FinishReason, Request
from octavo.engine.masks import MAX_DEATHS, MAX_FAILED_STARTS, Masks
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.errors import RequestError
from octavo.grammar import Follower, Grammar
from octavo.grammar.follower import Told
from octavo.sampling import SamplingParams
from octavo.structured_outputs import StructuredOutputsParams
from octavo.testing.mock_worker import MockSource, MockWorker
from server.harness import ENGINE, EOS

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 999}, "s": {"type": "string", "maxLength": 6}},
    "required": ["n", "s"],
}
BOUNDED = {"type": "tag", "begin": "", "content": {"type": "any_text", "max_tokens": 2}, "end": "</t>"}
"""Text whose end is enforced behind two tokens, as that of thoughts is."""
FORMS = {
    "schema": StructuredOutputsParams(json=SCHEMA, disable_any_whitespace=True),
    "regex": StructuredOutputsParams(regex="[a-z]{3,20}"),
    "choice": StructuredOutputsParams(choice=["yes", "no"]),
    "bounded": StructuredOutputsParams(structural_tag={"type": "structural_tag", "format": BOUNDED}),
}


NO_MESSAGE = b"\xc1"
"""Of which a process dies that cannot read it."""


@pytest.fixture(scope="module")
def forms() -> Iterator[Forms]:
    """Of this module's own: its processes are killed."""
    opened = Forms()
    yield opened
    opened.close()


def engine(forms: Forms, *, die_at: int | None = None, **limits: Any) -> tuple[Engine, MockSource]:
    """On mock workers, the first of which dies at a step."""
    config = dataclasses.replace(ENGINE, **limits)
    source = MockSource(config, lambda number, config: MockWorker(config, die_at_step=None if number else die_at))
    supervisor = Supervisor(source, RestartBudget(10, 600.0))
    return Engine(config, source.start(None), supervisor=supervisor, fork_server=forms.fork_server), source


def request(name: str, prompt: bytes, grammar: Grammar | None, **sampling: Any) -> Request:
    return Request(name, list(prompt), SamplingParams(**{"seed": 5, "max_tokens": 60, **sampling}), 0.0, grammar)


def run(made: Engine, requests: Iterable[Request]) -> dict[str, Outcome]:
    for each in requests:
        made.add(each)
    try:
        return finish(made)
    finally:
        made.close()


def alone(forms: Forms, asked: Request) -> Outcome:
    return run(engine(forms)[0], [asked])[asked.request_id]


@st.composite
def asked(draw: st.DrawFn) -> list[tuple[str | None, bytes, dict[str, Any]]]:
    each = st.tuples(
        st.sampled_from([*FORMS, None]),
        st.binary(min_size=1, max_size=60),
        st.fixed_dictionaries(
            {"seed": st.integers(0, 99), "max_tokens": st.sampled_from([7, 60])},
            optional={
                "min_tokens": st.just(4),
                "ignore_eos": st.just(True),
                "presence_penalty": st.just(0.5),
                "logprobs": st.just(1),
                "stop_token_ids": st.just([ord("q")]),
            },
        ),
    )
    return draw(st.lists(each, min_size=1, max_size=6))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    drawn=asked(),
    budget=st.sampled_from([8, 17, 256]),
    blocks=st.sampled_from([12, 20, 128]),
    die_at=st.sampled_from([None, 3, 9, 25]),
    kill_follower_at=st.sampled_from([None, 4, 12]),
)
def test_whatever_disturbs_them_they_get_the_same_tokens(
    forms: Forms, drawn: list[Any], budget: int, blocks: int, die_at: int | None, kill_follower_at: int | None
) -> None:
    """Chunks, preemption, dead workers, and a dead process that follows grammars."""
    compiled = {name: forms.compile(form) for name, form in FORMS.items()}
    requests = [
        request(f"r{number}", prompt, compiled.get(form or ""), **sampling)
        for number, (form, prompt, sampling) in enumerate(drawn)
    ]
    outcomes = disturbed(forms, requests, budget, blocks, die_at, {kill_follower_at: kill_follower})
    assert outcomes == {each.request_id: alone(forms, each) for each in requests}
    for (form, _, sampling), outcome in zip(drawn, (outcomes[each.request_id] for each in requests), strict=True):
        if form is not None and outcome.reason is FinishReason.STOP and outcome.stop_token_id is None:
            assert "stop_token_ids" in sampling or fits(form, outcome)


def test_a_bound_in_tokens_holds_whenever_the_process_dies(forms: Forms) -> None:
    grammar = forms.compile(FORMS["bounded"])
    requests = [request(f"r{seed}", b"x", grammar, seed=seed) for seed in range(3)]
    expected = {each.request_id: alone(forms, each) for each in requests}
    for step in range(2, 12):
        assert disturbed(forms, requests, 256, 128, None, {step: kill_follower}) == expected


def fits(form: str, outcome: Outcome) -> bool:
    text = BYTES.decode([token for token in outcome.token_ids if token != EOS])
    if form == "schema":
        return bool(jsonschema_rs.is_valid(SCHEMA, json.loads(text)))
    patterns = {"regex": "[a-z]{3,20}", "choice": "yes|no", "bounded": "(?s:.{0,2})</t>"}
    return bool(re.fullmatch(patterns[form], text))


def disturbed(
    forms: Forms,
    requests: Sequence[Request],
    budget: int,
    blocks: int,
    die_at: int | None,
    at: Mapping[int | None, Callable[[Engine], object]],
) -> dict[str, Outcome]:
    """What `requests` get of an engine of few blocks and seats, whose first worker dies, and to which `at` does something at some steps."""
    limits = {"max_num_batched_tokens": budget, "num_blocks": blocks, "block_size": 16, "max_num_seqs": 3}
    made, _ = engine(forms, die_at=die_at, **limits)
    outcomes: dict[str, Outcome] = {}
    for each in requests:
        made.add(each)
    for step in range(5000):
        if not made.has_work:
            break
        if step in at:
            at[step](made)
        collect(outcomes, made.step())
        made.check_invariants()
    made.close()
    return outcomes


def kill_follower(made: Engine) -> None:
    """Kill the process that follows grammars, if there is one, and all others that were forked."""
    fork_server = made._masks._fork_server
    assert fork_server is not None
    assert fork_server.pid is not None
    for child in psutil.Process(fork_server.pid).children():
        os.kill(child.pid, signal.SIGKILL)


class Forgetful(Masks):
    """The twin: it takes what was told of the token before for what may come next."""

    def _tell(self, place: Any, bits: bytes) -> None:
        super()._tell(place, place.grammar.first if place.sequence.num_made_tokens == 3 else bits)


def test_the_comparison_sees_a_wrong_mask(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = forms.compile(FORMS["schema"])
    expected = alone(forms, request("a", b"x", grammar))
    monkeypatch.setattr("octavo.engine.engine.Masks", Forgetful)
    assert alone(forms, request("a", b"x", grammar)) != expected


def test_an_answer_ends_where_nothing_may_come(forms: Forms) -> None:
    """Without its end token where that is ignored or forbidden: then the text ends it."""
    grammar = forms.compile(FORMS["choice"])
    for sampling in ({}, {"ignore_eos": True}, {"min_tokens": 30}):
        outcome = alone(forms, request("a", b"x", grammar, **sampling))
        assert outcome.reason is FinishReason.STOP
        assert BYTES.decode(outcome.token_ids) in ("yes", "no")


def test_a_model_without_an_end_token_ends_too(forms: Forms) -> None:
    made, _ = engine(forms, eos_token_ids=())
    outcome = run(made, [request("a", b"x", forms.compile(FORMS["choice"]))])["a"]
    assert outcome.reason is FinishReason.STOP


def test_min_tokens_that_forbid_all_that_may_come_fail_the_request_alone(forms: Forms) -> None:
    grammar = forms.compile(StructuredOutputsParams(regex="ab"))
    outcomes = run(
        engine(forms)[0],
        [
            request("a", b"x", grammar, min_tokens=5, stop_token_ids=[ord("b")]),
            request("b", b"x", grammar),
        ],
    )
    assert outcomes["a"].reason is FinishReason.ERROR
    assert outcomes["b"].reason is FinishReason.STOP


def test_a_request_over_which_two_processes_die_fails_alone(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose grammar takes for ever; here whatever process is to follow it gets what kills it before."""
    made, _ = engine(forms)
    grammar = forms.compile(FORMS["schema"])
    for name in ("good", "bad"):
        made.add(request(name, b"x", grammar, seed=len(name)))
    outcomes: dict[str, Outcome] = {}
    masks = made._masks
    ask = masks._ask

    def ask_and_die(places: list[Any]) -> None:
        ask([place for place in places if place.sequence.request_id != "bad"])
        if bad := [place for place in places if place.sequence.request_id == "bad"]:
            follower = masks._follower or masks._start()
            assert follower is not None
            follower._wire.send(NO_MESSAGE)
            ask(bad)

    monkeypatch.setattr(masks, "_ask", ask_and_die)
    while made.has_work:
        collect(outcomes, made.step())
    made.close()
    assert outcomes["bad"].reason is FinishReason.ERROR
    assert outcomes["good"] == alone(forms, request("good", b"x", grammar, seed=4))


class Deadly(Follower):
    """A process that dies of the request with the number 1, once that has made two tokens."""

    asked: ClassVar[list[int]] = []
    """How many requests were asked about together, for each question of which it dies."""
    _made = 0
    """Tokens of the request with the number 1."""

    def follow(self, request: int, key: int, form: Any, tokens: Iterable[int]) -> None:
        made = list(tokens)
        if request == 1:
            self._made = len(made)
            self._die_if_due(1)
        super().follow(request, key, form, made)

    def advance(self, moves: Sequence[tuple[int, int]]) -> None:
        if any(request == 1 for request, _ in moves):
            self._made += 1
            self._die_if_due(len(moves))
        super().advance(moves)

    def _die_if_due(self, count: int) -> None:
        if self._made > 1:
            self.asked.append(count)
            self._wire.send(NO_MESSAGE)


def test_who_was_asked_about_with_a_killer_is_not_blamed(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process dies over all of them, then two over the killer alone; nobody else notices."""
    grammar = forms.compile(FORMS["schema"])
    expected = {
        name: alone(forms, request(name, b"x", grammar, seed=seed)) for seed, name in enumerate(("a", "b", "c"))
    }
    monkeypatch.setattr("octavo.engine.masks.Follower", Deadly)
    monkeypatch.setattr("octavo.engine.engine.PATIENCE_S", 60.0)
    outcomes = run(
        engine(forms)[0], [request(name, b"x", grammar, seed=seed) for seed, name in enumerate(("a", "b", "c"))]
    )
    assert Deadly.asked == [3, 1, 1]
    assert outcomes["b"].reason is FinishReason.ERROR
    assert [outcomes[name] for name in ("a", "c")] == [expected[name] for name in ("a", "c")]


class Killed(Follower):
    """A process that somebody kills as soon as one request, that has a few tokens more than when the last one was killed, is asked about."""

    deaths: ClassVar[int] = 0
    _made = 0

    def follow(self, request: int, key: int, form: Any, tokens: Iterable[int]) -> None:
        made = list(tokens)
        self._made = len(made)
        super().follow(request, key, form, made)

    def advance(self, moves: Sequence[tuple[int, int]]) -> None:
        self._made += 1
        if self._made == 3 * (self.deaths + 1):
            type(self).deaths += 1
            self._wire.send(NO_MESSAGE)
        super().advance(moves)


def test_who_gets_on_after_each_death_is_not_blamed(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    """What kills a process kills the next one at the same token; whoever is killed at others is killed from outside."""
    asked = request("a", b"x", forms.compile(FORMS["schema"]))
    expected = alone(forms, asked)
    monkeypatch.setattr("octavo.engine.masks.Follower", Killed)
    monkeypatch.setattr(Killed, "deaths", 0)
    assert run(engine(forms)[0], [asked])["a"] == expected
    assert Killed.deaths > MAX_DEATHS


def test_who_takes_a_process_all_its_time_again_is_blamed_also_if_it_got_on(
    forms: Forms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next process reads all tokens at once, and may need a little less for the last than what ended the one before."""
    monkeypatch.setattr("octavo.engine.masks.Follower", Killed)
    monkeypatch.setattr("octavo.engine.masks.FOLLOW_S", 0.0)
    monkeypatch.setattr(Killed, "deaths", 0)
    outcome = run(engine(forms)[0], [request("a", b"x", forms.compile(FORMS["schema"]))])["a"]
    assert outcome.reason is FinishReason.ERROR
    assert Killed.deaths == MAX_DEATHS


class Unborn(Follower):
    """A process that ends before it says a word, unless as many have done so as are to."""

    to_die: ClassVar[int] = 0

    def wait(self, timeout_s: float) -> None:
        self._die_if_due()
        super().wait(timeout_s)

    def take(self) -> Iterator[Told]:
        self._die_if_due()
        return super().take()

    def _die_if_due(self) -> None:
        if type(self).to_die and not self.ended:
            type(self).to_die -= 1
            self._wire.close()


@pytest.mark.parametrize("failed", [MAX_FAILED_STARTS - 1, MAX_FAILED_STARTS])
def test_processes_that_die_as_they_start_are_started_again_for_a_while(
    forms: Forms, monkeypatch: pytest.MonkeyPatch, failed: int
) -> None:
    asked = [request("a", b"x", forms.compile(FORMS["schema"])), request("free", b"x", None)]
    expected = {each.request_id: alone(forms, each) for each in asked}
    monkeypatch.setattr("octavo.engine.masks.Follower", Unborn)
    monkeypatch.setattr(Unborn, "to_die", failed)
    outcomes = run(engine(forms)[0], asked)
    assert outcomes["free"] == expected["free"]
    if failed < MAX_FAILED_STARTS:
        assert outcomes["a"] == expected["a"]
    else:
        assert outcomes["a"].reason is FinishReason.ERROR


class Noting(Follower):
    """Notes what is asked, with how many tokens or requests."""

    said: ClassVar[list[tuple[str, int]]] = []

    def follow(self, request: int, key: int, form: Any, tokens: Iterable[int]) -> None:
        made = list(tokens)
        self.said.append(("follow", len(made)))
        super().follow(request, key, form, made)

    def advance(self, moves: Sequence[tuple[int, int]]) -> None:
        self.said.append(("advance", len(moves)))
        super().advance(moves)


def test_requests_are_followed_before_their_first_token(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that all are asked about together as soon as they have one."""
    monkeypatch.setattr("octavo.engine.masks.Follower", Noting)
    monkeypatch.setattr("octavo.engine.engine.PATIENCE_S", 60.0)
    Noting.said.clear()
    grammar = forms.compile(FORMS["schema"])
    outcomes = run(engine(forms)[0], [request(name, b"x", grammar, max_tokens=3, min_tokens=3) for name in ("a", "b")])
    assert Noting.said == [("follow", 0), ("follow", 0), ("advance", 2), ("advance", 2)]
    assert all(outcome.reason is FinishReason.LENGTH for outcome in outcomes.values())


def test_an_engine_without_a_fork_server_takes_no_grammar(forms: Forms) -> None:
    source = MockSource(ENGINE)
    made = Engine(ENGINE, source.start(None))
    with pytest.raises(RequestError):
        made.add(request("a", b"x", forms.compile(FORMS["choice"])))
    with pytest.raises(RequestError):
        made.add(Request("a", [1], SamplingParams(structured_outputs={"regex": "a"})))


def test_a_fork_server_that_was_killed_is_started_again() -> None:
    opened = Forms()
    opened.compile(FORMS["choice"])
    pid = opened.fork_server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    grammar = opened.compile(FORMS["regex"])
    assert opened.fork_server.pid != pid
    assert alone(opened, request("a", b"x", grammar)).reason is FinishReason.STOP
    opened.close()
    assert opened.fork_server.pid is None


class Recompiling(Follower):
    """Notes which grammars a process is told of, and which it is told to forget."""

    told: ClassVar[list[int]] = []
    left: ClassVar[list[int]] = []

    def follow(self, request: int, key: int, form: Any, tokens: Iterable[int]) -> None:
        if key not in self._keys:
            self.told.append(key)
        super().follow(request, key, form, tokens)

    def leave(self, requests: list[int], keys: list[int]) -> None:
        self.left.extend(keys)
        super().leave(requests, keys)


def test_a_grammar_stays_compiled_until_many_others_were_used(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo.engine.masks.Follower", Recompiling)
    monkeypatch.setattr("octavo.engine.masks.MAX_IDLE", 2)
    Recompiling.told.clear()
    Recompiling.left.clear()
    first, *others = (forms.compile(StructuredOutputsParams(regex=f"{letter}[ab]{{3}}")) for letter in "pqrst")
    made, _ = engine(forms)

    def ask(grammar: Grammar) -> Outcome:
        made.add(request("a", b"x", grammar))
        outcome = finish(made)["a"]
        made._masks.take()
        return outcome

    expected = ask(first)
    assert expected.reason is FinishReason.STOP
    assert ask(first) == expected
    assert Recompiling.told == [first.key]
    for each in (others[0], others[1], first, others[2], others[3], first):
        ask(each)
    assert Recompiling.told == [
        first.key,
        others[0].key,
        others[1].key,
        first.key,
        others[2].key,
        others[3].key,
        first.key,
    ]
    assert Recompiling.left == [first.key, others[0].key, others[1].key, first.key, others[2].key]
    assert ask(first) == expected
    made.close()
