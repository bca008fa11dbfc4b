"""Chat templates render as Hugging Face's, in a sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from octavo.errors import CheckpointError, ConfigError, RequestError
from octavo.text import ChatTemplate, load_chat_template
from server.harness import TEMPLATE

USER = [{"role": "user", "content": "hi"}]


def template(source: str, **kwargs: Any) -> ChatTemplate:
    return ChatTemplate(source, special_tokens={"eos_token": "<eos>"}, **kwargs)


def test_messages_and_generation_prompt() -> None:
    assert template(TEMPLATE).render(USER) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert template(TEMPLATE).render(USER, add_generation_prompt=False) == "<|im_start|>user\nhi<|im_end|>\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ eos_token }}", "<eos>"),
        ("{{ {'a': '<é>'} | tojson }}", '{"a": "<é>"}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% if true %}\n  y\n{% endif %}\n", "  y\n"),
        ("{{ strftime_now('%%') }}", "%"),
        ("{{ tools is none }}", "True"),
    ],
    ids=["special token", "tojson", "tojson indented", "generation", "break", "blocks", "strftime_now", "tools"],
)
def test_conventions(source: str, expected: str) -> None:
    assert template(source + "{{ messages[0].content }}").render(USER) == expected + "hi"


def test_arguments_of_request_over_defaults() -> None:
    chat = template("{{ a }}{{ b }}{{ messages[0].content }}", default_kwargs={"a": 1, "b": 2})
    assert chat.render(USER, kwargs={"b": 3}) == "13hi"
    with pytest.raises(RequestError, match="messages") as caught:
        chat.render(USER, kwargs={"messages": []})
    assert caught.value.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    "content", ["The answer", "ends in space ", "end", "\ue0000\ue001"], ids=["plain", "space", "like markup", "marker"]
)
def test_continue_final_message(content: str) -> None:
    messages = [*USER, {"role": "assistant", "content": content}]
    text = template(TEMPLATE).render(messages, add_generation_prompt=False, continue_final_message=True)
    assert text == f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{content}"


def test_continue_final_message_that_cannot_be() -> None:
    with pytest.raises(RequestError, match="add_generation_prompt"):
        template(TEMPLATE).render(USER, continue_final_message=True)
    messages = [{"role": "assistant", "content": ""}]
    with pytest.raises(RequestError, match="final"):
        template("nothing").render(messages, add_generation_prompt=False, continue_final_message=True)


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[5].content }}",
        "{{ messages + 1 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10000000) %}{% endfor %}",
        "{{ 1 / 0 }}",
    ],
    ids=["raised", "undefined", "type", "escape", "mutation", "endless", "division"],
)
def test_a_template_that_refuses_is_the_requests_fault(source: str) -> None:
    with pytest.raises(RequestError, match="the chat template") as caught:
        template(source).render(USER)
    assert caught.value.param == "messages"


def test_where_it_comes_from(tmp_path: Path) -> None:
    assert load_chat_template(tmp_path) is None
    config = {"chat_template": "config {{ eos_token }}", "eos_token": {"content": "E"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert _rendered(tmp_path) == "config E"
    (tmp_path / "chat_template.jinja").write_text("file {{ eos_token }}")
    assert _rendered(tmp_path) == "file E"
    (tmp_path / "own").write_text("own")
    assert _rendered(tmp_path, str(tmp_path / "own")) == "own"
    assert _rendered(tmp_path, "{{ 1 + 1 }}") == "2"
    named = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert _rendered(tmp_path) == "d"


@pytest.mark.parametrize("told", [5, ["text"], [{"name": "default"}], [{"name": "default", "template": 5}]], ids=str)
def test_a_folder_that_holds_another_thing_is_named(tmp_path: Path, told: Any) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": told, "eos_token": {"lstrip": True}}))
    with pytest.raises(CheckpointError, match="not a text"):
        load_chat_template(tmp_path)
    (tmp_path / "chat_template.jinja").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_chat_template(tmp_path)


def test_templates_for_other_things_than_chats_are_none(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": [{"nme": "tool"}]}))
    assert load_chat_template(tmp_path) is None


@pytest.mark.parametrize("override", ["{% if %}", "no-such-file", "latin"], ids=["syntax", "file", "encoding"])
def test_a_wrong_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="chat_template"):
        load_chat_template(tmp_path, override=override)


def _rendered(folder: Path, override: str | None = None) -> str:
    chat = load_chat_template(folder, override=override)
    assert chat is not None
    return chat.render([{"role": "assistant", "content": None}])
