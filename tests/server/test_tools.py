"""Tools and reasoning on chat completions, with the real openai client."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from server.agent import CALL, QUESTION, TEMPLATE, WEATHER, talking
from server.harness import Running, byte_tokenizer

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def calling() -> Iterator[Running]:
    """A server whose model calls a tool whatever it is asked."""
    with talking(CALL) as server:
        yield server


@contextlib.contextmanager
def client_of(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, *messages: Any, **fields: Any) -> Any:
    fields = {"tools": [WEATHER], **fields}
    talk: list[Any] = [QUESTION, *messages]
    return client.chat.completions.create(model="mock", messages=talk, **fields)


def gathered(chunks: Any) -> dict[str, Any]:
    """What a stream of one answer says, as its whole would."""
    said: dict[str, Any] = {"content": "", "reasoning": "", "reasoning_content": "", "calls": []}
    for chunk in chunks:
        for choice in chunk.choices:
            delta = choice.delta
            for name in ("content", "reasoning", "reasoning_content"):
                said[name] += getattr(delta, name, None) or ""
            for call in delta.tool_calls or []:
                if call.id is not None:
                    assert call.index == len(said["calls"])
                    assert call.type == "function"
                    said["calls"].append({"id": call.id, "name": call.function.name, "arguments": ""})
                said["calls"][call.index]["arguments"] += call.function.arguments or ""
            said["finish_reason"] = choice.finish_reason
        said["usage"] = chunk.usage
    return said


def whole(answer: Any) -> dict[str, Any]:
    (choice,) = answer.choices
    message = choice.message
    calls = [
        {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
        for call in message.tool_calls or []
    ]
    return {
        "content": message.content or "",
        "reasoning": getattr(message, "reasoning", None) or "",
        "reasoning_content": getattr(message, "reasoning_content", None) or "",
        "calls": calls,
        "finish_reason": choice.finish_reason,
        "usage": answer.usage,
    }


def both(client: openai.OpenAI, *messages: Any, **fields: Any) -> dict[str, Any]:
    """What the answer says, streamed and not: the same."""
    fields = {**fields, "extra_headers": {"X-Request-Id": "turn"}}
    answer = whole(ask(client, *messages, **fields))
    streamed = gathered(ask(client, *messages, stream=True, stream_options={"include_usage": True}, **fields))
    for said in (answer, streamed):
        said["usage"] = said["usage"].completion_tokens, said["usage"].completion_tokens_details
    assert streamed == answer
    return answer


def test_an_agent_asks_calls_and_answers() -> None:
    def says(prompt: str) -> str:
        if "12 degrees" in prompt:
            return "<think>\nIt said so.\n</think>\n\nIt is 12 degrees."
        return f"<think>\nI must look.\n</think>\n\nLet me see.\n{CALL}"

    with talking(says) as server, client_of(server) as client:
        first = ask(client).choices[0]
        assert (first.finish_reason, first.message.content) == ("tool_calls", "Let me see.")
        assert first.message.reasoning == first.message.reasoning_content == "I must look."
        (call,) = first.message.tool_calls
        assert (call.type, call.function.name) == ("function", "get_weather")
        assert json.loads(call.function.arguments) == {"city": "Köln"}
        result = {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"}
        for stream in (False, True):
            answer = ask(client, first.message.model_dump(), result, stream=stream)
            said = gathered(answer) if stream else whole(answer)
            assert (said["content"], said["reasoning"], said["calls"]) == ("It is 12 degrees.", "It said so.", [])
            assert said["finish_reason"] == "stop"
        prompts = [admission.token_ids for plan in server.worker.plans for admission in plan.admissions]
        history = byte_tokenizer().decode(prompts[-1], skip_special_tokens=False)
        assert (
            '<think>\nI must look.\n</think>\n\nLet me see.<tool_call>get_weather {"city": "Köln"}</tool_call>'
            in history
        )


@pytest.mark.parametrize(
    ("text", "content", "reasoning", "calls", "end"),
    [
        pytest.param(CALL, "", "", ["get_weather"], "tool_calls", id="a call"),
        pytest.param(f"{CALL}\n{CALL}", "", "", ["get_weather"] * 2, "tool_calls", id="two calls"),
        pytest.param("Hello", "Hello", "", [], "stop", id="content"),
        pytest.param("", "", "", [], "stop", id="nothing"),
        pytest.param("<think>Hm", "", "Hm", [], "stop", id="thoughts alone"),
        pytest.param(CALL[:-40], CALL[:-40], "", [], "stop", id="a cut call"),
        pytest.param(
            "<tool_call>{'no'}</tool_call>", "<tool_call>{'no'}</tool_call>", "", [], "stop", id="a broken call"
        ),
        pytest.param(f"a\n{CALL}\nb", "a\nb", "", ["get_weather"], "tool_calls", id="content around a call"),
    ],
)
def test_a_stream_says_what_the_whole_says(text: str, content: str, reasoning: str, calls: list[str], end: str) -> None:
    with talking(text) as server, client_of(server) as client:
        said = both(client)
        assert (said["content"], said["reasoning"], said["finish_reason"]) == (content, reasoning, end)
        assert [call["name"] for call in said["calls"]] == calls
        assert said["reasoning_content"] == said["reasoning"]
        assert len({call["id"] for call in said["calls"]}) == len(calls)
        for interval in (7, 1000):
            with talking(text, stream_interval=interval) as slow, client_of(slow) as other:
                assert both(other) == said


def test_the_first_delta_of_a_call_names_it_and_the_next_bring_arguments() -> None:
    with talking(CALL) as server, client_of(server) as client:
        deltas = [choice.delta for chunk in ask(client, stream=True) for choice in chunk.choices]
        assert (deltas[0].role, deltas[0].content, deltas[0].tool_calls) == ("assistant", "", None)
        (first,), *rest = [delta.tool_calls for delta in deltas if delta.tool_calls]
        assert (first.index, first.type, first.function.name, first.function.arguments) == (
            0,
            "function",
            "get_weather",
            "",
        )
        assert first.id.startswith("call_")
        assert all(call.id is None and call.function.name is None for calls in rest for call in calls)


def test_content_is_null_where_there_are_only_calls() -> None:
    with talking(CALL) as server:
        body = {"messages": [QUESTION], "tools": [WEATHER]}
        message = server.http.post(CHAT, json=body).json()["choices"][0]["message"]
        assert message["content"] is None
        assert "reasoning" not in message


def test_ids_of_calls_follow_from_request_and_prompt() -> None:
    with talking(CALL) as server, client_of(server) as client:

        def ids(request_id: str, *messages: Any, **fields: Any) -> list[str]:
            choices = ask(client, *messages, extra_headers={"X-Request-Id": request_id}, **fields).choices
            return [call.id for choice in choices for call in choice.message.tool_calls]

        assert ids("one") == ids("one")
        assert ids("one") != ids("two")
        assert ids("one") != ids("one", {"role": "user", "content": "and now?"})
        assert len(set(ids("one", n=3, temperature=1))) == 3


def test_one_call_at_most_ends_the_answer() -> None:
    with talking(f"a{CALL}{CALL}more") as server, client_of(server) as client:
        said = both(client, parallel_tool_calls=False)
        assert ([call["name"] for call in said["calls"]], said["finish_reason"]) == (["get_weather"], "tool_calls")
        assert said["usage"][0] == len(f"a{CALL}".encode())
        assert len(both(client)["calls"]) == 2
        server.wait_idle()


def test_none_leaves_calls_as_text_and_tools_in_the_prompt() -> None:
    with talking(CALL) as server, client_of(server) as client:
        shown = ask(client, tool_choice="none")
        assert (shown.choices[0].message.content, shown.choices[0].finish_reason) == (CALL, "stop")
        assert shown.usage.prompt_tokens == ask(client).usage.prompt_tokens
    with talking(CALL, exclude_tools_when_tool_choice_none=True) as server, client_of(server) as client:
        assert ask(client, tool_choice="none").usage.prompt_tokens == ask(client, tools=[]).usage.prompt_tokens
        assert ask(client).usage.prompt_tokens == shown.usage.prompt_tokens


def test_marks_that_are_special_tokens_are_read_and_others_stay_hidden() -> None:
    tokenizer = byte_tokenizer("<tool_call>", "</tool_call>", "<think>", "</think>", "<|odd|>")
    text = f"<think>Hm</think>So<|odd|>:{CALL}"
    with talking(text, tokenizer=tokenizer) as server, client_of(server) as client:
        said = both(client)
        assert (said["content"], said["reasoning"], len(said["calls"])) == ("So:", "Hm", 1)
        shown = both(client, extra_body={"skip_special_tokens": False})
        assert shown["content"] == "So<|odd|>:"
        assert both(client, tool_choice="none")["content"] == f"So:{CALL[11:-12]}"


def test_logprobs_and_token_ids_come_beside_calls_once_each() -> None:
    text = f"<think>Hm</think>So.{CALL}"
    with talking(text) as server, client_of(server) as client:
        fields = {"seed": 1, "logprobs": True, "top_logprobs": 2, "extra_body": {"return_token_ids": True}}
        (choice,) = ask(client, **fields).choices
        ids = list(text.encode())
        assert choice.token_ids[:-1] == ids
        assert len(choice.logprobs.content) == len(ids) + 1
        for interval in (1, 50):
            with talking(text, stream_interval=interval) as slow, client_of(slow) as other:
                choices = [choice for chunk in ask(other, stream=True, **fields) for choice in chunk.choices]
                assert [id_ for piece in choices[1:] for id_ in piece.token_ids] == choice.token_ids
                scores = [score for piece in choices if piece.logprobs for score in piece.logprobs.content]
                assert [score.logprob for score in scores] == [score.logprob for score in choice.logprobs.content]


def test_thoughts_are_counted_and_told_unless_unwanted() -> None:
    text = "<think>Hmm</think>So."
    with talking(text) as server, client_of(server) as client:
        said = both(client, tools=[])
        assert (said["reasoning"], said["content"]) == ("Hmm", "So.")
        details = said["usage"][1]
        # one token for each byte: the three of the thoughts, and what is not yet known to be the closing mark
        assert details.reasoning_tokens == len("Hmm</think")
        quiet = both(client, tools=[], extra_body={"include_reasoning": False})
        assert (quiet["reasoning"], quiet["content"]) == ("", "So.")
        assert quiet["usage"] == said["usage"]
    with talking(text, reasoning_parser="none") as server, client_of(server) as client:
        said = both(client, tools=[])
        assert (said["reasoning"], said["content"], said["usage"][1]) == ("", text, None)


def test_no_thoughts_are_looked_for_where_the_prompt_has_closed_them() -> None:
    with talking("<think>is a mark.</think>") as server, client_of(server) as client:
        assert both(client, reasoning_effort="none")["content"] == "<think>is a mark.</think>"
        assert both(client)["reasoning"] == "is a mark."


def test_a_template_that_opens_thoughts_asks_for_none_where_it_does_not() -> None:
    opens = TEMPLATE.replace("enable_thinking is defined and not enable_thinking", "enable_thinking")
    opens = opens.replace(
        "<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}", "<think>\\n' }}{% endif %}{% endif %}"
    )
    with talking("<think>Hm.</think>Yes.", template=opens) as server, client_of(server) as client:
        assert both(client, tools=[])["content"] == "<think>Hm.</think>Yes."
        said = both(client, tools=[], reasoning_effort="low")
        assert (said["reasoning"], said["content"]) == ("Hm.", "Yes.")
        formed = both(client, tools=[], seed=3, extra_body={"structured_outputs": {"regex": "[ab]{3}"}})
        assert (formed["reasoning"], len(formed["content"])) == ("", 3)


def test_tokenize_shows_tools() -> None:
    with talking(CALL) as server:
        body = {"messages": [QUESTION], "tools": [WEATHER]}
        tokens = server.http.post("/tokenize", json=body).json()["tokens"]
        prompt = server.http.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
        assert json.dumps(WEATHER, ensure_ascii=False) in prompt
        assert server.http.post(CHAT, json=body).json()["usage"]["prompt_tokens"] == len(tokens)


def test_what_is_meant_for_the_server_is_not_shown_to_the_model() -> None:
    strict = {**WEATHER, "function": {**WEATHER["function"], "strict": True}}
    with talking(CALL) as server, client_of(server) as client:
        assert ask(client, tools=[strict]).usage.prompt_tokens == ask(client).usage.prompt_tokens


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice", id="unknown"),
        pytest.param({"tools": [], "tool_choice": "required"}, "tool_choice", id="required without tools"),
        pytest.param({"tool_choice": "any"}, "tool_choice", id="a word"),
        pytest.param({"tools": [tool(), tool()]}, "tools", id="twice"),
        pytest.param({"tools": [tool("x" * 129)]}, "tools", id="long name"),
        pytest.param({"tools": [tool("a b")]}, "tools", id="a space"),
        pytest.param({"tools": [tool("")]}, "tools", id="no name"),
        pytest.param({"tools": [tool(parameters=[])]}, "tools", id="parameters as a list"),
        pytest.param({"tools": [tool(parameters={"type": "string"})]}, "tools", id="parameters of a text"),
        pytest.param({"tools": [tool(parameters={"properties": {"a": {"type": "text"}}})]}, "tools", id="unknown type"),
        pytest.param({"tools": [tool(parameters={"properties": {"a": 1}})]}, "tools", id="no schema"),
        pytest.param({"tools": [tool(parameters={"required": "a"})]}, "tools", id="required as a text"),
        pytest.param({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools", id="custom"),
        pytest.param({"tools": "f"}, "tools", id="a text"),
        pytest.param({"functions": [{"name": "f"}]}, "functions", id="functions of old"),
        pytest.param({"thinking_token_budget": -2}, "thinking_token_budget", id="a negative budget"),
        pytest.param(
            {"messages": [QUESTION, {"role": "assistant", "tool_calls": [{"id": "1"}]}]},
            "messages[1].tool_calls[0]",
            id="a call without a function",
        ),
    ],
)
def test_wrong_tools_are_refused(calling: Running, fields: dict[str, Any], param: str) -> None:
    answer = calling.http.post(CHAT, json={"messages": [QUESTION], "tools": [WEATHER], **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_what_the_template_cannot_show_is_refused() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    with talking("x", template="{% for message in messages %}{{ message.content }}{% endfor %}") as server:
        for body, param in (
            ({"messages": [QUESTION], "tools": [WEATHER]}, "tools"),
            ({"messages": [QUESTION, {"role": "assistant", "tool_calls": [call]}]}, "messages[1].tool_calls"),
        ):
            answer = server.http.post(CHAT, json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_auto_needs_leave_and_a_form() -> None:
    body = {"messages": [QUESTION], "tools": [WEATHER]}
    with talking("x", enable_auto_tool_choice=False) as server:
        answer = server.http.post(CHAT, json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tool_choice")
        assert server.http.post(CHAT, json={**body, "tool_choice": "none"}).status_code == 200
    with talking("x", tool_call_parser="none") as server:
        answer = server.http.post(CHAT, json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")


def test_what_clients_send_back_is_taken() -> None:
    """Null fields of openai's messages, arguments that are no JSON, and several results."""
    message = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "audio": None,
        "function_call": None,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{broken"}},
            {"id": "2", "type": "function", "function": {"name": "g", "arguments": ""}},
        ],
    }
    results = [{"role": "tool", "tool_call_id": id_, "content": [{"type": "text", "text": "ok"}]} for id_ in "12"]
    with talking("fine") as server:
        body = {"messages": [QUESTION, message, *results], "tools": [WEATHER]}
        tokens = server.http.post("/tokenize", json=body).json()["tokens"]
        prompt = byte_tokenizer().decode(tokens, skip_special_tokens=False)
        assert '<tool_call>f "{broken"</tool_call><tool_call>g {}</tool_call>' in prompt
        assert server.http.post(CHAT, json=body).status_code == 200
        plain = {"messages": [QUESTION, {"role": "assistant", "content": "a", "tool_calls": []}, QUESTION]}
        assert server.http.post(CHAT, json=plain).status_code == 200


def test_the_template_says_what_is_read(server: Running) -> None:
    assert "<tool_call>" in TEMPLATE
    assert (server.server.forms.calls, server.server.forms.reasoning) == (None, None)


def test_half_a_character_in_a_call_is_one_of_the_messages() -> None:
    """Its JSON is read for the template, which writes what no text can hold."""
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "\\ud800"}'}}
    with talking("") as server, client_of(server) as client:
        with pytest.raises(openai.BadRequestError, match="surrogate") as caught:
            ask(client, {"role": "assistant", "content": None, "tool_calls": [call]})
        assert caught.value.param == "messages"
