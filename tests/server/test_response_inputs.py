"""What a wrong request for a response is answered with, row by row; docs/http.md shows the same table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from octavo.server.responses import ResponseRequest
from server.agent import TEMPLATE, WEATHER, talking
from server.harness import Running
from server.test_bad_inputs import DOCS, Case, docs_row

PATH = "/v1/responses"
TOOL: Any = {"type": "function", **WEATHER["function"]}
SCHEMA: Any = {"type": "json_schema", "name": "s", "schema": {"type": "object", "not": {}}}
CALL: Any = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT: Any = {"type": "function_call_output", "call_id": "c", "output": "x"}


def response(name: str, param: str | None, says: str = "", **fields: Any) -> Case:
    body = {name: value for name, value in {"input": "hi", **fields}.items() if value is not ...}
    return Case(f"response: {name}", PATH, body, param=param, says=says)


def item(name: str, where: str, says: str = "", *items: Any) -> Case:
    return response(name, where, says, input=list(items))


def message(content: Any, **fields: Any) -> Any:
    return {"role": "user", "content": content, **fields}


CASES = [
    # Input items
    response("no input", "input", "required", input=...),
    response("null input", "input", "list of", input=None),
    response("a number as input", "input", input=7),
    response("no items", "input", input=[]),
    response("an item that is a text", "input[0]", "type", input=["hi"]),
    item("an unknown type", "input[0].type", "must be one of message", {"type": "web_search_call", "id": "x"}),
    item("no type", "input[0].type", "message", {"content": "hi"}),
    item("an item by reference", "input[1].type", "send the item itself", message("a"), {"type": "item_reference", "id": "msg_1"}),
    item("an unknown role", "input[0].role", "developer", {"role": "tool", "content": "x"}),
    item("no content", "input[0].content", "list of parts", {"role": "user"}),
    item("an image", "input[0].content[1]", "text only", message([{"type": "input_text", "text": "a"}, {"type": "input_image"}])),
    item("a part without its text", "input[0].content[0].text", "", message([{"type": "input_text"}])),
    item("an unknown field of an item", "input[0].colour", "role, content", message("a", colour="red")),
    item("an unknown field of a part", "input[0].content[0].colour", "", message([{"type": "text", "text": "", "colour": 1}])),
    item("a call without an id", "input[0].call_id", "", {**CALL, "call_id": None}),
    item("a call without a name", "input[0].name", "", {**CALL, "name": ""}),
    item("a call with an object as arguments", "input[0].arguments", "text", {**CALL, "arguments": {}}),
    item("a call of a namespace", "input[0].namespace", "", {**CALL, "namespace": "n"}),
    item("a call by a program", "input[0].caller", "", {**CALL, "caller": {"type": "program", "caller_id": "p"}}),
    item("a result without its call", "input[0].call_id", "send the call too", RESULT),
    item("a result without an output", "input[1].output", "", CALL, {**RESULT, "output": None}),
    item("a result that is an image", "input[1].output[0]", "", CALL, {**RESULT, "output": [{"type": "input_image"}]}),
    item("thoughts from elsewhere", "input[0].encrypted_content", "", {"type": "reasoning", "summary": [], "encrypted_content": "gAA"}),
    item("thoughts that are no list", "input[0].content", "", {"type": "reasoning", "content": "Hm"}),
    # What is kept nowhere
    response("previous_response_id", "previous_response_id", "send the earlier items", previous_response_id="resp_1"),
    response("conversation", "conversation", "send the earlier items", conversation="conv_1"),
    response("background", "background", "stream", background=True),
    response("truncation", "truncation", "shorter", truncation="auto"),
    response("prompt", "prompt", "instructions", prompt={"id": "p"}),
    response("max_tool_calls", "max_tool_calls", "parallel_tool_calls", max_tool_calls=3),
    response("context_management", "context_management", "", context_management=[{"type": "compaction"}]),
    # Tools
    response("a tool of the server", "tools[1]", "'web_search'", tools=[TOOL, {"type": "web_search"}]),
    response("a custom tool", "tools[0]", "'custom'", tools=[{"type": "custom", "name": "f"}]),
    response("a tool without a name", "tools[0].name", "", tools=[{"type": "function"}]),
    response("a tool as chat has it", "tools[0].name", "in no function", tools=[WEATHER]),
    response("a tool with a wrong name", "tools", "tools[0].name", tools=[{**TOOL, "name": "a b"}]),
    response("a tool with a wrong schema", "tools", "tools[0].parameters", tools=[{**TOOL, "parameters": {"type": "list"}}]),
    response("a tool twice", "tools", "twice", tools=[TOOL, TOOL]),
    response("a deferred tool", "tools[0].defer_loading", "", tools=[{**TOOL, "defer_loading": True}]),
    response("tools that are no list", "tools", "", tools="none"),
    response("tool_choice without tools", "tool_choice", "no tools", tool_choice="required"),
    response("tool_choice of another tool", "tool_choice", "'f'", tools=[TOOL], tool_choice={"type": "function", "name": "f"}),
    response("tool_choice of allowed tools", "tool_choice", "allowed_tools", tools=[TOOL], tool_choice={"type": "allowed_tools"}),
    response("tool_choice in a word", "tool_choice", "maybe", tools=[TOOL], tool_choice="maybe"),
    # Form, thoughts and what is told
    response("text in a word", "text", "", text="json"),
    response("an unknown form", "text", "json_schema", text={"format": {"type": "xml"}}),
    response("a form without its schema", "text.format.schema", "", text={"format": {"type": "json_schema", "name": "s"}}),
    response("a form with a schema too many", "text.format.schema", "", text={"format": {"type": "text", "schema": {}}}),
    response("a form that cannot be held to", "text.format", "text.format", text={"format": SCHEMA}),
    response("a form as chat has it", "text", "Extra", text={"format": {"type": "json_schema", "json_schema": {}}}),
    response("two forms", "structured_outputs", "text.format", text={"format": {"type": "json_object"}}, structured_outputs={"regex": "a"}),
    response("verbosity", "text", "medium", text={"verbosity": "low"}),
    response("an unknown effort", "reasoning", "minimal", reasoning={"effort": "huge"}),
    response("a summary of the thoughts", "reasoning", "auto", reasoning={"summary": "detailed"}),
    response("an unknown field of reasoning", "reasoning", "colour", reasoning={"colour": 1}),
    response("something else included", "include", "logprobs", include=["web_search_call.action.sources"]),
    response("include in a word", "include", "", include="all"),
    response("top_logprobs over the limit", "top_logprobs", "top_logprobs", top_logprobs=1000),
    response("top_logprobs negative", "top_logprobs", "", top_logprobs=-1),
    # Numbers and labels
    response("max_output_tokens 0", "max_output_tokens", "at least 1", max_output_tokens=0),
    response("max_output_tokens over the limit", "max_output_tokens", "4096", max_output_tokens=5000),
    response("temperature", "temperature", "", temperature=3),
    response("top_p", "top_p", "", top_p=0),
    response("metadata of numbers", "metadata", "", metadata={"a": 1}),
    response("metadata too long", "metadata", "512", metadata={"a": "x" * 513}),
    response("17 metadata", "metadata", "16", metadata={str(number): "" for number in range(17)}),
    response("user as an object", "user", "", user={}),
    response("a long user", "user", "512", user="x" * 513),
    response("stream_options without stream", "stream_options", "", stream_options={"include_usage": True}),
    response("obfuscation", "stream_options", "", stream=True, stream_options={"include_obfuscation": True}),
    response("store in a word", "store", "", store="maybe"),
    # Fields of other routes
    response("max_tokens", "max_tokens", "max_output_tokens", max_tokens=3),
    response("max_completion_tokens", "max_completion_tokens", "max_output_tokens", max_completion_tokens=3),
    response("messages", "messages", "use input", messages=[]),
    response("response_format", "response_format", "text.format", response_format={"type": "json_object"}),
    response("reasoning_effort", "reasoning_effort", "effort", reasoning_effort="low"),
    response("logprobs", "logprobs", "include", logprobs=True),
    response("n", "n", "one answer", n=2),
    response("guided_json", "guided_json", "text.format", guided_json={}),
    response("suffix", "suffix", "", suffix="x"),
    response("a reserved template argument", "chat_template_kwargs", "", chat_template_kwargs={"messages": []}),
]  # fmt: skip


@pytest.fixture(scope="module")
def agent() -> Iterator[Running]:
    with talking("Hello") as server:
        yield server


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_wrong_request(agent: Running, case: Case) -> None:
    for stream in (False, True):
        body = case.body if stream is False else {"stream": True, **case.body}
        if case.param == "stream_options" and "stream" not in case.body and stream:
            continue  # then it is right
        answer = agent.http.post(PATH, json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (case.status, case.param), error
        assert error["type"] == "BadRequestError"
        assert case.says in error["message"], error["message"]
        for name in ("messages[", "response_format", "max_completion_tokens", ".function."):
            assert name == case.param or name not in error["message"], "a name of chat"


def test_every_field_has_a_wrong_request() -> None:
    plain = {"model", "request_id", "stream", "instructions", "parallel_tool_calls", "thinking_token_budget"}
    others = set(ResponseRequest.model_fields) - plain
    wrong = {re.split(r"[.\[]", case.param or "")[0] for case in CASES}
    sampling = set(ResponseRequest.__mro__[2].model_fields)  # type: ignore[attr-defined]
    labels = {"safety_identifier", "prompt_cache_key", "service_tier"}
    assert others - wrong - sampling - labels == set()


@pytest.mark.parametrize("name", sorted(set(ResponseRequest.model_fields)))
def test_no_field_takes_another_type(agent: Running, name: str) -> None:
    answer = agent.http.post(PATH, json={"input": "hi", name: {"7": [[]]}})
    if name == "chat_template_kwargs":
        assert answer.status_code == 200, "what it holds is the template's business"
        return
    error = answer.json()["error"]
    assert (answer.status_code, re.split(r"[.\[]", error["param"])[0]) == (400, name), error


def test_the_table_in_the_docs_is_this_one() -> None:
    rows = re.findall(r"^\| (\d{3}) \| ([^|]+) \| (`[^`]*`|) *\|", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    told = {(int(status), name.strip(), param.strip("`") or None) for status, name, param in rows}
    missing = [docs_row(case) for case in CASES if (case.status, case.name, case.param) not in told]
    assert not missing, "rows for docs/http.md:\n" + "\n".join(missing)


def test_what_asks_for_nothing_is_taken(agent: Running) -> None:
    fields = {name: None for name in [*ResponseRequest.model_fields, *ResponseRequest.refused] if name != "input"}
    harmless = {name: values[-1] for name, (values, _) in ResponseRequest.refused.items()}
    for body in (
        fields,
        harmless,
        {"include": [], "tools": [], "metadata": {}, "text": {}, "reasoning": {}, "store": False},
    ):
        answer = agent.http.post(PATH, json={"input": "hi", **body})
        assert answer.status_code == 200, answer.text


def test_errors_name_the_item_that_a_message_was_made_of() -> None:
    plain = TEMPLATE.replace("message.tool_calls", "message.nothing")
    talk = [message("a"), {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm"}]}, CALL, RESULT]
    with talking("x", template=plain) as server:
        answer = server.http.post(PATH, json={"input": talk, "instructions": "i"}).json()["error"]
        assert (answer["code"], answer["param"]) == (400, "input[1]")
        assert json.dumps(talk[1]) not in answer["message"]
    hidden = "{% for message in messages if message.role != 'system' %}{{ message.content }}{% endfor %}"
    with talking("x", template=hidden) as server:
        answer = server.http.post(PATH, json={"input": "a", "instructions": "i"}).json()["error"]
        assert (answer["code"], answer["param"].partition(".")[0]) == (400, "instructions")
    with talking("x", template="{% for message in messages %}{{ message.content }}{% endfor %}") as server:
        answer = server.http.post(PATH, json={"input": "a", "reasoning": {"effort": "low"}}).json()["error"]
        assert (answer["code"], answer["param"]) == (400, "reasoning.effort")
        for size in (5_000, 200_000):
            answer = server.http.post(PATH, json={"input": "x" * size}).json()["error"]
            assert (answer["code"], answer["param"], answer["message"].partition(" ")[0]) == (400, "input", "input")
