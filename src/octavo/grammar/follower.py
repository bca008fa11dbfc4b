"""The process that follows the grammars of all running requests, as the engine sees it: asked now, read later."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from octavo.grammar.fork_server import ForkServer
from octavo.grammar.messages import Advance, Allowed, Answer, Follow, Leave, Ready
from octavo.structured_outputs import GrammarSource
from octavo.wire import Wire


class Told(NamedTuple):
    """What may come next in a request."""

    request: int
    bits: bytes | None
    """As one of `Allowed.bits`, and the same object where it was told before, not too long ago; None as -1 there."""


class Follower:
    """One such process; used by one thread at a time. When it has `ended`, another one must be made.

    Args:
        fork_server: where it comes from.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, fork_server: ForkServer) -> None:
        self._wire: Wire = fork_server.fork()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Answer).decode
        self._keys: set[int] = set()
        self.began = False
        """It has said a word: it is no fault of the system's if it ends."""

    @property
    def ended(self) -> bool:
        """The process has ended; what it said before has been read."""
        return self._wire.ended

    def follow(self, request: int, key: int, form: GrammarSource | bytes, tokens: Iterable[int]) -> None:
        """Ask what may come after `tokens` in the grammar `key`, of which `form` is `Grammar.form`."""
        unknown = key not in self._keys
        self._keys.add(key)
        self._wire.send(self._encode(Follow(request, key, form if unknown else None, list(tokens))))

    def advance(self, moves: Sequence[tuple[int, int]]) -> None:
        """Ask what may come after one more token: pairs of a request, each once, and its token."""
        self._wire.send(self._encode(Advance(list(moves))))

    def leave(self, requests: list[int], keys: list[int]) -> None:
        """Let it forget requests and grammars."""
        self._keys -= set(keys)
        self._wire.send(self._encode(Leave(requests, keys)))

    def wait(self, timeout_s: float) -> None:
        """Wait until there is something to take."""
        self._wire.wait(timeout_s)

    def take(self) -> Iterator[Told]:
        """Yield the answers that have come, in the order in which they were asked for."""
        self._wire.wait(0)  # a large grammar is written in parts, as the other end has room
        while (data := self._wire.receive()) is not None:
            answer = self._decode(data)
            self.began = True
            if not isinstance(answer, (Allowed, Ready)):
                raise ValueError(f"the follower of grammars said {type(answer).__name__}")
            if isinstance(answer, Allowed):
                bits = [*map(_same, answer.bits)]
                for request, row in zip(answer.requests, answer.rows, strict=True):
                    yield Told(request, None if row < 0 else bits[row])

    def close(self) -> None:
        """Let the process end."""
        self._wire.close()


@functools.lru_cache(maxsize=256)
def _same(bits: bytes) -> bytes:
    """One object for all that are equal: who asks whether two are compares no kilobytes."""
    return bits
