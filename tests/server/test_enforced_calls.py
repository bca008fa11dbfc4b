"""Calls that a grammar enforces, and thoughts and forms beside them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from octavo.answers.parsers import CALL_FORMS
from octavo.grammar import Vocabulary
from server.agent import QUESTION, WEATHER, talking
from server.harness import ENGINE, Running, SharedForkServer, byte_tokenizer

CHAT = "/v1/chat/completions"
NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
COUNT: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "count",
        "parameters": {
            "type": "object",
            "properties": {"up": {"type": "boolean"}, "to": {"enum": [1, 2, 3]}},
            "required": ["up", "to"],
        },
    },
}
NAMED = {"type": "function", "function": {"name": "count"}}
OPEN = "{{ messages[0].content }}{% for t in tools or [] %}{{ t | tojson }}{% endfor %}<think>\n"
"""A template whose prompts open the thoughts."""


Saying = Callable[..., contextlib.AbstractContextManager[Running]]


@pytest.fixture(scope="module")
def saying() -> Iterator[Saying]:
    """Makes servers whose models say a text, all with one source of processes for grammars."""
    forks = SharedForkServer(Vocabulary(byte_tokenizer(), ENGINE.vocab_size, ENGINE.eos_token_ids))
    yield functools.partial(talking, forks=forks)
    forks.end()


def choice_of(server: Running, **fields: Any) -> dict[str, Any]:
    body = {"messages": [QUESTION], "tools": [WEATHER, NOW, COUNT], "max_tokens": 800, "seed": 1, **fields}
    answer = server.http.post(CHAT, json=body)
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def calls_of(choice: dict[str, Any]) -> list[tuple[str, Any]]:
    calls = choice["message"].get("tool_calls", [])
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


@pytest.mark.parametrize("form", sorted(CALL_FORMS))
def test_a_named_tool_is_called_in_every_form(saying: Saying, form: str) -> None:
    """The model would rather talk: the grammar leaves it no choice, and the parser of the form reads what it writes."""
    with saying("I would rather talk.", tool_call_parser=form, reasoning_parser="none") as server:
        choice = choice_of(server, tool_choice=NAMED)
        ((name, arguments),) = calls_of(choice)
        assert (name, choice["finish_reason"], choice["message"]["content"]) == ("count", "tool_calls", None)
        assert isinstance(arguments["up"], bool)
        assert arguments["to"] in (1, 2, 3)
        assert set(arguments) == {"up", "to"}


def test_a_form_of_what_is_said_holds_of_no_enforced_call(saying: Saying) -> None:
    """As instructor sends both; a grammar of the client's own for the whole answer is refused beside a call."""
    form = {"type": "json_schema", "json_schema": {"name": "word", "schema": {"enum": ["yes", "no"]}}}
    with saying("I would rather talk.", reasoning_parser="none") as server:
        ((name, _),) = calls_of(choice_of(server, tool_choice=NAMED, response_format=form))
        assert name == "count"
        body = {
            "messages": [QUESTION],
            "tools": [COUNT],
            "tool_choice": NAMED,
            "structured_outputs": {"choice": ["yes"]},
        }
        refused = server.http.post(CHAT, json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "structured_outputs")
        told = {"type": "json_schema", "name": "word", "schema": form["json_schema"]["schema"]}  # type: ignore[index]
        tool = {"type": "function", "name": "count", "parameters": COUNT["function"]["parameters"]}
        fields = {
            "input": "Count.",
            "tools": [tool],
            "tool_choice": {"type": "function", "name": "count"},
            "text": {"format": told},
        }
        answer = server.http.post("/v1/responses", json=fields | {"store": False, "max_output_tokens": 800})
        assert [item["type"] for item in answer.json()["output"]] == ["function_call"], answer.text


def test_required_calls_some_tool_and_says_nothing_else(saying: Saying) -> None:
    with saying('<tool_call>\n{"name": "count", "arguments": {"up": true, "to": 2}}\n</tool_call>') as server:
        assert calls_of(choice_of(server, tool_choice="required")) == [("count", {"up": True, "to": 2})]
    with saying("No.", reasoning_parser="none") as server:
        for stream in (False, True):
            body = {
                "messages": [QUESTION],
                "tools": [NOW],
                "tool_choice": "required",
                "parallel_tool_calls": False,
                "seed": 1,
            }
            answer = server.http.post(CHAT, json={**body, "stream": stream, "max_tokens": 200}).text
            assert re.search(r'"name":"now"', answer), answer
            assert '"finish_reason":"tool_calls"' in answer


def test_thoughts_come_before_an_enforced_call_and_before_a_form(saying: Saying) -> None:
    call = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": COUNT["function"]["parameters"]}}
    for template, text in (({}, "<think>\nHm.\n</think>\n\n"), ({"template": OPEN}, "Hm.\n</think>\n\n")):
        with saying(text + call, tool_call_parser="hermes", reasoning_parser="qwen3", **template) as server:
            choice = choice_of(server, tool_choice="required", parallel_tool_calls=False)
            assert (choice["message"]["reasoning"], calls_of(choice)) == ("Hm.", [("now", {})])
        with saying(text + '{"up": true, "to": 3}', reasoning_parser="qwen3", **template) as server:
            choice = choice_of(server, tools=None, response_format=form)
            assert choice["message"]["reasoning"] == "Hm."
            assert json.loads(choice["message"]["content"]) == {"up": True, "to": 3}


def test_a_form_leaves_the_choice_to_call(saying: Saying) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": COUNT["function"]["parameters"]}}
    with saying('<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>') as server:
        assert calls_of(choice_of(server, response_format=form, parallel_tool_calls=False)) == [("now", {})]
    with saying('{"up": false, "to": 1}') as server:
        assert json.loads(choice_of(server, response_format=form)["message"]["content"]) == {"up": False, "to": 1}
        fields = {"tool_choice": "none", "response_format": {"type": "json_object"}}
        assert json.loads(choice_of(server, **fields)["message"]["content"]) == {"up": False, "to": 1}


@pytest.mark.parametrize("budget", [0, 1, 5, 30])
@pytest.mark.parametrize("opened", [False, True])
def test_thoughts_end_with_their_budget(saying: Saying, budget: int, opened: bool) -> None:
    """One token for each byte: as many bytes of thoughts as the budget has tokens."""
    text = "a long thought" + "!" * 200
    options = {"template": OPEN} if opened else {}
    with saying(text if opened else f"<think>{text}", reasoning_parser="qwen3", **options) as server:
        choice = choice_of(server, tools=None, thinking_token_budget=budget, max_tokens=300)
        assert choice["message"].get("reasoning", "") == text[:budget].rstrip()
        free = choice_of(server, tools=None, thinking_token_budget=-1, max_tokens=300)
        assert free["message"]["reasoning"] == text


def test_thoughts_within_their_budget_are_left_alone(saying: Saying) -> None:
    with saying("<think>Hm</think>So.") as server:
        message = choice_of(server, tools=None, thinking_token_budget=10)["message"]
        assert (message["reasoning"], message["content"]) == ("Hm", "So.")
    with saying("So.") as server:
        assert choice_of(server, thinking_token_budget=0)["message"]["content"] == "So."


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"thinking_token_budget": -2}, "thinking_token_budget"),
        ({"thinking_token_budget": "many"}, "thinking_token_budget"),
        (
            {
                "tool_choice": "required",
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "parameters": {"properties": {"a": {"type": "array", "uniqueItems": True}}},
                        },
                    }
                ],
            },
            "tools",
        ),
    ],
    ids=["negative", "a word", "a schema that cannot be held to"],
)
def test_what_no_grammar_can_do_is_refused(saying: Saying, fields: dict[str, Any], param: str) -> None:
    with saying("x") as server:
        answer = server.http.post(CHAT, json={"messages": [QUESTION], **fields})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


UNSERVED: dict[str, Any] = {
    "type": "object",
    "properties": {"a/b": {"type": "array", "uniqueItems": True}},
}
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": UNSERVED}}
WHY = "uniqueItems is not served"
PROTOCOLS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "/v1/chat/completions": (
        "tools.1.function.parameters.properties.a/b: ",
        {
            "messages": [QUESTION],
            "tools": [NOW, {"type": "function", "function": {"name": "f", "parameters": UNSERVED, "strict": True}}],
        },
        {
            "required": {"tool_choice": "required"},
            "named": {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            "beside a form": {"response_format": {"type": "json_object"}},
        },
    ),
    "/v1/responses": (
        "tools[1].parameters.properties.a/b: ",
        {
            "input": "Count.",
            "tools": [
                {"type": "function", "name": "now", "parameters": {}},
                {"type": "function", "name": "f", "parameters": UNSERVED, "strict": True},
            ],
        },
        {
            "required": {"tool_choice": "required"},
            "named": {"tool_choice": {"type": "function", "name": "f"}},
            "beside a form": {"text": {"format": {"type": "json_object"}}},
        },
    ),
    "/v1/messages": (
        "tools.1.input_schema.properties.a/b: ",
        {
            "messages": [QUESTION],
            "max_tokens": 9,
            "tools": [
                {"name": "now", "input_schema": {"type": "object"}},
                {"name": "f", "input_schema": UNSERVED, "strict": True},
            ],
        },
        {
            "required": {"tool_choice": {"type": "any"}},
            "named": {"tool_choice": {"type": "tool", "name": "f"}},
            "beside a form": {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
        },
    ),
}


@pytest.mark.parametrize("asked", ["required", "named", "beside a form"])
@pytest.mark.parametrize("path", PROTOCOLS)
@pytest.mark.parametrize("thinks", [False, True])
def test_a_schema_that_no_grammar_can_hold_to_is_named_where_its_tool_is(
    saying: Saying, path: str, asked: str, thinks: bool
) -> None:
    place, body, ways = PROTOCOLS[path]
    options = {"tool_call_parser": "hermes", "reasoning_parser": "qwen3" if thinks else "none"}
    with saying("x", **options) as server:
        answer = server.http.post(path, json={**body, **ways[asked]})
    error = answer.json()["error"]
    assert answer.status_code == 400, answer.text
    assert error["message"].startswith(f"{place}{WHY}")
    assert error.get("param", "tools") == "tools"


@pytest.mark.parametrize("tool_choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_a_pattern_that_is_none_is_named_where_its_tool_is(saying: Saying, tool_choice: Any) -> None:
    wrong = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(b"}}}
    tools = [WEATHER, {"type": "function", "function": {"name": "f", "parameters": wrong}}]
    with saying("x", reasoning_parser="none") as server:
        body = {"messages": [QUESTION], "tools": tools, "tool_choice": tool_choice}
        error = server.http.post(CHAT, json=body).json()["error"]
    assert error["message"].startswith("tools.1.function.parameters.properties.a.pattern: "), error
    assert (error["code"], error["param"]) == (400, "tools")


@pytest.mark.parametrize("form", [{"guided_regex": "(b"}, {"guided_grammar": "root ::= ("}])
def test_no_place_of_a_grammar_that_the_server_made_is_told(saying: Saying, form: dict[str, str]) -> None:
    with saying("x", reasoning_parser="qwen3") as server:
        error = server.http.post(CHAT, json={"messages": [QUESTION], **form}).json()["error"]
    assert (error["code"], error["param"]) == (400, next(iter(form)))
    assert "#/" not in error["message"]


@pytest.mark.parametrize(
    ("field", "form", "place"),
    [
        ("response_format", FORM, "#/properties/a~1b"),
        ("guided_json", UNSERVED, "#/properties/a~1b"),
        (
            "structural_tag",
            {
                "format": {
                    "type": "tag",
                    "begin": "<",
                    "content": {"type": "json_schema", "json_schema": UNSERVED},
                    "end": ">",
                }
            },
            "#/format/content/json_schema/properties/a~1b",
        ),
        (
            "structural_tag",
            {"structures": [{"begin": "<", "schema": UNSERVED, "end": ">"}], "triggers": ["<"]},
            "#/structures/0/schema/properties/a~1b",
        ),
    ],
)
def test_a_form_is_refused_in_the_same_words_whatever_stands_beside_it(
    saying: Saying, field: str, form: dict[str, Any], place: str
) -> None:
    """Thoughts and tools make it a part of a larger grammar, which the client has not written."""
    told = set()
    for thinks, tools in itertools.product((False, True), (None, [NOW])):
        options = {"tool_call_parser": "hermes", "reasoning_parser": "qwen3" if thinks else "none"}
        with saying("x", **options) as server:
            answer = server.http.post(CHAT, json={"messages": [QUESTION], "tools": tools, field: form})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
        told.add(answer.json()["error"]["message"].partition(" (request id")[0])
    assert len(told) == 1
    assert f"at {place}: {WHY}" in told.pop()


def test_a_budget_needs_marks_that_a_grammar_can_write(saying: Saying) -> None:
    body = {"messages": [QUESTION], "thinking_token_budget": 3}
    for options in (
        {"reasoning_parser": "none"},
        {"tokenizer": byte_tokenizer("<think>", "</think>")},
    ):
        with saying("x", **options) as server:
            answer = server.http.post(CHAT, json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "thinking_token_budget"), answer.text
