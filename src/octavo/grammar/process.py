"""`python -m octavo.grammar.process FD`: imports xgrammar, then forks a child for each socket that comes through FD.

A child runs code of others' on what strangers send. So it may use so much processor time for one order, and so much memory,
and the system kills it when it takes more: no code in it is trusted to look at a clock. It never speaks unasked, it opens
nothing, and it ends when the other end of its socket closes.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from octavo.grammar.following import GROUP, Batch, Following, bits_of, following_threads
from octavo.grammar.fork_server import Vocabulary
from octavo.grammar.lean_import import import_lean
from octavo.grammar.messages import (
    COMPILE_S,
    FOLLOW_S,
    TOO_MUCH,
    Advance,
    Allowed,
    Answer,
    Compile,
    Compiled,
    Follow,
    Leave,
    Order,
    Ready,
    Refused,
)
from octavo.grammar.patterns import wrong_pattern
from octavo.grammar.vocabularies import Vocabularies
from octavo.structured_outputs import GrammarKind, GrammarSource
from octavo.wire import Wire

QUICK_S = 0.2
"""Who follows a grammar that takes no longer compiles it again: xgrammar needs 0.5 to 0.9 s to write one of a schema of 10 KB over
151,936 ids, which is 16 to 27 MB, and 0.25 to 0.35 s to read it, but 0.13 s to compile it."""
BATCH_S = 0.1
"""More processor seconds to follow grammars for each further request that is asked about with it."""
REPLAY_S = 0.002
"""More of them for each token that a request has made before."""
WALL = 6.0
"""As many times longer by the clock on the wall: the process may sleep, or other processes run."""
COMPILE_BYTES = 2 << 30
"""Memory for one grammar."""
FOLLOW_BYTES = 8 << 30
"""Memory for all that are followed."""
MAX_WHITESPACE = 24
"""Characters between two tokens of JSON: models that may go on with whitespace for ever sometimes do."""
MAX_DATA_BYTES = 64 << 20
"""Largest grammar that is kept."""
MOST_COMPILING_THREADS = 4
"""Of a process that compiles one: a quarter of the cores at most, as there may be two of them."""
THREAD_BYTES = 144 << 20
"""Of address space, for the stack of one more thread and for what it allocates: glibc reserves 128 MiB, and uses what is needed."""
SWITCH_S = 1e-4
"""How long one thread of Python may keep another one waiting that has masks to find."""
NICENESS = 5
"""Of a process that compiles: the engine, and who follows grammars for it, come first when processor cores are scarce."""

WHOLE = "--whole"
"""Argument upon which xgrammar is imported with all that it asks for."""

Tokens = TypeVar("Tokens", int, list[int])

_PREFIX = re.compile(r"^\[[\d:]+\] \S+:\d+: (Warning: |Check failed: .*? is false: )?")


class Child:
    """Carries out orders until the other end closes."""

    def __init__(self, wire: Wire, vocabularies: Vocabularies) -> None:
        self._wire = wire
        self._vocabularies = vocabularies
        self._grammars: dict[int, Any] = {}
        self._following: dict[int, Following] = {}
        self._batch: Batch | None = None
        """Made when it is first needed: it has threads."""
        self._encode = msgspec.msgpack.Encoder().encode

    def run(self) -> None:
        decode = msgspec.msgpack.Decoder(Order).decode
        sys.setswitchinterval(SWITCH_S)
        self._say(Ready())
        while True:
            match decode(self._wire.read()):
                case Compile(source):
                    _bound_memory(COMPILE_BYTES + (_compiling_threads() - 1) * THREAD_BYTES)
                    os.nice(NICENESS)
                    with _limited(COMPILE_S):
                        answer = self._compile(source)
                    self._say(answer)
                case Follow(request, key, form, tokens):
                    _bound_memory(FOLLOW_BYTES)
                    with _limited(FOLLOW_S + REPLAY_S * len(tokens)):
                        allowed = self._follow(request, key, form, tokens)
                    self._say(allowed)
                case Advance(moves):
                    with _limited(FOLLOW_S + BATCH_S * (len(moves) - 1)):
                        for allowed in self._advance(moves):
                            self._wire.send(self._encode(allowed))
                    self._wire.flush()
                case Leave(requests, keys):
                    for request in requests:
                        self._following.pop(request, None)
                    for key in keys:
                        self._grammars.pop(key, None)

    def _say(self, answer: Answer) -> None:
        self._wire.send(self._encode(answer))
        self._wire.flush()

    def _compile(self, source: GrammarSource) -> Compiled | Refused:
        with _caught_output() as output:
            try:
                began_s = time.process_time()
                compiled = _compile(self._vocabularies.info, source, _compiling_threads())
                quick = time.process_time() - began_s < QUICK_S
                data = None if quick else compiled.serialize_json().encode()
                first = Following(self._vocabularies, compiled).bits()
            except MemoryError:
                return Refused(TOO_MUCH)
            except Exception as exc:
                if "bad_alloc" in str(exc):
                    return Refused(TOO_MUCH)
                return Refused(_told(str(exc)), wrong_pattern(source))
        if warning := output():  # what it cannot honour it leaves out, and says so
            return Refused(_told(warning))
        if data is not None and len(data) > MAX_DATA_BYTES:
            return Refused(f"it is too large: {len(data) >> 20} MiB compiled, at most {MAX_DATA_BYTES >> 20}")
        if not int.from_bytes(first, "little") & ~self._vocabularies.eos:
            return Refused("no text fits it that the model's tokens can write, or none but the empty one")
        return Compiled(data, first)

    def _follow(self, request: int, key: int, form: GrammarSource | bytes | None, tokens: list[int]) -> Allowed:
        try:
            if form is not None:
                self._grammars[key] = read_form(self._vocabularies.info, form)
            self._following[request] = Following(self._vocabularies, self._grammars[key])
        except Exception:
            return _allowed([request], [None])
        follows = _accepts(self._following[request].replay, tokens)
        return _allowed([request], [bits_of(self._following[request]) if follows else None])

    def _advance(self, moves: list[tuple[int, int]]) -> Iterator[Allowed]:
        """Yield what may come next, group by group: while it is found for one, the next one goes on, and the one before is written."""
        batch = self._batch = self._batch or Batch(self._vocabularies)
        before: Callable[[], Allowed] | None = None
        for first in range(0, len(moves), GROUP):
            group = moves[first : first + GROUP]
            follows = [_accepts(self._following[request].accept, token_id) for request, token_id in group]
            places = [self._following[request] for (request, _), goes_on in zip(group, follows, strict=True) if goes_on]
            answer = functools.partial(_answer, [request for request, _ in group], follows, batch.begin(places))
            if before is not None:
                yield before()
            before = answer
        if before is not None:
            yield before()


def _answer(requests: list[int], follows: list[bool], bits: Callable[[], list[bytes | None]]) -> Allowed:
    """Of `requests` that were asked about together, those that follow their grammars with `bits`."""
    told = iter(bits())
    return _allowed(requests, [next(told) if goes_on else None for goes_on in follows])


def _accepts(go_on: Callable[[Tokens], bool], tokens: Tokens) -> bool:
    """Whether to `go_on` by `tokens` is possible."""
    try:
        return go_on(tokens)
    except Exception:
        return False


def _allowed(requests: list[int], bits: list[bytes | None]) -> Allowed:
    numbers = {each: number for number, each in enumerate(dict.fromkeys(each for each in bits if each is not None))}
    return Allowed(requests, [-1 if each is None else numbers[each] for each in bits], list(numbers))


def read_form(info: Any, form: GrammarSource | bytes) -> Any:
    """xgrammar's compiled grammar of a `Grammar.form`, over its `TokenizerInfo`."""
    import xgrammar

    if isinstance(form, GrammarSource):
        return _compile(info, form, following_threads())
    return xgrammar.CompiledGrammar.deserialize_json(form.decode(), info)


def _compiling_threads() -> int:
    return max(1, min(MOST_COMPILING_THREADS, len(os.sched_getaffinity(0)) // 4))


def _compile(info: Any, source: GrammarSource, threads: int) -> Any:
    import xgrammar

    compiler = xgrammar.GrammarCompiler(info, max_threads=threads, cache_enabled=False)
    match source.kind:
        case GrammarKind.JSON_SCHEMA:
            return compiler.compile_json_schema(
                source.text,
                any_whitespace=source.any_whitespace,
                max_whitespace_cnt=MAX_WHITESPACE if source.any_whitespace else None,
            )
        case GrammarKind.REGEX:
            return compiler.compile_regex(source.text)
        case GrammarKind.EBNF:
            return compiler.compile_grammar(source.text)
        case GrammarKind.LARK:
            return compiler.compile_lark(source.text)
        case GrammarKind.STRUCTURAL_TAG:
            return compiler.compile_structural_tag(_tag(source.text))


def _tag(text: str) -> Any:
    """A structural tag, also in its older form."""
    import xgrammar

    told = json.loads(text)
    if "structures" not in told:
        return text
    items = [xgrammar.StructuralTagItem(**each) for each in told["structures"]]
    return xgrammar.StructuralTag.from_legacy_structural_tag(items, told.get("triggers", []))


def _told(message: str) -> str:
    """xgrammar's message without the place in its source."""
    return _PREFIX.sub("", message.strip())[:500] or "xgrammar gives no reason"


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """The system kills this process when it uses more than `seconds` of a processor meanwhile."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL * seconds)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def _caught_output() -> Iterator[Any]:
    """What is written to standard error meanwhile, by whichever code; gives what reads it, after."""
    caught, before = os.memfd_create("output"), os.dup(2)
    os.dup2(caught, 2)
    try:
        yield lambda: os.pread(caught, 4096, 0).decode("utf-8", "replace").strip()
    finally:
        os.dup2(before, 2)
        os.close(before)


_bounded = False


def _bound_memory(num_bytes: int) -> None:
    """From now on this process can have `num_bytes` more."""
    global _bounded
    if not _bounded:
        _bounded = True
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + num_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _import_xgrammar() -> None:
    """Leaner if this version of it can be; if not, as this process is spoilt for anything else, begin anew as one that does not try."""
    if WHOLE in sys.argv:
        return
    try:
        import_lean()
    except Exception:
        os.execv(sys.executable, [*sys.orig_argv, WHOLE])


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system buries the children
    line = socket.socket(fileno=int(sys.argv[1]))
    _import_xgrammar()
    told: Vocabulary = pickle.load(sys.stdin.buffer)
    vocabularies = Vocabularies(told)
    while True:
        message, descriptors, _, _ = socket.recv_fds(line, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            try:
                line.close()
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                Child(Wire(socket.socket(fileno=descriptors[0])), vocabularies).run()
            finally:
                os._exit(0)
        os.close(descriptors[0])


if __name__ == "__main__":
    main()
