"""Grammars over a vocabulary of bytes, and texts that follow them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from octavo.grammar import Compiler, Follower, ForkServer, Grammar, Vocabulary
from octavo.structured_outputs import StructuredOutputsParams
from server.harness import EOS, VOCABULARY, byte_tokenizer

BYTES = byte_tokenizer()


class Forms:
    """Compiles forms, and follows what they are compiled to."""

    def __init__(self) -> None:
        self.fork_server = ForkServer(Vocabulary(BYTES, VOCABULARY, (EOS,)))
        self.compiler = Compiler(self.fork_server)
        self._made: Follower | None = None
        self._count = 0

    def close(self) -> None:
        if self._made is not None:
            self._made.close()
        self.compiler.close()

    @property
    def _follower(self) -> Follower:
        if self._made is None:
            self._made = Follower(self.fork_server)
        return self._made

    def compile(self, form: StructuredOutputsParams) -> Grammar:
        return self.compiler.compile(form)

    def walk(self, grammar: Grammar, seed: int, most: int = 400) -> tuple[bytes, bool]:
        """A text of random tokens, each of which is allowed, and whether it came to its end; it prefers what closes."""
        dice = random.Random(seed)
        self._count += 1
        allowed, made = grammar.first, bytearray()
        self._follower.follow(self._count, grammar.key, grammar.form, [])
        assert self._answer() == allowed
        while len(made) < most:
            ids = ids_of(allowed)
            closing = [id_ for id_ in ids if id_ == EOS or chr(id_) in '"]}']
            token = dice.choice(closing if closing and dice.random() < 0.5 else ids)
            if token == EOS:
                return bytes(made), True
            made.append(token)
            self._follower.advance([(self._count, token)])
            allowed = self._answer()
        return bytes(made), False

    def after(self, grammar: Grammar, text: bytes) -> Sequence[int] | None:
        """The ids that may come after `text`; None if it may not come itself."""
        self._count += 1
        self._follower.follow(self._count, grammar.key, grammar.form, list(text))
        while True:
            for told in self._follower.take():
                return None if told.bits is None else ids_of(told.bits)
            assert not self._follower.ended
            self._follower.wait(60)

    def fits(self, grammar: Grammar, text: str) -> bool:
        """Whether `text` may come, and be the end."""
        ids = self.after(grammar, text.encode())
        return ids is not None and (not ids or EOS in ids)

    def _answer(self) -> bytes:
        while True:
            for told in self._follower.take():
                assert told.request == self._count
                assert told.bits is not None
                return told.bits
            assert not self._follower.ended
            self._follower.wait(60)


def ids_of(bits: bytes) -> Sequence[int]:
    """The ids that `bits` allow."""
    return [id_ for id_ in range(8 * len(bits)) if bits[id_ // 8] >> id_ % 8 & 1]
