"""No body holds up the others: neither the event loop nor the interpreter's lock is held for long, whatever is sent."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from octavo.server.body_pool import HUGE_BYTES, LARGE_BYTES
from octavo.server.chat_request import ChatRequest
from octavo.server.completion_request import CompletionRequest
from octavo.server.context import SMALL_BYTES
from octavo.server.fields import GenerationFields
from octavo.server.messages.request import MessagesRequest
from server.harness import Running, running
from server.holds import LIMITS, MB, MOST_CPU_S, TRIES, assert_holds_up_nobody, post, watched

pytestmark = pytest.mark.usefixtures("frozen")
MOST_TURN_S = 0.1
"""Of a turn of the event loop's thread that makes, feeds, writes or ends some of many answers, or looks for garbage."""


@pytest.fixture(scope="module")
def roomy() -> Iterator[Running]:
    with running(engine=LIMITS) as server:
        yield server


def completion(**fields: Any) -> tuple[str, bytes]:
    return "/v1/completions", json.dumps({"prompt": "x", "max_tokens": 1, **fields}).encode()


def chat(messages: list[dict[str, str]], **fields: Any) -> tuple[str, bytes]:
    return "/v1/chat/completions", json.dumps({"messages": messages, "max_tokens": 1, **fields}).encode()


def message(**fields: Any) -> tuple[str, bytes]:
    return "/v1/messages", json.dumps({"messages": [HI], "max_tokens": 1, **fields}).encode()


def other(path: str, **fields: Any) -> tuple[str, bytes]:
    return path, json.dumps(fields).encode()


Made = Callable[[], tuple[str, bytes]]
STOPS = [f"stop {i}" for i in range(800)]
HI = {"role": "user", "content": "hi"}
WORDS = {"type": "text", "text": "word"}
USE = {"type": "tool_use", "id": "1", "name": "f", "input": {str(number): [number] for number in range(MB)}}
RETURNED = [
    {"role": "assistant", "content": [{**USE, "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "word " * MB}]},
]
KINDS: dict[str, tuple[int, Made]] = {
    "text": (200, lambda: other("/tokenize", prompt="word " * (MB // 2))),
    "text with strings": (200, lambda: other("/tokenize", prompt="word " * (MB // 5), return_token_strs=True)),
    "ids": (200, lambda: other("/detokenize", tokens=[7, 8] * (8 * MB))),
    "ids beyond the vocabulary": (400, lambda: other("/detokenize", tokens=[104] * (2 * MB) + [300])),
    "messages to tokenize": (400, lambda: other("/tokenize", messages=[HI] * 200_000)),
    "text as prompt": (400, lambda: completion(prompt="word " * MB)),
    "ids as prompt": (400, lambda: completion(prompt=[7, 8] * (8 * MB))),
    "many prompts": (400, lambda: completion(prompt=[[1]] * (2 * MB))),
    "many texts": (400, lambda: completion(prompt=["hi"] * (2 * MB))),
    "all the prompts there may be": (200, lambda: completion(prompt=[[7] * 2000 for _ in range(1024)])),
    "a prompt near the limit": (200, lambda: completion(prompt="x" * 65_000)),
    "a long prompt with its ids and scores": (
        200,
        lambda: completion(prompt=[7] * 65_000, echo=True, logprobs=5, return_token_ids=True),
    ),
    "many messages": (400, lambda: chat([HI] * 300_000)),
    "messages near the limit": (200, lambda: chat([HI] * 4_000)),
    "one long message": (400, lambda: chat([{"role": "user", "content": "word " * MB}])),
    "template arguments": (200, lambda: chat([HI], chat_template_kwargs={"x": list(range(MB))})),
    "many template arguments": (
        200,
        lambda: chat([HI], chat_template_kwargs={str(number): [number] for number in range(2 * MB)}),
    ),
    "a form with more than its type": (
        200,
        lambda: completion(response_format={"type": "text", **{str(number): [number] for number in range(2 * MB)}}),
    ),
    "many turns of a message": (400, lambda: message(messages=[HI] * 300_000)),
    "many turns that are one": (200, lambda: other("/v1/messages/count_tokens", messages=[HI] * 200_000)),
    "many blocks": (400, lambda: message(messages=[{"role": "user", "content": [WORDS] * 200_000}])),
    "many blocks that are counted": (
        200,
        lambda: other("/v1/messages/count_tokens", messages=[{"role": "user", "content": [WORDS] * 100_000}]),
    ),
    "one long block": (400, lambda: message(messages=[{"role": "user", "content": [{**WORDS, "text": "word " * MB}]}])),
    "input of a call": (400, lambda: message(messages=[HI, {"role": "assistant", "content": [USE]}])),
    "a long result of a call": (400, lambda: message(messages=[HI, *RETURNED])),
    "a large tool": (400, lambda: message(tools=[{"name": "f", "input_schema": {"x": list(range(MB))}}])),
    "biases": (400, lambda: completion(logit_bias={str(id_): 1 for id_ in range(2 * MB)})),
    "stop strings": (400, lambda: completion(stop=["stop"] * MB)),
    "stop ids": (400, lambda: completion(stop_token_ids=[1] * (6 * MB))),
    "many answers": (200, lambda: completion(n=8192, stop=STOPS, temperature=1, seed=1)),
    "an unknown field": (200, lambda: completion(unknown=[{"a": [1, 2]}] * 500_000)),
    "deep nesting": (400, lambda: ("/v1/completions", b'{"prompt":"x","user":' + b"[" * MB + b"]" * MB + b"}")),
    "not JSON": (400, lambda: ("/v1/completions", b'{"prompt":"' + b"\\u00e9" * MB)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_holds_up_nobody(roomy: Running, kind: str) -> None:
    status, make = KINDS[kind]
    path, body = make()
    assert_holds_up_nobody(roomy, path, body, status)


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"logprobs": 5}], ids=["whole", "stream", "scores"])
@pytest.mark.parametrize("prompts", [1, 1024], ids=["one prompt", "all prompts"])
def test_many_answers_are_made_and_written_in_turns(prompts: int, fields: dict[str, Any]) -> None:
    """Each of thousands of answers costs little: no turn of the event loop does something for all of them.

    Each try has a server of its own: what the mock worker keeps of earlier ones would be work for the garbage collector.
    """
    path, body = completion(prompt=["x"] * prompts, n=8192 // prompts, stop=STOPS, temperature=1, seed=1, **fields)
    tries = []
    for _ in range(TRIES):
        with running(engine=LIMITS) as server:
            with watched(server) as holds:
                got, _, first = post(server, path, body)
            assert got == 200, first
            server.wait_idle()
        tries.append(holds.loop_s)
        if tries[-1] < MOST_TURN_S:
            return
    raise AssertionError(f"the event loop was held for {tries} s")


LARGE = {str(number): [number] for number in range(MB // 10)}
FORM = {"type": "text", **LARGE}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (CompletionRequest, {"prompt": "x", "response_format": FORM, "stream": True, "stream_options": LARGE}),
        (CompletionRequest, {"prompt": "x", "metadata": LARGE, "unknown": LARGE, **LARGE}),
        (ChatRequest, {"messages": [HI], "chat_template_kwargs": LARGE, "response_format": FORM}),
        (ChatRequest, {"messages": [{**HI, **LARGE}], "user": "x" * MB, "metadata": LARGE}),
    ],
)
def test_what_is_left_of_a_large_body_is_small(
    roomy: Running, body: type[GenerationFields], fields: dict[str, Any]
) -> None:
    """It goes from process to process, and the event loop's thread frees it in the end: fields that nobody reads too."""
    model: Any = body
    reading = roomy.server.reader.read(model, json.dumps(fields).encode())
    assert reading.error is None
    assert len(pickle.dumps(reading)) < SMALL_BYTES


def test_what_is_left_of_a_large_message_is_small(roomy: Running) -> None:
    fields = {"messages": [HI], "metadata": {"user_id": "x" * MB}, "cache_control": {"type": "ephemeral", **LARGE}}
    reading = roomy.server.reader.read(MessagesRequest, json.dumps({**fields, "max_tokens": 1, "odd": LARGE}).encode())
    assert reading.error is None
    assert len(pickle.dumps(reading)) < SMALL_BYTES


def test_the_watch_sees_a_hold(roomy: Running) -> None:
    """The twin: one call that holds the lock, and one coroutine that holds the loop."""
    began_s, few = time.thread_time(), 10**6
    sum(range(few))
    each_s = (time.thread_time() - began_s) / few
    with watched(roomy) as holds:
        sum(range(int(2 * MOST_CPU_S / each_s)))  # one call of C, as long on any machine
    assert holds.lock_s > MOST_CPU_S

    async def busy() -> None:
        end_s = time.thread_time() + 2 * MOST_CPU_S
        while time.thread_time() < end_s:
            pass

    loop = roomy.context.dispatcher.event_loop
    assert loop is not None
    with watched(roomy) as holds:
        asyncio.run_coroutine_threadsafe(busy(), loop).result()
    assert holds.loop_s > MOST_CPU_S


@pytest.mark.parametrize("size", [SMALL_BYTES // 2, LARGE_BYTES // 2, LARGE_BYTES * 2, HUGE_BYTES + 1])
def test_answers_are_the_same_wherever_a_body_is_read(roomy: Running, size: int) -> None:
    """On the event loop, in a thread, and in either process."""
    text = "é <|im_end|>" * (size // 13)
    padding = "x" * (size - len(text.encode()))
    answer = roomy.http.post("/tokenize", json={"prompt": text, "user": padding, "return_token_strs": True}).json()
    assert answer["tokens"] == roomy.context.tokenizer.encode(text)
    assert (answer["count"], len(answer["token_strs"])) == (len(answer["tokens"]), len(answer["tokens"]))
    assert answer["token_strs"][:4] == ["bytes:\\xc3", "bytes:\\xa9", " ", "<|im_end|>"]
    back = roomy.http.post("/detokenize", json={"tokens": answer["tokens"], "user": padding})
    assert back.json() == {"prompt": text}
    wrong = roomy.http.post("/v1/completions", json={"prompt": [1, 300], "user": padding, "request_id": "mine"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "prompt")
    assert wrong.json()["error"]["message"].endswith("(request id: mine)")
    unknown = roomy.http.post("/v1/completions", json={"model": "x", "prompt": "x", "user": padding})
    assert unknown.status_code == 404
    right = {"prompt": [[1, 2], [3]], "seed": 3, "max_tokens": 5, "user": padding, "return_token_ids": True}
    small = roomy.http.post("/v1/completions", json={**right, "user": "me"}).json()
    assert roomy.http.post("/v1/completions", json=right).json()["choices"] == small["choices"]
    said = {"messages": [HI], "seed": 3, "max_tokens": 5, "user": padding}
    small = roomy.http.post("/v1/chat/completions", json={**said, "user": "me"}).json()
    assert roomy.http.post("/v1/chat/completions", json=said).json()["choices"] == small["choices"]


def test_a_process_that_dies_is_replaced() -> None:
    with running() as server:
        body = {"prompt": "x", "max_tokens": 1, "user": "x" * LARGE_BYTES}
        assert server.http.post("/v1/completions", json=body).status_code == 200
        pid = server.server.bodies.pids()[0]
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert server.http.post("/v1/completions", json=body).status_code == 200
        assert server.server.bodies.pids() != [pid]
        last = server.server.bodies.pids()[0]
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


def test_a_call_of_too_many_tokens_or_ids_is_refused() -> None:
    with running(engine={"max_model_len": 2048}) as server:
        for body, param in (
            ({"prompt": [1] * 600, "n": 16384}, "n"),
            ({"prompt": [1], "n": 16000, "logit_bias": {str(id_): 1 for id_ in range(100)}}, "logit_bias"),
        ):
            answer = server.http.post("/v1/completions", json={**body, "max_tokens": 1})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
