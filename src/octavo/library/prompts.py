"""Prompts as Python's users write them, as texts with token ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from octavo.answers import Prompt
from octavo.answers.prompt import cut
from octavo.config import Settings
from octavo.errors import RequestError
from octavo.library import unserved
from octavo.startup import Model
from octavo.text import ChatTemplate
from octavo.text.messages import ContentForm

GivenPrompt = str | Sequence[int] | Mapping[str, Any]
"""A text, token ids, `{"prompt": text}` or `{"prompt_token_ids": ids}`."""

Messages = Sequence[Mapping[str, Any]]
"""A conversation: mappings with `role` and `content`."""

AUTO = "auto"
"""The format of contents that is told from the template."""
FORMS = "a prompt is a text, a list of token ids, {'prompt': text} or {'prompt_token_ids': ids}"


class PromptReader:
    """Reads prompts for `model`, with what `settings` say of chat templates unless a call says otherwise.

    Args:
        most_tokens: of a request, prompt and answer together.
    """

    def __init__(self, model: Model, settings: Settings, most_tokens: int) -> None:
        self._model = model
        self._settings = settings
        self._most_tokens = most_tokens

    def read(
        self,
        prompt: GivenPrompt,
        tokenization: Mapping[str, Any] | None = None,
        *,
        max_tokens: int | None = None,
        priority: int = 0,
    ) -> Prompt:
        """The prompt with its token ids.

        Args:
            tokenization: may hold `add_special_tokens`, and `truncate_prompt_tokens`: how many of the last ones are kept,
                -1: as many as leave room for `max_tokens` (None: for one).

        Raises:
            RequestError: it has no form that is served, or holds what is not.
        """
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise RequestError(f"priority must be a whole number, got {priority!r:.100}", param="priority")
        arguments = _arguments(tokenization)
        most = arguments.pop("truncate_prompt_tokens", None)
        read = self._read(prompt, arguments)
        ids = read.token_ids
        if most is not None:
            room = self._most_tokens - (max_tokens or 1)
            most = room if most == -1 else most
            if not 1 <= most <= room:
                message = f"truncate_prompt_tokens must be -1 or in 1..{room}, as the answer needs the rest, got {most}"
                raise RequestError(message, param="truncate_prompt_tokens")
            ids = cut(ids, most)
        text = read.text
        if len(ids) < len(read.token_ids) and text is not None:
            text = self._model.tokenizer.decode(ids, skip_special_tokens=False)
        return dataclasses.replace(read, token_ids=ids, text=text, priority=priority)

    def _read(self, prompt: GivenPrompt, arguments: Mapping[str, Any]) -> Prompt:
        if isinstance(prompt, str):
            return self._encode(prompt, **arguments)
        if isinstance(prompt, Mapping):
            return self._read_mapping(prompt, arguments)
        if is_token_ids(prompt):
            return Prompt(0, list(prompt), None)
        raise RequestError(f"{FORMS}, not {type(prompt).__name__}", param="prompt")

    def read_chat(
        self,
        messages: Messages,
        *,
        template: str | None = None,
        content_format: str = AUTO,
        arguments: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
    ) -> Prompt:
        """The prompt that the chat template makes of `messages`, `tools` and `documents`.

        Raises:
            RequestError: there is no template, or it refuses the messages, or shows no tools or documents.
            ConfigError: `template` is no Jinja template.
        """
        if arguments is not None and not isinstance(arguments, Mapping):
            raise RequestError("chat_template_kwargs must be a dict", param="chat_template_kwargs")
        text = self.template(template, content_format).render(
            listed(messages, "messages"),
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            kwargs=arguments,
            tools=None if tools is None else listed(tools, "tools"),
            documents=documents,
        )
        return self._encode(text, add_special_tokens=False)  # the template writes the special tokens itself

    def template(self, source: str | None = None, content_format: str = AUTO) -> ChatTemplate:
        """The model's template, or one made of `source`; `content_format`: as the setting of that name.

        Raises:
            RequestError: there is none, or no such format.
            ConfigError: `source` is no Jinja template.
        """
        own = self._model.chat_template
        if own is not None and source in (None, own.source):
            if content_format == AUTO:
                return own
            source = own.source
        if source is None:
            raise RequestError("the model has no chat template; give one with chat_template", param="messages")
        form = self._settings.chat_template_content_format if content_format == AUTO else content_format
        if form not in (AUTO, ContentForm.TEXT.value, ContentForm.PARTS.value):
            raise RequestError(
                f"chat_template_content_format must be auto, string or openai, got {form!r}",
                param="chat_template_content_format",
            )
        return ChatTemplate(
            source,
            special_tokens=self._model.tokenizer.special_tokens,
            default_kwargs=self._settings.default_chat_template_kwargs,
            content_form=None if form == AUTO else ContentForm(form),
        )

    def _read_mapping(self, prompt: Mapping[str, Any], arguments: Mapping[str, Any]) -> Prompt:
        served = {"prompt", "prompt_token_ids", "cache_salt"}
        unserved.refuse(**{name: value for name, value in prompt.items() if name in unserved.ARGUMENTS})
        for name in prompt:
            if name not in served and name not in unserved.ARGUMENTS:
                raise RequestError(f"{FORMS}; {str(name)[:40]!r} is not known", param=str(name)[:40])
        ids, text, salt = (prompt.get(name) for name in ("prompt_token_ids", "prompt", "cache_salt"))
        if salt is not None and (not isinstance(salt, str) or not salt):
            raise RequestError("cache_salt must be a text, not an empty one", param="cache_salt")
        if ids is not None:
            if not is_token_ids(ids):
                raise RequestError("prompt_token_ids must be a list of token ids", param="prompt_token_ids")
            return Prompt(0, list(ids), text, salt)
        if not isinstance(text, str):
            raise RequestError(FORMS, param="prompt")
        return dataclasses.replace(self._encode(text, **arguments), cache_salt=salt)

    def _encode(self, text: str, *, add_special_tokens: bool = True) -> Prompt:
        return Prompt(0, self._model.tokenizer.encode(text, add_special_tokens=add_special_tokens), text)


def several(prompts: Any) -> list[GivenPrompt]:
    """`prompts`, one or a sequence of them, as a list; a list of numbers is one prompt.

    Raises:
        RequestError: they are neither.
    """
    if isinstance(prompts, str | Mapping) or (is_token_ids(prompts) and len(prompts)):
        return [prompts]
    if not isinstance(prompts, Sequence):
        raise RequestError(f"prompts must be one or a list of them: {FORMS}", param="prompts")
    return list(prompts)


def is_token_ids(prompt: Any) -> bool:
    """Whether it looks like token ids; admission checks them all."""
    if isinstance(prompt, str | bytes | Mapping) or not (hasattr(prompt, "__len__") and hasattr(prompt, "__getitem__")):
        return False
    return not len(prompt) or hasattr(prompt[0], "__index__")


def listed(given: Any, param: str) -> Sequence[Any]:
    """`given`, if it is a sequence of things.

    Raises:
        RequestError: it is none; `param` names the argument.
    """
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise RequestError(f"{param} must be a list, got {type(given).__name__}", param=param)
    return given


def _arguments(tokenization: Mapping[str, Any] | None) -> dict[str, Any]:
    if tokenization is not None and not isinstance(tokenization, Mapping):
        raise RequestError("tokenization_kwargs must be a dict", param="tokenization_kwargs")
    given = dict(tokenization or {})
    known: dict[str, Any] = {}
    if "add_special_tokens" in given:
        known["add_special_tokens"] = bool(given.pop("add_special_tokens"))
    most = given.pop("truncate_prompt_tokens", None)
    if most is not None:
        if isinstance(most, bool) or not isinstance(most, int):
            raise RequestError("truncate_prompt_tokens must be a whole number", param="truncate_prompt_tokens")
        known["truncate_prompt_tokens"] = most
    if given:
        name = str(next(iter(given)))[:40]
        raise RequestError(
            f"tokenization_kwargs knows add_special_tokens and truncate_prompt_tokens, not {name}",
            param="tokenization_kwargs",
        )
    return known
