"""Large bodies of responses: read beside the event loop like those of chat, with equal answers, and little left of them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from octavo.server.body_pool import HUGE_BYTES, LARGE_BYTES
from octavo.server.context import SMALL_BYTES
from octavo.server.responses import ResponseRequest
from server.agent import WEATHER, talking
from server.harness import Running
from server.holds import LIMITS, MB, assert_holds_up_nobody

pytestmark = pytest.mark.usefixtures("frozen")
PATH = "/v1/responses"
HI: Any = {"role": "user", "content": "hi"}
CALL: Any = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
RESULT: Any = {"type": "function_call_output", "call_id": "1"}
TOOL: Any = {"type": "function", **WEATHER["function"]}


@pytest.fixture(scope="module")
def roomy() -> Iterator[Running]:
    with talking("Hello", engine=LIMITS) as server:
        yield server


KINDS: dict[str, tuple[int, Any]] = {
    "a long text": (400, lambda: {"input": "word " * MB}),
    "many items": (400, lambda: {"input": [HI] * 300_000}),
    "items near the limit": (200, lambda: {"input": [HI] * 1_500}),
    "many parts": (400, lambda: {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}] * MB}]}),
    "arguments of a call": (400, lambda: {"input": [HI, {**CALL, "arguments": json.dumps({"x": [1] * MB})}]}),
    "a long result of a call": (400, lambda: {"input": [HI, CALL, {**RESULT, "output": "word " * MB}]}),
    "many unknown fields of an item": (400, lambda: {"input": [{**HI, **{str(n): [n] for n in range(MB)}}]}),
    "many tools": (400, lambda: {"input": "hi", "tools": [TOOL] * 50_000}),
    "a long instruction in a stream": (200, lambda: {"input": "hi", "instructions": "x" * 60_000, "stream": True}),
    "many metadata": (400, lambda: {"input": "hi", "metadata": {str(n): "" for n in range(MB)}}),
    "a long user": (400, lambda: {"input": "hi", "user": "x" * (8 * MB)}),
    "template arguments": (200, lambda: {"input": "hi", "chat_template_kwargs": {"x": list(range(MB))}}),
    "biases": (400, lambda: {"input": "hi", "logit_bias": {str(id_): 1 for id_ in range(2 * MB)}}),
    "an unknown field": (200, lambda: {"input": "hi", "unknown": [{"a": [1, 2]}] * 500_000}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_holds_up_nobody(roomy: Running, kind: str) -> None:
    status, make = KINDS[kind]
    body = json.dumps({"max_output_tokens": 1, **make()}).encode()
    assert_holds_up_nobody(roomy, PATH, body, status)


def test_what_is_left_of_a_large_body_is_small(roomy: Running) -> None:
    """But for what the response tells again."""
    large = {str(number): [number] for number in range(MB // 10)}
    body = {"input": [HI] * 1000, "chat_template_kwargs": large, "unknown": large, "instructions": "x" * 10_000}
    reading = roomy.server.reader.read(ResponseRequest, json.dumps(body).encode())
    assert reading.error is None
    assert reading.result is not None
    prompt = reading.result.prompts[0]
    needed = len(pickle.dumps(prompt)) + len(reading.result.body.told)
    assert len(pickle.dumps(reading)) < needed + SMALL_BYTES


@pytest.mark.parametrize("size", [SMALL_BYTES // 2, LARGE_BYTES // 2, LARGE_BYTES * 2, HUGE_BYTES + 1])
def test_answers_are_the_same_wherever_a_body_is_read(roomy: Running, size: int) -> None:
    """On the event loop, in a thread, and in either process."""
    body = {"input": [HI], "tools": [TOOL], "instructions": "Be brief.", "request_id": "mine", "user": "me", "seed": 1}

    def ask(padding: int, **fields: Any) -> Any:
        asked = {**body, **fields, "prompt_cache_options": "x" * padding}
        answer = roomy.http.post(PATH, json=asked).json()
        changing = ("created_at", "completed_at", "usage")
        return {name: value for name, value in answer.items() if name not in changing}

    assert ask(size) == ask(0)
    assert ask(0)["output"][0]["content"][0]["text"] == "Hello"
    wrong = ask(size, input=[HI, {"role": "user", "content": 7}])["error"]
    assert wrong == ask(0, input=[HI, {"role": "user", "content": 7}])["error"]
    assert wrong["param"] == "input[1].content"
    assert wrong["message"].endswith("(request id: mine)")
