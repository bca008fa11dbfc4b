"""Renders chat messages into a prompt with the model's Jinja template, in Jinja's sandbox.

Conventions are those of Hugging Face's `apply_chat_template`: `messages`, `add_generation_prompt`, special tokens by
name, `raise_exception`, `strftime_now`, `tojson` without HTML escapes, `{% generation %}` blocks, loop controls.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from octavo.config.model_file import require_file
from octavo.errors import CheckpointError, ConfigError, RequestError
from octavo.text.messages import ContentForm, Message, followed, in_form, read_message, refusal, text_of
from octavo.text.template_probe import TemplateProbe
from octavo.text.tokenizer import read_tokenizer_config

RESERVED = frozenset({"messages", "add_generation_prompt", "tools", "documents"})
"""Names that template arguments of a request may not take."""


class ChatTemplate:
    """A compiled template.

    Args:
        source: the template's text.
        special_tokens: name to text, for the template.
        default_kwargs: arguments that requests may override.
        content_form: how messages are given to the template; None: as it can show them.

    Raises:
        ConfigError: the source is not a Jinja template.
    """

    def __init__(
        self,
        source: str,
        *,
        special_tokens: Mapping[str, str],
        default_kwargs: Mapping[str, Any] | None = None,
        content_form: ContentForm | None = None,
    ) -> None:
        self.source = source
        self._content_form = content_form
        self._probe = self._make_probe()
        self._special_tokens = dict(special_tokens)
        self._default_kwargs = dict(default_kwargs or {})
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as exc:
            raise ConfigError("chat_template", f"is not a Jinja template: line {exc.lineno}: {exc.message}") from exc

    @property
    def fingerprint(self) -> str:
        """Equal for templates that make the same of all messages."""
        form = self._content_form.value if self._content_form is not None else None
        parts = [self.source, self._special_tokens, self._default_kwargs, form]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    @functools.cached_property
    def variables(self) -> frozenset[str]:
        """Names that the template reads and does not set."""
        return frozenset(meta.find_undeclared_variables(_environment().parse(self.source)))

    @property
    def shows_later_systems(self) -> bool:
        """Whether a message of the system may come after others."""
        return self._probe.shows_later_systems

    @functools.cached_property
    def asking_for_thoughts(self) -> str:
        """A prompt that asks for thoughts, if the template knows how; empty if it refuses one."""
        try:
            return self._render(self._fitted([{"role": "user", "content": "hi"}]), True, {"enable_thinking": True})
        except RequestError:
            return ""

    @property
    def default_names(self) -> frozenset[str]:
        """Arguments that are set where requests do not set them."""
        return frozenset(self._default_kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """All but what Jinja compiled and what renders with it, which no other process can be sent."""
        return {name: value for name, value in vars(self).items() if name not in ("_template", "_probe")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._template = _environment().from_string(self.source)
        self._probe = self._make_probe()

    def _make_probe(self) -> TemplateProbe:
        return TemplateProbe(lambda messages, kwargs: self._render(messages, False, kwargs))

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt for `messages`, `tools` and `documents`; `kwargs` go to the template (such as `enable_thinking`).

        Contents come to the template in the form that it can show. A developer is a system to templates that do not
        know developers.

        Raises:
            RequestError: the template refuses the messages, or would not show one of them, or no tools or documents; or they are none.
        """
        reserved = RESERVED.intersection(kwargs or ())
        if reserved:
            raise RequestError(
                f"chat_template_kwargs must not set {', '.join(sorted(reserved))}", param="chat_template_kwargs"
            )
        if tools and not self._probe.shows_tools:
            raise RequestError(
                "the model's chat template shows no tools: leave them out, or give a template with --chat-template",
                param="tools",
            )
        if documents and "documents" not in self.variables:
            raise RequestError(
                "the model's chat template shows no documents: put them into the messages, or give a template with "
                "--chat-template",
                param="documents",
            )
        given, messages = messages, self._fitted(messages)
        for name, asked in (("tools", tools), ("documents", documents)):
            kwargs = {**(kwargs or {}), name: list(asked)} if asked else kwargs
        hidden = self._probe.first_hidden(messages, kwargs)
        if hidden is not None:
            why = f"is {given[hidden]['role'][:64]!r}, which the chat template would leave out at this place"
            raise refusal(hidden, "role", why)
        if not continue_final_message:
            return self._render(messages, add_generation_prompt, kwargs)
        if add_generation_prompt:
            raise RequestError(
                "continue_final_message needs add_generation_prompt to be false", param="continue_final_message"
            )
        marker = _unused_marker(messages)
        final = {**messages[-1], "content": followed(messages[-1]["content"], marker)}
        text, found, _ = self._render([*messages[:-1], final], False, kwargs).partition(marker)
        if not found:
            raise RequestError(
                "the chat template does not show the final message, so it cannot be continued", param="messages"
            )
        return text

    def _fitted(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with roles that the template knows, where it knows one as good, and contents in its form."""
        if not messages:
            raise RequestError("messages must hold at least one", param="messages")
        read = [read_message(message, number) for number, message in enumerate(messages)]
        calling = next((number for number, message in enumerate(read) if message.get("tool_calls")), None)
        if calling is not None and not self._probe.shows_calls:
            raise refusal(calling, "tool_calls", "would be left out by the model's chat template")
        return [self._fit(message) for message in read]

    def _fit(self, message: Message) -> Message:
        role = message["role"]
        if role == "developer" and not self._probe.knows_developers:
            role = "system"
            message = {**message, "role": role}
        content = in_form(message["content"], self._content_form or self._probe.form(role))
        return message if content is message["content"] else {**message, "content": content}

    def _render(
        self, messages: Sequence[Message], add_generation_prompt: bool, kwargs: Mapping[str, Any] | None
    ) -> str:
        arguments = {
            "tools": None,
            "documents": None,
            **self._special_tokens,
            **self._default_kwargs,
            **(kwargs or {}),
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._template.render(arguments)
        except jinja2.TemplateError as exc:
            raise RequestError(f"the chat template refuses the messages: {exc.message}", param="messages") from exc
        except (TypeError, ValueError, LookupError, ArithmeticError, RecursionError, AttributeError) as exc:
            raise RequestError(
                f"the chat template cannot show the messages: {type(exc).__name__}: {exc}", param="messages"
            ) from exc


def load_chat_template(
    folder: Path,
    *,
    override: str | None = None,
    default_kwargs: Mapping[str, Any] | None = None,
    content_format: str = "auto",
) -> ChatTemplate | None:
    """The template of a model folder: `override` (a file or the text itself), chat_template.jinja, or the
    `chat_template` of tokenizer_config.json; None if there is none. `content_format`: string, openai or auto.

    Raises:
        CheckpointError: a file of the folder cannot be read.
        ConfigError: the template is not Jinja, or `override` is neither a file nor a template.
    """
    config = read_tokenizer_config(folder)
    source = _read_override(override) if override is not None else _read_template(folder, config)
    if source is None:
        return None
    told = {name: value.get("content") if isinstance(value, dict) else value for name, value in config.items()}
    special = {name: text for name, text in told.items() if name.endswith("_token") and isinstance(text, str)}
    form = None if content_format == "auto" else ContentForm(content_format)
    return ChatTemplate(source, special_tokens=special, default_kwargs=default_kwargs, content_form=form)


def _read_override(override: str) -> str:
    if "{" in override or "\n" in override:
        return override
    try:
        return Path(override).read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise ConfigError("chat_template", f"{override} is not UTF-8: {exc}") from exc
    except OSError as exc:
        raise ConfigError(
            "chat_template", f"{override!r} is neither a readable file nor a template (which would hold '{{')"
        ) from exc


def _read_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        require_file(path)
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as exc:
            raise CheckpointError(f"is not UTF-8: {exc}", file=str(path)) from exc
        except OSError as exc:
            raise CheckpointError(f"cannot be read: {exc.strerror}", file=str(path)) from exc
    source = config.get("chat_template")
    if isinstance(source, list) and all(isinstance(entry, dict) for entry in source):
        # several by name; the one called default is for chats
        source = next((entry.get("template", entry) for entry in source if entry.get("name") == "default"), None)
    if source is not None and not isinstance(source, str):
        raise CheckpointError("chat_template is not a text", file=str(folder / "tokenizer_config.json"))
    return source


def _unused_marker(messages: Sequence[Message]) -> str:
    """A private-use text that no message holds."""
    texts = [text_of(message["content"]) for message in messages]
    number = 0
    while any(f"\ue000{number}\ue001" in text for text in texts):
        number += 1
    return f"\ue000{number}\ue001"


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks assistant text for training; here its body is just shown."""

    tags = {"generation"}  # noqa: RUF012 - the base class has it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
