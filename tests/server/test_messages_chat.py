"""What becomes of Anthropic's messages: prompts, and the requests that chat would make."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from octavo.server.messages.failures import PATH
from server.agent import TEMPLATE, WEATHER, talking
from server.harness import Running
from server.test_messages import QUESTION, TOOL, ask, body, prompt_of


@pytest.fixture(scope="module")
def echo() -> Iterator[Running]:
    """A server whose model says hello."""
    with talking("Hello, world.") as server:
        yield server


def test_what_becomes_of_messages(echo: Running) -> None:
    call = {"type": "tool_use", "id": "1", "name": "f", "input": {"a": [1]}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "again", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "xyz"}, call, {**call, "id": "2"}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "1", "content": "no such file", "is_error": True},
                {"type": "tool_result", "tool_use_id": "2", "is_error": False, "cache_control": {"type": "ephemeral"}},
                {"type": "text", "text": "one"},
                {"type": "text", "text": "two"},
            ],
        },
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"role": "user", "content": "go on"},
        {"role": "system", "content": [{"type": "text", "text": "be quick"}]},
    ]
    blocks = [{"type": "text", "text": "You are", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    ask(echo, *turns, system=[*blocks, {"type": "text", "text": "a model."}])
    start, end = "<|im_start|>", "<|im_end|>\n"
    assert prompt_of(echo) == (
        f"{start}system\nYou are\na model.{end}"
        f"{start}user\n{QUESTION['content']}\nagain{end}"
        f'{start}assistant\n<tool_call>f {{"a": [1]}}</tool_call><tool_call>f {{"a": [1]}}</tool_call>{end}'
        f"{start}tool\nError: no such file{end}{start}tool\n{end}"
        f"{start}user\none\ntwo{end}"
        f"{start}assistant\n<think>\nhm\n</think>\n\na{end}"
        f"{start}user\ngo on{end}"
        f"{start}system\nbe quick{end}"
        f"{start}assistant\n<think>\n\n</think>\n\n"
    )


CHAT_TOOL = {"type": "function", "function": {**WEATHER["function"]}}
OFF = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize(
    ("message", "chat"),
    [
        pytest.param({}, OFF, id="nothing"),
        pytest.param(
            {"temperature": 0, "top_p": 0.5, "top_k": 3},
            {"temperature": 0, "top_p": 0.5, "top_k": 3, **OFF},
            id="sampling",
        ),
        pytest.param({"stop_sequences": ["a"]}, {"stop": ["a"], **OFF}, id="stop"),
        pytest.param({"tools": [TOOL]}, {"tools": [CHAT_TOOL], **OFF}, id="tools"),
        pytest.param(
            {"tools": [TOOL], "tool_choice": {"type": "any"}},
            {"tools": [CHAT_TOOL], "tool_choice": "required", **OFF},
            id="any",
        ),
        pytest.param(
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "get_weather"}},
            {"tools": [CHAT_TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}, **OFF},
            id="named",
        ),
        pytest.param(
            {"thinking": {"type": "enabled", "budget_tokens": 7}},
            {"thinking_token_budget": 7, "chat_template_kwargs": {"enable_thinking": True}},
            id="budget",
        ),
        pytest.param(
            {"metadata": {"user_id": "me"}, "service_tier": "auto", "cache_control": {"type": "ephemeral"}},
            OFF,
            id="no effect",
        ),
        pytest.param({"output_config": {"effort": "high"}}, OFF, id="effort"),
        pytest.param(
            {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}, OFF, id="edits"
        ),
    ],
)
def test_a_message_is_a_chat(echo: Running, message: dict[str, Any], chat: dict[str, Any]) -> None:
    """The engine gets the same request of either; and its prompt has as many tokens as are counted."""

    def admitted(path: str, asked: dict[str, Any]) -> Any:
        headers = {"X-Request-Id": "same"}
        answer = echo.http.post(path, json={**asked, "max_tokens": 50}, headers=headers)
        assert answer.status_code == 200, answer.text
        plans = [plan for plan in echo.worker.plans if plan.admissions]
        (admission,) = plans[-1].admissions
        sampling = admission.sampling.replace(seed=0)  # drawn by the engine's id, of which there are no two
        return admission.token_ids, sampling, answer.json()

    ids, sampling, answer = admitted(PATH, body(**message))
    assert (ids, sampling) == admitted("/v1/chat/completions", {"model": "mock", "messages": [QUESTION], **chat})[:2]
    usage = answer["usage"]
    counted = echo.http.post(f"{PATH}/count_tokens", json=body(**message))
    assert counted.json() == {"input_tokens": usage["input_tokens"] + usage["cache_read_input_tokens"]}
    assert counted.json() == {"input_tokens": len(ids)}


SYSTEMS_FIRST = "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}{% endfor %}"


def test_a_system_message_has_its_place_or_is_a_text_of_the_user() -> None:
    """Agents send such messages in the middle, whatever model they talk to."""
    with talking("x", template=SYSTEMS_FIRST + TEMPLATE) as server:
        late = {"role": "system", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "quick"}]}
        ask(server, late, system="Hi")
        start, end = "<|im_start|>", "<|im_end|>\n"
        prompt = prompt_of(server)
        assert f"{start}system\nHi{end}" in prompt
        assert f"{start}user\n{QUESTION['content']}\n<system>\nbe\nquick\n</system>{end}" in prompt
        first = {"max_tokens": 5, "system": "a", "messages": [{"role": "system", "content": "b"}, QUESTION]}
        assert server.http.post(PATH, json=first).status_code == 200
        assert f"{start}system\na\nb{end}" in prompt_of(server)
