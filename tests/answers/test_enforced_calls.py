"""Calls that a grammar enforces are told piece by piece."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from answers.parser_harness import TOOLS, calls, content, cut, events
from octavo.answers.parsers import CALL_FORMS, AnswerParser, EnforcedCallParser, ToolCallArguments

JSON_FORMS = [name for name, form in CALL_FORMS.items() if form.text is not None and form.text.style == "json"]
ARGUMENTS = ['{"city": "}]</tool_call> \\" {"}', "{}", '{\n "days": 3, "spot": {"x": [1]}}']


def spelled(form: str, *made: tuple[str, str]) -> str:
    text = CALL_FORMS[form].text
    assert text is not None
    return text.separator.join(text.begin.replace("NAME", name) + arguments + text.end for name, arguments in made)


def reader(form: str, most: int | None = None) -> AnswerParser:
    return AnswerParser(None, EnforcedCallParser(CALL_FORMS[form], TOOLS, most))


@pytest.mark.parametrize("form", JSON_FORMS)
@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["weather", "now"]), st.sampled_from(ARGUMENTS)), max_size=3), st.data())
def test_any_division_gives_the_same_calls(form: str, made: list[tuple[str, str]], data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(["", "\n\n"])) + spelled(form, *made)
    length = data.draw(st.integers(0, len(text)))
    whole = events([text[:length]], reader(form))
    assert events(cut(text[:length], data.draw(st.lists(st.integers(0, len(text))))), reader(form)) == whole
    assert events(text[:length], reader(form)) == whole
    if length == len(text):
        assert (calls(whole), content(whole)) == (made, "")
    for (name, arguments), (expected, all_arguments) in zip(calls(whole), made, strict=False):
        assert name == expected
        assert all_arguments.startswith(arguments)


@pytest.mark.parametrize("form", JSON_FORMS)
def test_arguments_come_before_the_call_is_whole(form: str) -> None:
    parser = reader(form)
    text = spelled(form, ("weather", '{"city": "Aachen"}'))
    told = parser.feed(text[: text.index("chen")])
    assert "".join(event.text for event in told if isinstance(event, ToolCallArguments)) == '{"city": "Aa'
    assert parser.num_calls == 0
    parser.feed(text[text.index("chen") :])
    assert parser.num_calls == 1


def test_a_beginning_that_nobody_has_heard_of_is_content() -> None:
    text = spelled("hermes", ("now", "{}"))[:15]
    assert content(events([text], reader("hermes"))) == text


def test_the_last_allowed_call_is_the_end() -> None:
    parser = reader("hermes", 1)
    parser.feed(spelled("hermes", ("now", "{}")))
    assert parser.done
    assert (parser.feed("more"), parser.finish()) == ([], [])
