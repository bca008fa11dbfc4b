"""Structured outputs as clients ask for them, on octavo-tiny: every finished answer has its form."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import jsonschema_rs
import pydantic
import pytest

from grammar.tiny_server import TinyServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MODEL = "octavo-tiny"
MESSAGES: Any = [{"role": "user", "content": "Who are you?"}]


SHORT = dict.fromkeys(map(str, b" \n\t\r"), -50)
"""Whitespace is unlikely where the form leaves a choice: most of an answer would be whitespace."""


class Animal(pydantic.BaseModel):
    """What is asked for."""

    kind: Literal["cat", "dog"]
    age: int = pydantic.Field(ge=0, le=40)
    friends: list[Literal["fox", "owl"]] = pydantic.Field(max_length=2)


SCHEMA = Animal.model_json_schema()


def test_parse_with_a_model_of_pydantics(tiny: TinyServer) -> None:
    answer = tiny.openai.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Animal, max_tokens=600)
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert isinstance(choice.message.parsed, Animal)


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, "schema"),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "schema"),
        ({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}}, "schema"),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, "schema"),
        ({"guided_json": SCHEMA}, "schema"),
        ({"guided_json": json.dumps(SCHEMA), "guided_decoding_backend": "xgrammar"}, "schema"),
        ({"structured_outputs": {"regex": r"[a-f]{3}-\d{2}"}}, r"[a-f]{3}-\d{2}"),
        ({"guided_regex": r"(north|south) \d{1,3}°"}, r"(north|south) \d{1,3}°"),
        ({"structured_outputs": {"choice": ["ja", 'n"e\\in', "🦉 é"]}}, re.escape("ja") + r'|n"e\\in|🦉 é'),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"structured_outputs": {"grammar": 'root ::= "<" [a-c]{1,3} ">"'}}, "<[abc]{1,3}>"),
        ({"guided_grammar": 'start: "<" /[a-c]{1,3}/ ">"'}, "<[abc]{1,3}>"),
    ],
)
@pytest.mark.parametrize("route", ["chat", "completions"])
def test_every_name_of_a_form(tiny: TinyServer, fields: dict[str, Any], fits: str, route: str) -> None:
    text = answered(tiny, route, seed=1, **fields)
    if fits == "schema":
        jsonschema_rs.validate(SCHEMA, json.loads(text))
    else:
        assert re.fullmatch(fits, text)


def test_any_object(tiny: TinyServer) -> None:
    body = {"model": MODEL, "messages": MESSAGES, "response_format": {"type": "json_object"}, "max_tokens": 300}
    choice = tiny.http.post("/v1/chat/completions", json=body).json()["choices"][0]
    text = choice["message"]["content"]
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(text), dict)
    else:
        assert text.lstrip().startswith("{")


def answered(tiny: TinyServer, route: str, **fields: Any) -> str:
    """The text of a finished answer."""
    body = {"model": MODEL, "max_tokens": 600, "logit_bias": SHORT, **fields}
    if route == "chat":
        answer = tiny.http.post("/v1/chat/completions", json={**body, "messages": MESSAGES}).json()
        text = answer["choices"][0]["message"]["content"]
    else:
        answer = tiny.http.post("/v1/completions", json={**body, "prompt": "Say: "}).json()
        text = answer["choices"][0]["text"]
    assert answer["choices"][0]["finish_reason"] == "stop", answer
    return str(text)
