"""A model that thinks, talks and calls, asked for responses with the real openai client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import openai
import pydantic
from openai.types.responses import Response, ResponseStreamEvent

from server.agent import CALL, WEATHER
from server.harness import Running, byte_tokenizer
from server.response_events import events_of, folded, timeless

PATH = "/v1/responses"
TOOL: Any = {"type": "function", **WEATHER["function"], "strict": True}
QUESTION = "How is the weather in Köln?"
EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
THOUGHTS = "<think>\nI must look.\n</think>\n\n"


@contextlib.contextmanager
def client_of(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def says(prompt: str) -> str:
    """Thinks, talks and calls; then answers."""
    return (
        "<think>\nIt said so.\n</think>\n\nIt is 12 degrees."
        if "12 degrees" in prompt
        else f"{THOUGHTS}Let me see.\n{CALL}"
    )


def prompts(server: Running) -> list[str]:
    """The prompts of the latest requests."""
    admissions = [admission for plan in server.worker.plans for admission in plan.admissions]
    return [byte_tokenizer().decode(list(each.token_ids), skip_special_tokens=False) for each in admissions]


def both(server: Running, **fields: Any) -> dict[str, Any]:
    """The response, streamed and not: the same."""
    body = {"input": QUESTION, "request_id": "turn", "seed": 1, **fields}
    answer = server.http.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    streamed = server.http.post(PATH, json={**body, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    whole: dict[str, Any] = answer.json()
    Response.model_validate(whole)
    events = events_of(streamed.text)
    for event in events:
        assert EVENT.validate_python(event).type == event["type"], "an event as the client knows it"
    told = folded(events)
    for response in (whole, told):
        response["usage"]["input_tokens_details"]["cached_tokens"] = 0  # the second one finds the prefix of the first
    assert timeless(told) == timeless(whole)
    return whole
