"""Turns token ids into text as they come: whole characters only, nothing of a stop string, O(1) per token."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

from octavo.text.stop import StopScanner, StopStrings
from octavo.text.tokenizer import Tokenizer

_NO_STOPS = StopStrings(())


class Detokenizer:
    """The text of one answer. The parts that `push` and `finish` return, joined, are the decoded answer, up to its stop.

    `context` are the prompt's last ids, for tokenizers that decode a token by its neighbours; `shown_ids` are special
    tokens that are not left out.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: StopStrings = _NO_STOPS,
        include_stop_str_in_output: bool = False,
        skip_special_tokens: bool = True,
        min_tokens: int = 0,
        shown_ids: frozenset[int] = frozenset(),
        context: Sequence[int] = (),
    ) -> None:
        self._skipped = tokenizer.special_ids - shown_ids if skip_special_tokens else frozenset()
        self._decoder: _Decoder = (
            _ByteDecoder(tokenizer) if tokenizer.context_free else _WindowDecoder(tokenizer, context, self._skipped)
        )
        self._scanner = StopScanner(stop, include=include_stop_str_in_output) if stop else None
        self._include_stop = include_stop_str_in_output
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._num_chars = 0
        self.offset = 0
        """Whole characters of the answer before the last token."""

    @property
    def stop(self) -> str | None:
        """The stop string that ended the answer, if one did; nothing is to be pushed after it."""
        return self._scanner.found if self._scanner is not None else None

    def push(self, token_id: int) -> str:
        """Add a token; return the text that can be shown now."""
        self._num_tokens += 1
        self.offset = self._num_chars
        if token_id in self._skipped:
            return ""
        text = self._decoder.push(token_id)
        self._num_chars += len(text)
        if self._scanner is None:
            return text
        return self._scanner.push(text, armed=self._num_tokens > self._min_tokens)

    def push_stop(self, token_id: int) -> str:
        """Add the token that ended the answer (EOS or a stop id): it shows only with include_stop_str_in_output."""
        if self._include_stop:
            return self.push(token_id)
        self._num_tokens += 1
        self.offset = self._num_chars
        return ""

    def finish(self) -> str:
        """No more tokens: return what is left, the bytes of an unfinished character as U+FFFD."""
        rest = self._decoder.finish()
        if self._scanner is None:
            return rest
        if self._scanner.found is not None:
            return ""
        return self._scanner.push(rest, armed=self._num_tokens > self._min_tokens) + self._scanner.finish()


class _Decoder(Protocol):
    def push(self, token_id: int) -> str: ...

    def finish(self) -> str: ...


class _ByteDecoder:
    """Joins the bytes of tokens and lets whole characters through."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._piece = tokenizer.piece
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        return self._utf8.decode(self._piece(token_id))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowDecoder:
    """Decodes a token together with a few before it, and shows by how much the text grew."""

    CONTEXT_TOKENS = 6
    MOST_PENDING = 8
    """Tokens that one character may take; after that a U+FFFD is real."""

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int], skipped: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._shown = [id_ for id_ in context[-self.CONTEXT_TOKENS :] if id_ not in skipped]
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        self._pending.append(token_id)
        text = self._growth()
        if text.endswith("\ufffd") and len(self._pending) < self.MOST_PENDING:
            return ""
        self._shown = (self._shown + self._pending)[-self.CONTEXT_TOKENS :]
        self._pending = []
        return text

    def finish(self) -> str:
        return self._growth() if self._pending else ""

    def _growth(self) -> str:
        before = self._tokenizer.decode(self._shown, skip_special_tokens=False)
        after = self._tokenizer.decode(self._shown + self._pending, skip_special_tokens=False)
        return after[len(before) :]
