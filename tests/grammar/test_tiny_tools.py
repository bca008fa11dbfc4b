"""octavo-tiny calls tools, writes objects and thinks, over every API, and a worker that is killed in a call changes nothing."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import anthropic
import pytest

from grammar.tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MODEL = "octavo-tiny"
CHAT = "/v1/chat/completions"


def schema(name: str, description: str) -> dict[str, Any]:
    """Of one text that must be given."""
    return {"type": "object", "properties": {name: {"type": "string", "description": description}}, "required": [name]}


CALCULATOR = ("calculator", "Evaluate an arithmetic expression.", schema("expression", "Such as 2 + 3"))
CLOCK = ("get_current_time", "Get the current time in a city.", schema("city", "Name of the city"))
COUNTER = ("count_words", "Count the words in a text.", schema("text", "The text"))
KIT = (CALCULATOR, CLOCK, COUNTER)
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "description": said, "parameters": taken}}
    for name, said, taken in KIT
]
PRODUCT = "What is 4821 times 77?"
ASKED = [
    (PRODUCT, ("calculator", {"expression": "4821 * 77"}), "371217", "The result is 371217."),
    ("Divide 9000 by 36", ("calculator", {"expression": "9000 / 36"}), '{"result": 250}', "The result is 250."),
    ("What time is it in Oslo?", ("get_current_time", {"city": "Oslo"}), "14:05", "It is 14:05 in Oslo."),
    (
        "Count the words in 'the quick brown fox'",
        ("count_words", {"text": "the quick brown fox"}),
        '{"count": 4}',
        "The text has 4 words.",
    ),
]


def user(text: str) -> Any:
    return {"role": "user", "content": text}


def told(choice: Any) -> list[tuple[str, Any]]:
    """Names and arguments of the calls of a choice."""
    return [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls or []]


def chat(server: TinyServer, *messages: Any, **fields: Any) -> Any:
    """The choice of a greedy answer."""
    fields = {"tools": TOOLS, "temperature": 0, "max_tokens": 300, **fields}
    (choice,) = server.openai.chat.completions.create(model=MODEL, messages=list(messages), **fields).choices
    return choice


@pytest.mark.parametrize(("question", "call", "result", "answer"), ASKED, ids=["product", "quotient", "time", "words"])
def test_a_tool_is_called_and_its_result_told(
    tiny: TinyServer, question: str, call: tuple[str, Any], result: str, answer: str
) -> None:
    first = chat(tiny, user(question))
    assert (told(first), first.finish_reason) == ([call], "tool_calls")
    (made,) = first.message.tool_calls
    back = {"role": "tool", "tool_call_id": made.id, "content": result}
    second = chat(tiny, user(question), first.message.model_dump(exclude_none=True), back)
    assert (second.message.content, second.finish_reason) == (answer, "stop")


def test_tools_that_do_not_help_are_left_alone(tiny: TinyServer) -> None:
    for question, answer in (("Spell cat", "c-a-t"), ("Reverse apple", "elppa")):
        choice = chat(tiny, user(question))
        assert (choice.message.content, told(choice)) == (answer, [])


@pytest.mark.parametrize(
    "tool_choice",
    ["auto", "required", {"type": "function", "function": {"name": "calculator"}}],
    ids=["auto", "required", "named"],
)
def test_every_way_to_ask_for_a_call(tiny: TinyServer, tool_choice: Any) -> None:
    choice = chat(tiny, user(PRODUCT), tool_choice=tool_choice)
    assert told(choice) == [ASKED[0][1]]


def test_a_streamed_call_is_the_whole_one(tiny: TinyServer) -> None:
    stream = tiny.openai.chat.completions.create(
        model=MODEL, messages=[user(PRODUCT)], tools=TOOLS, temperature=0, max_tokens=300, stream=True
    )
    calls = [call for chunk in stream for choice in chunk.choices for call in choice.delta.tool_calls or []]
    assert [call.function.name for call in calls if call.function and call.function.name] == ["calculator"]
    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    assert json.loads(arguments) == ASKED[0][1][1]


def test_it_thinks_when_it_is_asked_to(tiny: TinyServer) -> None:
    direct = chat(tiny, user("What is 478 + 264?"), tools=[])
    assert (direct.message.content, getattr(direct.message, "reasoning_content", None)) == ("742", None)
    for asked in ({"reasoning_effort": "low"}, {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}):
        choice = chat(tiny, user("What is 478 + 264?"), tools=[], **asked)
        assert choice.message.content == "742"
        assert choice.message.reasoning_content == "874 462\n8+4+0=12\n7+6+1=14\n4+2+1=7"
    silent = chat(tiny, user("What is 478 + 264?"), tools=[], reasoning_effort="none")
    assert silent.message.content == "742"


def test_an_object_is_made_of_a_sentence(tiny: TinyServer) -> None:
    asked = user("Give me JSON with the keys name and age: Anna is 31 years old and lives in Oslo.")
    for fields in ({}, {"response_format": {"type": "json_object"}}):
        choice = chat(tiny, asked, tools=[], **fields)
        assert json.loads(choice.message.content) == {"name": "Anna", "age": 31}


def test_responses_with_tools(tiny: TinyServer) -> None:
    tools: list[Any] = [
        {"type": "function", "name": name, "description": said, "parameters": taken, "strict": False}
        for name, said, taken in KIT
    ]
    talk: list[Any] = [user(PRODUCT)]
    first = tiny.openai.responses.create(model=MODEL, input=talk, tools=tools, temperature=0)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ASKED[0][1]
    talk += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "371217"}]
    second = tiny.openai.responses.create(model=MODEL, input=talk, tools=tools, temperature=0)
    assert second.output_text == "The result is 371217."


def test_messages_with_tools(tiny: TinyServer) -> None:
    tools: list[Any] = [{"name": name, "description": said, "input_schema": taken} for name, said, taken in KIT]
    with anthropic.Anthropic(base_url=str(tiny.http.base_url), api_key="unused", max_retries=0) as client:
        fields: dict[str, Any] = {"model": MODEL, "max_tokens": 300, "tools": tools, "extra_body": {"temperature": 0}}
        first = client.messages.create(messages=[user(PRODUCT)], **fields)
        (call,) = [block for block in first.content if block.type == "tool_use"]
        assert (call.name, call.input, first.stop_reason) == (*ASKED[0][1], "tool_use")
        result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "371217"}
        talk: list[Any] = [
            user(PRODUCT),
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        second = client.messages.create(messages=talk, **fields)
    assert [block.text for block in second.content if block.type == "text"] == ["The result is 371217."]


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("thinking", [False, True], ids=["at once", "after thoughts"])
def test_a_kill_in_the_middle_of_a_call_changes_nothing(*, thinking: bool) -> None:
    """Token ids come with every chunk, so that one knows that the worker died within the call."""
    body = {
        "model": MODEL,
        "messages": [user(PRODUCT)],
        "tools": TOOLS,
        "temperature": 0,
        "max_tokens": 300,
        "stream": True,
        "return_token_ids": True,
        "logprobs": True,
        "chat_template_kwargs": {"enable_thinking": thinking},
    }
    with tiny_server(own_process=True) as server:
        calm = streamed(server, body)
        for kill_after in (2, 25, 60):
            assert streamed(server, body, kill_after=kill_after) == calm
        assert server.http.get("/server_info").json()["worker"]["restarts"]
    _, calls, _ = calm
    (name, arguments), *others = calls
    assert ((name, json.loads(arguments)), others) == (ASKED[0][1], [])


Streamed = tuple[list[int], list[tuple[str, str]], list[float]]


def streamed(server: TinyServer, body: dict[str, Any], kill_after: int | None = None) -> Streamed:
    """Token ids, calls, and scores; the worker is killed once that many tokens have come."""
    ids: list[int] = []
    calls: dict[int, tuple[str, str]] = {}
    scores: list[float] = []
    killed = kill_after is None
    with server.http.stream("POST", CHAT, json=body) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                ids += choice.get("token_ids") or []
                scores += [token["logprob"] for token in (choice.get("logprobs") or {}).get("content") or []]
                for call in choice["delta"].get("tool_calls") or []:
                    name, arguments = calls.get(call["index"], ("", ""))
                    more = call["function"]
                    calls[call["index"]] = (name + more.get("name", ""), arguments + more.get("arguments", ""))
            if not killed and kill_after is not None and len(ids) >= kill_after:
                killed = True
                os.kill(server.runtime.engines[0].status().worker_pid, signal.SIGKILL)
    assert killed
    return ids, list(calls.values()), scores
