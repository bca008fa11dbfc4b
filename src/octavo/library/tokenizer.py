"""The tokenizer as Python's users know it from Hugging Face, over the one that the server uses."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.errors import RequestError
from octavo.library.prompts import Messages, PromptReader
from octavo.text import Tokenizer
from octavo.text.tokenizer import SPECIAL_NAMES

SPECIAL_IDS = frozenset(f"{name}_id" for name in SPECIAL_NAMES)
"""Such as `eos_token_id`."""


class Encoding(dict[str, Any]):
    """Token ids of one text, or of several; keys may be read as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class LLMTokenizer:
    """Names and defaults of Hugging Face's tokenizers, as far as they make no tensors.

    Args:
        tokenizer: of the model.
        prompts: knows the chat template.
        folder: where `transformers` finds the rest of what such a tokenizer can do.
    """

    is_fast = True

    def __init__(self, tokenizer: Tokenizer, prompts: PromptReader, folder: Path) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts
        self.name_or_path = str(folder)

    def __len__(self) -> int:
        return len(self._tokenizer.vocabulary)

    def __call__(self, text: str | Sequence[str], *, add_special_tokens: bool = True) -> Encoding:
        """Token ids of a text, or of each of several, under `input_ids`; all of them count (`attention_mask`)."""
        if isinstance(text, str):
            return _encoding(self.encode(text, add_special_tokens=add_special_tokens))
        return _encoding([self.encode(one, add_special_tokens=add_special_tokens) for one in text])

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in SPECIAL_NAMES:
                return self._tokenizer.special_tokens.get(name)
            if name in SPECIAL_IDS:
                return self.convert_tokens_to_ids(getattr(self, name.removesuffix("_id")))
            where = f"transformers.AutoTokenizer.from_pretrained({self.name_or_path!r})"
            raise AttributeError(f"the tokenizer of an LLM has no {name!r}; {where} may have it")

    bos_token: str | None
    bos_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    pad_token: str | None
    pad_token_id: int | None

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that has a text."""
        return self._tokenizer.vocab_size

    @property
    def all_special_ids(self) -> list[int]:
        """Ids that `skip_special_tokens` leaves out."""
        return sorted(self._tokenizer.special_ids)

    @property
    def all_special_tokens(self) -> list[str]:
        """The tokens of `all_special_ids`."""
        return [self._tokens[each] for each in self.all_special_ids]

    @property
    def chat_template(self) -> str | None:
        """The text of the model's template; None without one."""
        try:
            return self._prompts.template().source
        except RequestError:
            return None

    def get_vocab(self) -> dict[str, int]:
        """Every token to its id."""
        return dict(self._tokenizer.vocabulary)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`.

        Raises:
            RequestError: the model has no tokenizer, or `text` is not Unicode text.
        """
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, token_ids: int | Iterable[int], skip_special_tokens: bool = False) -> str:
        """Text of `token_ids`; bytes that are not UTF-8 become U+FFFD."""
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def batch_decode(self, sequences: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> list[str]:
        """The text of each of `sequences`."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """The id of a token as the vocabulary writes it, or of each of several; None where there is none."""
        if tokens is None or isinstance(tokens, str):
            return self._tokenizer.vocabulary.get(tokens) if tokens is not None else None
        return [self._tokenizer.vocabulary.get(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """The token of an id as the vocabulary writes it, or of each of several; None where there is none."""
        return self._tokens.get(ids) if isinstance(ids, int) else [self._tokens.get(each) for each in ids]

    def apply_chat_template(
        self,
        conversation: Messages | Sequence[Messages],
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        *,
        return_dict: bool = False,
        **arguments: Any,
    ) -> Any:
        """The prompt of a conversation, or of each of several: as a text, as token ids, or as an `Encoding` of them.

        Args:
            conversation: messages with `role` and `content`.
            tools: functions that the template shows.
            chat_template: Jinja's text instead of the model's template.
            tokenize: make token ids.
            return_dict: with `tokenize`: ids under `input_ids`.
            arguments: for the template, such as `enable_thinking`.

        Raises:
            RequestError: there is no template, it refuses the messages, shows no tools or documents, or tensors are asked
                for.
        """
        for name in ("return_tensors", "padding", "truncation", "max_length"):
            if arguments.pop(name, None):
                raise RequestError(f"{name} is not served: prompts are lists of token ids, never cut", param=name)
        one = isinstance(conversation, Sequence) and bool(conversation) and isinstance(conversation[0], Mapping)
        conversations: Any = [conversation] if one else conversation
        prompts = [
            self._prompts.read_chat(
                messages,
                template=chat_template,
                arguments=arguments,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
            )
            for messages in conversations
        ]
        made: list[Any] = [list(prompt.token_ids) if tokenize else prompt.text for prompt in prompts]
        result = made[0] if one else made
        return _encoding(result) if tokenize and return_dict else result

    @functools.cached_property
    def _tokens(self) -> dict[int, str]:
        return {id_: token for token, id_ in self._tokenizer.vocabulary.items()}


def _encoding(ids: list[Any]) -> Encoding:
    one = not ids or isinstance(ids[0], int)
    mask = [1] * len(ids) if one else [[1] * len(each) for each in ids]
    return Encoding(input_ids=ids, attention_mask=mask)
