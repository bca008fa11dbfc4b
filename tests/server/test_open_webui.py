"""Requests in the forms that Open WebUI 0.12.4 gives them (its `routers.openai`, `routers.tasks`, `utils.payload`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from server.harness import Running, running

HEADERS = {"Authorization": "Bearer none", "X-OpenWebUI-User-Name": "A%20B", "X-OpenWebUI-Chat-Id": "c"}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
ALONE = {"stream": False}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running() as opened:
        yield opened


def test_its_list_of_models(server: Running) -> None:
    answer = server.http.get("/v1/models", headers=HEADERS)
    assert answer.status_code == 200
    assert "mock" in [model["id"] for model in answer.json()["data"]]


@pytest.mark.parametrize(
    "fields",
    [
        STREAMED,
        {
            **STREAMED,
            "temperature": 0.8,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.0,
            "frequency_penalty": 0.1,
            "presence_penalty": 0.1,
            "seed": 3,
            "stop": ["\n\n"],
            "logit_bias": {"5": -100, "7": 10},
        },
        {**STREAMED, "response_format": {"type": "json_object"}},
        {**STREAMED, "tools": []},
        {**STREAMED, "user": {"name": "A", "id": "1", "email": "a@example.org", "role": "admin"}},
        {**STREAMED, "num_ctx": 2048, "keep_alive": "5m", "repeat_penalty": 1.0},
        {**STREAMED, "messages": [user([{"type": "text", "text": "hi"}])]},
        {
            **STREAMED,
            "messages": [user("hi"), {"role": "assistant", "content": "I am"}],
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
        {
            **STREAMED,
            "messages": [user("a"), {"role": "assistant", "content": "b", "reasoning_content": "c"}, user("d")],
        },
        {**ALONE, "metadata": {"task": "title_generation", "task_body": {"messages": []}, "chat_id": None}},
        {**ALONE, "max_tokens": None, "max_completion_tokens": 6},
    ],
    ids=lambda fields: ",".join(name for name in fields if name != "stream_options"),
)
def test_what_it_sends_is_answered(server: Running, fields: dict[str, Any]) -> None:
    body = {"model": "mock", "messages": [{"role": "system", "content": "s"}, user("hi")], "max_tokens": 6, **fields}
    answer = server.http.post("/v1/chat/completions", json=body, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    if not fields["stream"]:
        assert answer.json()["choices"][0]["message"]["role"] == "assistant"
        return
    *events, last, _ = answer.text.split("\n\n")
    assert last == "data: [DONE]"
    told = [json.loads(event.removeprefix("data: ")) for event in events]
    assert told[-1]["usage"]["completion_tokens"] > 0
    assert told[-2]["choices"][0]["finish_reason"] in ("stop", "length")


@pytest.mark.parametrize("name", ["num_predict", "repeat_penalty", "think"])
def test_parameters_of_ollama_that_would_change_the_answer_say_what_to_do(server: Running, name: str) -> None:
    body = {"model": "mock", "messages": [user("hi")], name: 5}
    error = server.http.post("/v1/chat/completions", json=body, headers=HEADERS)
    assert error.status_code == 400
    assert error.json()["error"]["param"] == name
