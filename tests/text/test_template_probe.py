"""Every message of a conversation reaches the prompt, in the form that the template shows, or is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.errors import RequestError
from octavo.text import ChatTemplate
from octavo.text.messages import ContentForm

KNOWN_ROLES = (
    "{%- if messages[0].role == 'system' %}{{- '<system>' + messages[0].content }}{% endif %}"
    "{%- for message in messages %}"
    "{%- if message.content is string %}{% set content = message.content %}{% else %}{% set content = '' %}{% endif %}"
    "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}"
    "{{- '<' + message.role + '>' + content }}"
    "{%- elif message.role == 'assistant' %}{{- '<assistant>' + content.split('</think>')[-1] | trim }}"
    "{%- elif message.role == 'tool' %}{{- '<tool>' + content }}{% endif %}"
    "{%- endfor %}"
)
"""As Qwen3's: roles by name, and `content is string`."""
SYSTEM_FIRST = (
    "{%- if messages[0].role == 'system' %}{{- '<system>' + messages[0].content | upper }}{% endif %}"
    "{%- for message in messages if message.role != 'system' %}{{- '<' + message.role + '>' + message.content }}{% endfor %}"
)
"""A system message that is not the first is dropped; the first one is shown in capitals."""
NO_SYSTEM = (
    "{%- if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{%- for m in messages %}{% if m.role in ('user', 'assistant') %}{{- '<' + m.role + '>' + m.content }}{% endif %}{% endfor %}"
)
PARTS_ONLY = (
    "{%- for m in messages %}{{- '<' + m.role + '>' }}"
    "{%- for part in m.content %}{% if part.type == 'text' %}{{- part.text }}{% endif %}{% endfor %}{% endfor %}"
)
BOTH = (
    "{%- for m in messages %}{{- '<' + m.role + '>' }}{% if m.content is string %}{{- m.content }}{% else %}"
    "{%- for part in m.content %}{{- part.text }}{% endfor %}{% endif %}{% endfor %}"
)
PYTHON_LISTS = "{%- for m in messages %}{{- '<' + m.role + '>' }}{{- m.content }}{% endfor %}"
MERGED = (
    "{%- set ns = namespace(system='') %}"
    "{%- for m in messages %}{% if m.role == 'system' %}{% set ns.system = ns.system + m.content %}{% endif %}{% endfor %}"
    "{%- for m in messages if m.role == 'user' %}{{- '<user>' + ns.system + m.content }}{% set ns.system = '' %}{% endfor %}"
)


def render(source: str, *messages: tuple[str, Any], form: ContentForm | None = None, **options: Any) -> str:
    template = ChatTemplate(source, special_tokens={}, content_form=form)
    conversation = [{"role": role, "content": content} for role, content in messages]
    return template.render(conversation, **options)


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def test_a_developer_is_a_system_where_the_template_knows_no_developers() -> None:
    said = ("developer", "Be brief."), ("user", "hi")
    assert render(KNOWN_ROLES, *said) == "<system>Be brief.<user>hi"
    assert render(KNOWN_ROLES, said[1], said[0]) == "<user>hi<system>Be brief."
    assert render(MERGED, *said) == "<user>Be brief.hi"


def test_a_developer_stays_one_where_the_template_shows_developers() -> None:
    assert render(BOTH, ("developer", "Be brief."), ("user", "hi")) == "<developer>Be brief.<user>hi"


@pytest.mark.parametrize(
    ("source", "messages", "at"),
    [
        (KNOWN_ROLES, [("user", "a"), ("critic", "b")], 1),
        (KNOWN_ROLES, [("critic", "b"), ("user", "a")], 0),
        (SYSTEM_FIRST, [("user", "a"), ("system", "b"), ("user", "c")], 1),
        (SYSTEM_FIRST, [("system", "a"), ("system", "b"), ("user", "c")], 1),
        (NO_SYSTEM, [("user", "a"), ("tool", "b")], 1),
        (NO_SYSTEM, [("user", "a"), ("developer", parts("b"))], 1),
        (MERGED, [("user", "a"), ("assistant", "b"), ("user", "c")], 1),
    ],
)
def test_a_message_that_would_be_dropped_is_refused(source: str, messages: list[tuple[str, Any]], at: int) -> None:
    for _ in range(2):
        with pytest.raises(RequestError) as error:
            render(source, *messages)
        assert error.value.param == f"messages[{at}].role"
        assert repr(messages[at][0]) in str(error.value)


@pytest.mark.parametrize(
    ("source", "messages", "text"),
    [
        (KNOWN_ROLES, [("assistant", "<think>no</think> yes"), ("user", "b")], "<assistant>yes<user>b"),
        (KNOWN_ROLES, [("user", " "), ("critic", ""), ("user", "b")], "<user> <user>b"),
        (SYSTEM_FIRST, [("system", "a"), ("user", "b")], "<system>A<user>b"),
        (MERGED, [("system", "a"), ("user", "octavomark1end")], "<user>aoctavomark1end"),
    ],
    ids=["thoughts are left out", "nothing to show", "changed on the way", "a mark of our own"],
)
def test_what_shows_is_taken(source: str, messages: list[tuple[str, Any]], text: str) -> None:
    assert render(source, *messages) == text


def test_a_templates_own_refusal_is_its_own() -> None:
    with pytest.raises(RequestError, match="no system") as error:
        render(NO_SYSTEM, ("system", "a"), ("user", "b"))
    assert error.value.param == "messages"


@pytest.mark.parametrize(
    ("source", "one", "two"),
    [
        (KNOWN_ROLES, "<user>a", "<user>a\nb"),
        (PARTS_ONLY, "<user>a", "<user>ab"),
        (BOTH, "<user>a", "<user>ab"),
        (PYTHON_LISTS, "<user>a", "<user>a\nb"),
        (SYSTEM_FIRST, "<user>a", "<user>a\nb"),
    ],
    ids=["content is string", "parts only", "both", "as Python writes it", "a type error"],
)
def test_content_as_text_or_as_parts(source: str, one: str, two: str) -> None:
    assert render(source, ("user", "a")) == one
    assert render(source, ("user", parts("a"))) == one
    assert render(source, ("user", parts("a", "b"))) == two


def test_a_form_that_is_set_is_used() -> None:
    assert render(BOTH, ("user", parts("a", "b")), form=ContentForm.TEXT) == "<user>a\nb"
    assert render(PYTHON_LISTS, ("user", "a"), form=ContentForm.PARTS) == f"<user>{parts('a')}"


@pytest.mark.parametrize("source", [KNOWN_ROLES, PARTS_ONLY, BOTH, PYTHON_LISTS])
def test_an_assistant_may_have_said_nothing(source: str) -> None:
    assert render(source, ("user", "a"), ("assistant", None), ("user", "b")) == "<user>a<assistant><user>b"


@pytest.mark.parametrize("source", [KNOWN_ROLES, PARTS_ONLY, BOTH])
def test_parts_can_be_continued(source: str) -> None:
    said = [("user", "a"), ("assistant", parts("b c"))]
    text = render(source, *said, add_generation_prompt=False, continue_final_message=True)
    assert text == "<user>a<assistant>b c"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("hi", "messages[1]"),
        ({"content": "x"}, "messages[1].role"),
        ({"role": 3, "content": "x"}, "messages[1].role"),
        ({"role": "user"}, "messages[1].content"),
        ({"role": "user", "content": 7}, "messages[1].content"),
        ({"role": "user", "content": ["x"]}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[1].content"),
    ],
    ids=repr,
)
def test_what_is_no_message_is_refused_by_its_place(message: Any, field: str) -> None:
    with pytest.raises(RequestError) as error:
        ChatTemplate(BOTH, special_tokens={}).render([{"role": "user", "content": "x"}, message])
    assert error.value.param == field


def test_a_long_conversation_and_fields_of_the_clients() -> None:
    template = ChatTemplate(KNOWN_ROLES, special_tokens={})
    long = [{"role": "user", "content": str(number)} for number in range(500)]
    assert template.render(long).count("<user>") == 500
    with pytest.raises(RequestError) as error:
        template.render([*long, {"role": "critic", "content": "x"}])
    assert error.value.param == "messages[500].role"
    with pytest.raises(RequestError) as error:
        template.render([long[0], {"role": "critic", "content": "x", "name": "y"}])
    assert error.value.param == "messages[1].role"


def test_no_messages_are_refused() -> None:
    with pytest.raises(RequestError, match="messages"):
        ChatTemplate(BOTH, special_tokens={}).render([])


@pytest.mark.parametrize(
    ("source", "shown"), [(KNOWN_ROLES, True), (BOTH, True), (SYSTEM_FIRST, False), (NO_SYSTEM, False)]
)
def test_messages_of_the_system_after_others(source: str, shown: bool) -> None:
    assert ChatTemplate(source, special_tokens={}).shows_later_systems == shown
