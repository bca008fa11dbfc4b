"""Whatever a model writes, in whatever pieces it comes: the same events, and nothing lost."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from answers.parser_harness import TOOLS, calls, content, cut, events, parser, thoughts
from octavo.answers.parsers import CALL_FORMS, REASONING, AnswerParser, Event, Start, ToolCallParser
from octavo.answers.parsers.json_scanner import JsonScanner
from octavo.answers.parsers.text_parser import TextParser

PIECES = {
    "hermes": ["<tool_call>", "</tool_call>", '{"name": "weather", "arguments": {"city": "a"}}', '{"name":"now"}'],
    "qwen3_coder": [
        "<tool_call>\n<function=weather>\n",
        "<function=now>",
        "<parameter=city>\n",
        "<parameter=days>1</parameter>",
        "\n</parameter>\n",
        "</function>",
        "</tool_call>",
    ],
    "glm45": [
        "<tool_call>weather\n",
        "<tool_call>now",
        "<arg_key>city</arg_key>\n",
        "<arg_key>days</arg_key><arg_value>2",
        "<arg_value>",
        "</arg_value>\n",
        "</tool_call>",
    ],
    "minimax_m2": [
        "<minimax:tool_call>\n",
        '<invoke name="weather">\n',
        '<invoke name="now">',
        '<parameter name="city">',
        "</parameter>\n",
        "</invoke>",
        "</minimax:tool_call>",
    ],
    "mistral": [
        "[TOOL_CALLS]",
        '[{"name": "weather", "arguments": {"city": "a"}}',
        ', {"name": "now", "arguments": {}}]',
        "weather[ARGS]",
        "now",
        "[CALL_ID]abcdefghi",
        '{"city": "a"}',
    ],
    "llama3_json": ["<|python_tag|>", '{"name": "weather", "parameters": {"city": "a"}}', "; ", '{"name": "now"}'],
    "pythonic": ["<|python_start|>", "[weather(city='a')", ", now()]", "[now()]", "<|python_end|>", "weather(days=1,"],
}
"""What texts of a form are made of, besides anything else."""
COMMON = [
    "<think>",
    "</think>",
    "<",
    "<tool",
    "</tool_call",
    "[",
    "]",
    "{",
    "}",
    '"',
    "\\",
    '\\"',
    "\n",
    "  ",
    ":",
    ",",
    "é🙂",
    "\\u00e9",
    "text",
    "é\u0301",
    '{"name": "weather", "arguments": {"city": "<tool_call>{}</tool_call>"}}',
    '{"name": "weather", "arguments": ["no"]}',
    '{"name": "weather", "parameters": {"city": "x"}}',
]
FORMS = sorted(PIECES)
FAST = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def texts(form: str) -> st.SearchStrategy[str]:
    pieces = st.sampled_from(COMMON + PIECES.get(form, []) * 3) | st.text(max_size=3)
    return st.lists(pieces, max_size=14).map("".join)


def reader(form: str, reasoning: str, start: Start, *, kind: type[ToolCallParser] = ToolCallParser) -> AnswerParser:
    return AnswerParser(REASONING[reasoning](start, calls_end_it=True), kind(CALL_FORMS[form], TOOLS))


def bare(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("form", FORMS)
@FAST
@given(st.data())
def test_any_division_gives_the_same_events(form: str, data: st.DataObject) -> None:
    text = data.draw(texts(form))
    reasoning, start = data.draw(st.sampled_from(sorted(REASONING))), data.draw(st.sampled_from(list(Start)))
    whole = events([text], reader(form, reasoning, start))
    parts = cut(text, data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    assert events(parts, reader(form, reasoning, start)) == whole
    assert events(text, reader(form, reasoning, start)) == whole
    for _, arguments in calls(whole):
        assert isinstance(json.loads(arguments), dict)


@pytest.mark.parametrize("form", FORMS)
@FAST
@given(st.data())
def test_nothing_is_lost(form: str, data: st.DataObject) -> None:
    """Without calls the content is the text; with thoughts and calls, what is neither a mark nor white space is all told."""
    text = data.draw(texts(form))
    found = events([text], parser(form))
    if not calls(found):
        assert content(found) == text
    rest = iter(bare(text))
    assert all(char in rest for char in bare(content(found))), (
        "content that the model did not write, or in another order"
    )
    split = events([text], reader(form, "qwen3", Start.UNSAID))
    if not calls(split):
        told = bare(thoughts(split)) + bare(content(split))
        assert told in {bare(text), *_without_marks(bare(text))}


def _without_marks(text: str) -> set[str]:
    """The text without one mark at its start, or that and the first closing mark, or with a mark repeated at its start."""
    opened = text.removeprefix("<think>")
    return {opened, opened.replace("</think>", "", 1)}


@pytest.mark.parametrize("form", FORMS)
@FAST
@given(st.data())
def test_text_without_marks_is_content_to_the_letter(form: str, data: st.DataObject) -> None:
    text = data.draw(st.text(alphabet=st.characters(exclude_characters="<[{|", codec="utf-8")))
    found = events(text, parser(form))
    assert (content(found), calls(found)) == (text, [])


def test_every_form_is_looked_at() -> None:
    assert {CALL_FORMS[name] for name in FORMS} == set(CALL_FORMS.values())


class Hasty(ToolCallParser):
    """A mutated twin: tells the beginning of a mark before it knows what becomes of it."""

    def _safe(self) -> int:
        return len(self._text)


class Careless(JsonScanner):
    """A mutated twin: takes brackets in strings for brackets."""

    def _scan_string(self, text: str) -> None:
        self._in_string = False


def test_a_twin_that_tells_too_early_is_found() -> None:
    text = '<tool_call>{"name": "now"}</tool_call>'
    twin = events(text, reader("hermes", "qwen3", Start.UNSAID, kind=Hasty))
    assert twin != events([text], reader("hermes", "qwen3", Start.UNSAID, kind=Hasty))
    assert calls(events(text, reader("hermes", "qwen3", Start.UNSAID))) == [("now", "{}")]


def test_a_twin_that_reads_strings_as_structure_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    text = '<tool_call>{"name": "weather", "arguments": {"city": "}</tool_call>"}}</tool_call>'
    assert calls(events(text, parser("hermes"))) == [("weather", '{"city": "}</tool_call>"}')]
    monkeypatch.setattr("octavo.answers.parsers.hermes.JsonScanner", Careless)
    assert calls(events(text, parser("hermes"))) == []


@pytest.mark.parametrize("reasoning", [None, *REASONING])
@pytest.mark.parametrize("form", [None, *CALL_FORMS])
def test_endless_white_space_is_looked_at_once(
    form: str | None, reasoning: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held back as it is, each look would take longer than the one before."""
    looked_at: list[int] = []
    for kind in {type(part) for part in vars(parser(form, reasoning)).values() if isinstance(part, TextParser)}:
        advance = kind._advance

        def looked(self: TextParser, *, ended: bool, advance: Any = advance) -> list[Event]:
            looked_at.append(len(self._text))
            return list(advance(self, ended=ended))

        monkeypatch.setattr(kind, "_advance", looked)
    for before in ("", "text", "<think>", "<think>thoughts", "<think>thoughts</think>"):
        reader = parser(form, reasoning)
        reader.feed(before)
        looked_at.clear()
        for _ in range(100):
            reader.feed("\n")
        assert sum(looked_at) <= 300, before
