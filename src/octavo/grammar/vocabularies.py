"""A vocabulary as xgrammar takes it, and bits of its ids as they are told."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from octavo.grammar.fork_server import Vocabulary
from octavo.grammar.shared_bytes import shared_bytes

_NO_TEXT = re.compile(rb"[\xc0\xc1\xf5-\xff]|\xe0[\x80-\x9f]|\xed[\xa0-\xbf]|\xf0[\x80-\x8f]|\xf4[\x90-\xbf]")
"""Bytes that are no UTF-8, though each is one that could follow: too long for their character, half of a surrogate pair, or past
the last character."""
_HEADS = (b"\xe0", b"\xed", b"\xf0", b"\xf4")
"""First bytes of characters after which not every byte of a tail may come."""


class Vocabularies:
    """The vocabulary as xgrammar wants it.

    Bytes that are no UTF-8 are made impossible: xgrammar takes some of them for characters.
    """

    def __init__(self, told: Vocabulary) -> None:
        import numpy as np
        import xgrammar

        tokenizer, special = told.tokenizer, told.tokenizer.special_ids
        pieces: list[Any] = []
        if tokenizer.context_free:
            kind = xgrammar.VocabType.RAW
            pieces = [tokenizer.piece(id_) for id_ in range(told.size)]
            pieces = [b"" if id_ in special or _NO_TEXT.search(p) else p for id_, p in enumerate(pieces)]
        else:
            kind = xgrammar.VocabType.BYTE_FALLBACK
            names = {id_: name for name, id_ in tokenizer.vocabulary.items()}
            pieces = ["" if id_ in special else names.get(id_, "") for id_ in range(told.size)]
        self.size = told.size
        self.info = xgrammar.TokenizerInfo(
            pieces, kind, vocab_size=told.size, stop_token_ids=list(told.eos_ids) or None
        )
        decoded = self.info.decoded_vocab
        self.eos = sum(1 << id_ for id_ in told.eos_ids)
        heads = {id_: piece[-1:] for id_, piece in enumerate(decoded) if piece[-1:] in _HEADS}
        members = np.zeros((1 + len(_HEADS), -(-told.size // 32) * 32), dtype=bool)
        members[0, : told.size] = True
        for row, head in enumerate(_HEADS, 1):
            members[row, : told.size] = [_NO_TEXT.match(head + piece[:1]) is None for piece in decoded]
        self._any, *after = np.packbits(members, axis=1, bitorder="little").view(np.int32)
        self._after = {id_: after[_HEADS.index(head)] for id_, head in heads.items()}

    @property
    def words(self) -> int:
        """ceil(V / 32), the int32 words of a row."""
        return len(self._any)

    def as_bytes(self, rows: Any, last: Sequence[int | None]) -> list[bytes]:
        """Each row as one of `Allowed.bits`; those that are equal are one object.

        Args:
            rows: (R, ceil(V / 32)) int32, what xgrammar lets come; written.
            last: (R) the token that it comes behind; None: no token.
        """
        rows[:, -1] &= self._any[-1]  # every bit of the other words is an id
        for row, token_id in zip(rows, last, strict=True):
            if token_id in self._after:
                row &= self._after[token_id]
        return shared_bytes(rows, -(-self.size // 8))
