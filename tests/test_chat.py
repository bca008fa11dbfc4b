"""The same messages make the same prompt over HTTP and with `LLM.chat`, or the same error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from octavo import LLM, SamplingParams
from octavo.errors import RequestError
from server.harness import Running, running
from test_llm import mock_workers
from text.test_template_probe import KNOWN_ROLES

TALKS: list[tuple[list[dict[str, Any]], str]] = [
    ([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hi"}], "<system>Be brief.<user>hi"),
    ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "<user>a\nb"),
    (
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}, {"role": "user", "content": "b"}],
        "<user>a<assistant><user>b",
    ),
]
WRONG: list[tuple[list[dict[str, Any]], str]] = [
    ([{"role": "user", "content": "a"}, {"role": "critic", "content": "b"}], "messages[1].role"),
    ([{"role": "user", "content": None}], "messages[0].content"),
    ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(template=KNOWN_ROLES) as opened:
        yield opened


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(workers=mock_workers, chat_template=KNOWN_ROLES) as opened:
        yield opened


@pytest.mark.parametrize(("messages", "prompt"), TALKS, ids=["developer", "parts", "nothing said"])
def test_a_prompt(server: Running, llm: LLM, messages: list[dict[str, Any]], prompt: str) -> None:
    (output,) = llm.chat(messages, SamplingParams(max_tokens=1), use_tqdm=False)
    answer = server.http.post("/tokenize", json={"messages": messages})
    assert answer.status_code == 200, answer.text
    assert (output.prompt, bytes(answer.json()["tokens"]).decode()) == (prompt, prompt)


@pytest.mark.parametrize(("messages", "param"), WRONG, ids=["role", "no content", "image"])
def test_an_error(server: Running, llm: LLM, messages: list[dict[str, Any]], param: str) -> None:
    with pytest.raises(RequestError) as error:
        llm.chat(messages, SamplingParams(max_tokens=1), use_tqdm=False)
    for path in ("/tokenize", "/v1/chat/completions"):
        answer = server.http.post(path, json={"messages": messages})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert error.value.param == param
