"""A worker that dies within a response: no event tells of it, and what is told is the same."""

from __future__ import annotations

import pytest

from octavo.config import EngineConfig
from octavo.testing.mock_worker import MockSource, MockWorker
from server.agent import CALL, TEMPLATE, WEATHER
from server.harness import EOS, Running, byte_tokenizer, running
from server.response_events import events_of, folded, timeless

TEXT = f"<think>\nI must look: €.\n</think>\n\nLet me see.\n{CALL}"
BODY = {
    "input": "How is the weather?",
    "tools": [{"type": "function", **WEATHER["function"]}],
    "request_id": "turn",
    "seed": 1,
    "top_logprobs": 2,
}
LIMITS = {"max_model_len": 1024, "num_blocks": 256, "max_num_batched_tokens": 512}


def dying_at(step: int | None) -> tuple[dict[str, object], list[str], Running]:
    """The response that a stream tells, and the types of its events; the first worker dies when it gets plan `step`."""
    tokenizer = byte_tokenizer()
    tokens = [*tokenizer.encode(TEXT), EOS]

    def worker(number: int, config: EngineConfig) -> MockWorker:
        return MockWorker(config, says=lambda _: tokens, delay_s=0.001, die_at_step=step if number == 0 else None)

    with running(
        source=lambda config: MockSource(config, worker), engine=LIMITS, tokenizer=tokenizer, template=TEMPLATE
    ) as server:
        answer = server.http.post("/v1/responses", json={**BODY, "stream": True})
        assert answer.status_code == 200
        events = events_of(answer.text)
        response = timeless(folded(events))
        types = [event["type"] for event in events if not event["type"].endswith("delta")]
        server.wait_idle()
        return response, types, server


@pytest.fixture(scope="module")
def undisturbed() -> tuple[dict[str, object], list[str]]:
    response, types, server = dying_at(None)
    assert len(server.source.workers) == 1
    return response, types


@pytest.mark.parametrize("step", [2, 15, 40, 60, len(TEXT.encode())])
def test_a_death_is_no_event(undisturbed: tuple[dict[str, object], list[str]], step: int) -> None:
    response, types, server = dying_at(step)
    assert len(server.source.workers) == 2, "the first one died"
    assert (response, types) == undisturbed
