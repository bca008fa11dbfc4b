"""What `benchmarks.http` makes of the times that its client notes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from benchmarks.http import GREEDY, FailedRequestError, Load, answer, row

from octavo.cli.bench.client import Outcome


def outcome(started: float, *arrivals: float, tokens: int | None = None) -> Outcome:
    made = len(arrivals) if tokens is None else tokens
    return Outcome(5, started=started, success=True, arrivals=list(arrivals), output_tokens=made)


class Client:
    """Answers each request with the next of `outcomes`, and notes its body."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.bodies: list[dict[str, Any]] = []

    async def stream(self, path: str, body: dict[str, Any], prompt_tokens: int) -> Outcome:
        self.bodies.append(body)
        return self.outcomes.pop(0)


def test_a_row_is_of_all_requests_and_of_the_median_run() -> None:
    runs = [[outcome(0.0, 0.1, 0.12, 0.14), outcome(0.0, 0.3, 0.33, 0.36)], [outcome(5.0, 5.2, 5.22, 5.24)] * 2]
    cells = row(Load(2, 5, 3), "greedy", runs)
    assert cells == ["2 of 5 and 3", "greedy", "200.00", "100.00 to 300.00", "20.00", "20.00 to 30.00", "21"]


def test_prompts_differ_and_each_request_has_a_seed() -> None:
    client: Any = Client(*(outcome(0.0, 1.0, 2.0) for _ in range(3)))
    asyncio.run(answer(client, "name", Load.parse("3x5x2"), GREEDY, vocab_size=1000, seed=1))
    assert len({tuple(body["prompt"]) for body in client.bodies}) == 3
    assert [body["seed"] for body in client.bodies] == [0, 1, 2]
    assert all(body["ignore_eos"] and body["temperature"] == 0 and body["max_tokens"] == 2 for body in client.bodies)


@pytest.mark.parametrize("bad", [outcome(0.0, 1.0, tokens=1), Outcome(5, error="500: no")], ids=["short", "error"])
def test_a_request_that_fails_ends_it(bad: Outcome) -> None:
    client: Any = Client(outcome(0.0, 1.0, 2.0), bad)
    with pytest.raises(FailedRequestError, match=r"1 tokens in place of 2|500: no"):
        asyncio.run(answer(client, "name", Load(2, 5, 2), GREEDY, vocab_size=1000, seed=1))


@pytest.mark.parametrize("text", ["3x5", "axbxc", ""])
def test_a_load_is_three_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r"unpack|literal"):
        Load.parse(text)
