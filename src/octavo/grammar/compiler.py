"""From what a client asks for to a grammar that can be followed: checked, compiled in a process of its own, and kept."""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from typing import NamedTuple

import msgspec

from octavo.errors import OverloadedError
from octavo.grammar.fork_server import ForkServer
from octavo.grammar.messages import COMPILE_S, TOO_MUCH, Answer, Compile, Compiled, Refused
from octavo.grammar.source import checked_source
from octavo.grammar.words import SchemaError
from octavo.structured_outputs import GrammarSource, StructuredOutputsParams

MAX_CACHED_BYTES = 256 << 20
"""Of grammars that are kept for the next request."""
MAX_CACHED = 4096
"""The same in grammars, refused ones included."""
MAX_COMPILING = 2
"""Grammars that are compiled beside each other."""
STARTS = 3
"""Tries to have a process: the one that forks may be killed meanwhile."""
DEATHS = 2
"""Processes that may die over one grammar, if each was too young to have used up what it is allowed: the first may have been killed."""
LOOK_S = 0.5
"""How often to look whether anybody still waits."""
ANSWER_S = 180.0
"""How long to wait for a process that neither answers nor ends: the system should have ended it long before."""


class Grammar(msgspec.Struct, frozen=True):
    """A compiled grammar."""

    key: int
    """No other grammar of this process has it."""
    form: GrammarSource | bytes
    """For who follows it: as `Follow.form`."""
    first: bytes
    """Ids that may begin an answer, as `Allowed.bits`."""


class _Ended(NamedTuple):
    """A process ended without an answer."""

    began: bool
    seconds: float

    @property
    def at_its_bound(self) -> bool:
        """It ran so long that it may have used up its processor time; one that ended sooner may have been killed by anybody."""
        return self.seconds >= COMPILE_S


class Compiler:
    """Compiles each source once, as long as it is kept. Every method may be called from any thread.

    Args:
        fork_server: where processes come from.
    """

    def __init__(self, fork_server: ForkServer) -> None:
        self._fork_server = fork_server
        self._lock = threading.Lock()
        self._turn = threading.Semaphore(MAX_COMPILING)
        self._closed = False
        self._keys = itertools.count(1)
        self._results: OrderedDict[GrammarSource, Future[Grammar | Refused]] = OrderedDict()
        """Of all sources that are compiled, or being compiled; the last used at the end."""
        self._decode = msgspec.msgpack.Decoder(Answer).decode

    def compile(self, asked: StructuredOutputsParams) -> Grammar:
        """The grammar of what is `asked`; takes as long as it takes, at most some seconds of a processor.

        Raises:
            RequestError: there is no such grammar, or it takes too much to compile.
            OverloadedError: no process can be started, or this was closed.
        """
        source = asked.source()
        with self._lock:
            result = self._results.get(source)
            mine = result is None
            if result is None:
                result = self._results[source] = Future()
            self._results.move_to_end(source)
        if mine:
            self._fill(result, source)
        made = result.result()
        if isinstance(made, Refused):
            raise asked.refused(made.reason, made.place)
        return made

    def compile_if_asked(self, asked: StructuredOutputsParams | None) -> Grammar | None:
        """As `compile`; None if nothing is asked."""
        return None if asked is None else self.compile(asked)

    def close(self) -> None:
        """Let those who wait go with an error, soon, and end the process that forks; safe to call twice."""
        self._closed = True
        self._fork_server.close()

    def kept(self, asked: StructuredOutputsParams) -> Grammar | None:
        """The grammar of what is `asked`, if it is there already."""
        with self._lock:
            result = self._results.get(asked.source())
        if result is None or not result.done() or result.exception() is not None:
            return None
        made = result.result()
        return None if isinstance(made, Refused) else made

    def _fill(self, result: Future[Grammar | Refused], source: GrammarSource) -> None:
        """Set what becomes of `source`; nothing of it is kept if it is no fault of its own."""
        try:
            with self._turn:
                result.set_result(self._compile(source))
        except BaseException as exc:
            result.set_exception(exc)
            with self._lock:
                del self._results[source]
        with self._lock:
            self._forget_oldest()

    def _compile(self, source: GrammarSource) -> Grammar | Refused:
        try:
            checked = checked_source(source)
        except SchemaError as exc:
            return Refused(exc.why, exc.place)
        deaths = 0
        for _ in range(STARTS):
            try:
                made = self._order(checked)
            except OSError as exc:
                raise OverloadedError(f"no process can be started to compile a grammar: {exc}") from exc
            if not isinstance(made, _Ended):
                return made
            deaths += made.began
            if deaths == DEATHS or (made.began and made.at_its_bound):
                return Refused(TOO_MUCH)
        raise OverloadedError("the process that compiles grammars could not start")

    def _order(self, source: GrammarSource) -> Grammar | Refused | _Ended:
        """Have a process compile `source`.

        Raises:
            OSError: there is none to be had.
        """
        wire = self._fork_server.fork()
        began, began_s = False, time.monotonic()
        try:
            wire.send(msgspec.msgpack.encode(Compile(source)))
            while not wire.ended and time.monotonic() < began_s + ANSWER_S:
                if self._closed:
                    raise OverloadedError("the server is shutting down and compiles no grammars")
                wire.wait(LOOK_S)
                data = wire.receive()
                if data is None:
                    continue
                answer = self._decode(data)
                if isinstance(answer, Compiled):
                    form = source if answer.data is None else answer.data
                    return Grammar(next(self._keys), form, answer.first)
                if isinstance(answer, Refused):
                    return answer
                began = True
        finally:
            wire.close()
        return _Ended(began, time.monotonic() - began_s)

    def _forget_oldest(self) -> None:
        """Keep as many results as there is room for; the lock is held."""
        held = sum(_num_bytes(source, result) for source, result in self._results.items())
        for source, result in list(self._results.items())[:-1]:
            if held <= MAX_CACHED_BYTES and len(self._results) <= MAX_CACHED:
                return
            if result.done():
                held -= _num_bytes(source, result)
                del self._results[source]


def _num_bytes(source: GrammarSource, result: Future[Grammar | Refused]) -> int:
    made = result.result() if result.done() and result.exception() is None else None
    return len(source.text) + (_size(made.form) if isinstance(made, Grammar) else 0)


def _size(form: GrammarSource | bytes) -> int:
    return len(form.text if isinstance(form, GrammarSource) else form)
