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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from octavo.grammar.fork_server import Vocabulary
from octavo.grammar.lean_import import import_lean
from octavo.grammar.messages import (
    COMPILE_S,
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
from octavo.grammar.shared_bytes import shared_bytes
from octavo.structured_outputs import GrammarKind, GrammarSource
from octavo.wire import Wire

QUICK_S = 0.2
"""Who follows a grammar that takes no longer compiles it again: xgrammar needs 0.5 to 0.9 s to write one of a schema of 10 KB over
151,936 ids, which is 16 to 27 MB, and 0.25 to 0.35 s to read it, but 0.13 s to compile it."""
FOLLOW_S = 5.0
"""The same for one token."""
BATCH_S = 0.1
"""More of them for each further request that is asked about with it."""
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
MOST_THREADS = 8
"""Of the process that follows grammars, to fill masks and to compile one: half of the processor's cores at most."""
MOST_COMPILING_THREADS = 4
"""Of a process that compiles one: a quarter of the cores at most, as there may be two of them."""
THREAD_BYTES = 144 << 20
"""Of address space, for the stack of one more thread and for what it allocates: glibc reserves 128 MiB, and uses what is needed."""
GROUP = 64
"""Requests for which masks are found side by side."""
SWITCH_S = 1e-4
"""How long one thread of Python may keep another one waiting that has masks to find."""
NICENESS = 5
"""Of a process that compiles: the engine, and who follows grammars for it, come first when processor cores are scarce."""

WHOLE = "--whole"
"""Argument upon which xgrammar is imported with all that it asks for."""

_PREFIX = re.compile(r"^\[[\d:]+\] \S+:\d+: (Warning: |Check failed: .*? is false: )?")
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


class Following:
    """One request's place in its grammar."""

    def __init__(self, vocabularies: Vocabularies, compiled: Any) -> None:
        import xgrammar

        self._vocabularies = vocabularies
        self.matcher = xgrammar.GrammarMatcher(compiled)
        self.last: int | None = None
        """The token that was accepted last."""

    def accept(self, token_id: int) -> bool:
        """Go on by one token; False if it may not come."""
        self.last = token_id
        return bool(self.matcher.accept_token(token_id))

    def bits(self) -> bytes:
        """As one of `Allowed.bits`."""
        import numpy as np

        if self.matcher.is_terminated():
            return bytes(-(-self._vocabularies.size // 8))
        row = np.empty((1, self._vocabularies.words), dtype=np.int32)
        self.matcher.fill_next_token_bitmask(row)
        return self._vocabularies.as_bytes(row, [self.last])[0]


class Batch:
    """Many places in grammars, whose bits are found side by side, those of one group while others are made of the group before."""

    def __init__(self, vocabularies: Vocabularies) -> None:
        import numpy as np
        import xgrammar

        self._vocabularies = vocabularies
        self._matcher = xgrammar.BatchGrammarMatcher(max_threads=_following_threads())
        self._thread = ThreadPoolExecutor(1)
        self._rows = [np.empty((GROUP, vocabularies.words), dtype=np.int32) for _ in range(2)]
        """Of the group that is filled and of the one before; kept, as fresh memory costs more than to fill it."""

    def begin(self, places: Sequence[Following]) -> Callable[[], list[bytes | None]]:
        """Begin with a group, of at most `GROUP` places; gives what waits for the bits of each as one of `Allowed.bits`, None where it
        cannot be followed. That is to be called before the next but one begins."""
        self._rows.reverse()
        going = [place for place in places if not place.matcher.is_terminated()]
        rows = self._rows[0][: len(going)]
        filled = self._thread.submit(self._fill, [place.matcher for place in going], rows)

        def bits() -> list[bytes | None]:
            try:
                filled.result()
            except Exception:  # it does not say of whom
                return [_bits(place) for place in places]
            told = self._vocabularies.as_bytes(rows, [place.last for place in going])
            made = dict(zip(map(id, going), told, strict=True))
            nothing = bytes(-(-self._vocabularies.size // 8))
            return [made.get(id(place), nothing) for place in places]

        return bits

    def _fill(self, matchers: list[Any], rows: Any) -> None:
        if matchers:
            self._matcher.batch_fill_next_token_bitmask(matchers, rows)


def _bits(place: Following) -> bytes | None:
    try:
        return place.bits()
    except Exception:
        return None


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
                return Refused(TOO_MUCH if "bad_alloc" in str(exc) else _told(str(exc)))
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
        follows = _accepts(self._following[request], tokens)
        return _allowed([request], [_bits(self._following[request]) if follows else None])

    def _advance(self, moves: list[tuple[int, int]]) -> Iterator[Allowed]:
        """Yield what may come next, group by group: while it is found for one, the next one goes on, and the one before is written."""
        batch = self._batch = self._batch or Batch(self._vocabularies)
        before: Callable[[], Allowed] | None = None
        for first in range(0, len(moves), GROUP):
            group = moves[first : first + GROUP]
            follows = [_accepts(self._following[request], [token_id]) for request, token_id in group]
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


def _accepts(place: Following, tokens: list[int]) -> bool:
    """Go on by `tokens`; False if they do not follow the grammar."""
    try:
        return all(map(place.accept, tokens))
    except Exception:
        return False


def _allowed(requests: list[int], bits: list[bytes | None]) -> Allowed:
    numbers = {each: number for number, each in enumerate(dict.fromkeys(each for each in bits if each is not None))}
    return Allowed(requests, [-1 if each is None else numbers[each] for each in bits], list(numbers))


def read_form(info: Any, form: GrammarSource | bytes) -> Any:
    """xgrammar's compiled grammar of a `Grammar.form`, over its `TokenizerInfo`."""
    import xgrammar

    if isinstance(form, GrammarSource):
        return _compile(info, form, _following_threads())
    return xgrammar.CompiledGrammar.deserialize_json(form.decode(), info)


def _following_threads() -> int:
    return max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)) // 2))


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
