"""What requests with a grammar may sample next: told by a process that follows them, which may die of any of them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from octavo.engine.request_table import RequestTable
from octavo.engine.sequence import Finished, Sequence
from octavo.engine.update import FinishReason
from octavo.errors import RequestFailedError
from octavo.grammar import Follower, ForkServer, Grammar
from octavo.grammar.messages import FOLLOW_S

MAX_DEATHS = 2
"""Of processes that died over a request before it got on, or at the bound of their time, after which it is failed: the first may have
been killed from outside."""
MAX_FAILED_STARTS = 10
"""Of processes in a row that died before they said a word, as often as a worker is replaced: they may have been killed, too."""
MAX_IDLE = 16
"""Grammars that the process keeps compiled though no request has them: the next request often has one of the last ones."""
ANSWER_S = 180.0
"""How long to wait for a process that neither answers nor ends: the system should have ended it long before."""


class _Question(NamedTuple):
    """What may come next in a request, not answered yet."""

    asked_s: float
    alone: bool
    """Nobody else was asked about with it."""


@dataclasses.dataclass(eq=False)
class _Place:
    """A request in its grammar."""

    number: int
    sequence: Sequence
    grammar: Grammar
    permitted: bytes | None
    """Bits of its `allowed_token_ids`."""
    followed: bool = False
    """The process knows it, with all tokens but those that are asked about."""
    begun: bool = False
    """The process has told something of it: it does not compile its grammar any more, or read all tokens before."""
    questions: deque[_Question] = dataclasses.field(default_factory=deque)
    """In the order in which they are answered. The last is about all tokens, others about fewer."""
    deaths: int = 0
    """Of processes that were busy with it, and with nobody else, since one has told something of it: what kills does so again."""
    overruns: int = 0
    """Of such processes, ever, that were busy with it for as long as they may: the next one may need a little less."""


class Masks:
    """Sets `Sequence.allowed`, and ends the requests whose grammar leaves nothing to say.

    What may come next is a function of the grammar and of the tokens so far, so nothing here is state that must be kept:
    whatever dies is made again from the histories.

    Args:
        requests: the table that they are in.
        fork_server: where processes come from; None: there are no requests with a grammar.
    """

    def __init__(self, requests: RequestTable, fork_server: ForkServer | None) -> None:
        self._requests = requests
        self._fork_server = fork_server
        self._follower: Follower | None = None
        self._numbers = itertools.count()
        self._places: dict[str, _Place] = {}
        """By request id."""
        self._asked: dict[int, _Place] = {}
        """Those whose next ids are not told yet, by number, oldest question first."""
        self._idle: dict[int, None] = {}
        """Keys of grammars that the process may have and no request has, the one used last at the end."""
        self._told_s = 0.0
        """When the process last told something: it has been busy with the next question since."""
        self._failed_starts = 0
        self._eos = tuple(requests.config.eos_token_ids)

    @property
    def served(self) -> bool:
        """Requests may have a grammar."""
        return self._fork_server is not None

    @property
    def pending(self) -> bool:
        """Something is not told yet."""
        return bool(self._asked)

    def begin(self, sequence: Sequence, grammar: Grammar) -> None:
        """Tell a new request what its answer may begin with."""
        self._forget_ended()
        ids = sequence.sampling.allowed_token_ids
        permitted = None if ids is None else _bits(ids)
        place = _Place(next(self._numbers), sequence, grammar, permitted)
        self._places[sequence.request_id] = place
        self._idle.pop(grammar.key, None)
        self._tell(place, grammar.first)

    def prepare(self, sequences: Iterable[Sequence]) -> None:
        """Have those be followed that are to get a token soon, so that what comes after it is known sooner."""
        places = [self._places[sequence.request_id] for sequence in sequences]
        new = [place for place in places if not (place.followed or place.questions)]
        if new:
            self._ask(new)

    def advance(self, sequences: Iterable[Sequence]) -> None:
        """Ask for each of those that have one more token, and go on, what may come next."""
        going = [sequence for sequence in sequences if not isinstance(sequence.state, Finished)]
        if going:
            self._ask([self._places[sequence.request_id] for sequence in going])

    def take(self) -> None:
        """Take in what is told by now."""
        if self._follower is not None:
            self._take()
        self._forget_ended()

    def wait(self, timeout_s: float) -> None:
        """Take in what is told next, if it comes within `timeout_s` seconds."""
        if self._asked and self._follower is not None:
            self._follower.wait(timeout_s)
            self._take()

    def wait_for(self, sequences: Iterable[Sequence], timeout_s: float) -> None:
        """Take in what is told until all is known of those `sequences` that the process has begun with, for up to `timeout_s`
        seconds. To begin with one may take longer than many steps."""
        end_s = time.monotonic() + timeout_s
        self.take()
        names = {sequence.request_id for sequence in sequences if sequence.mask() is None}
        places = [self._places[name] for name in names & self._places.keys()]
        numbers = {place.number for place in places if place.begun}
        while not numbers.isdisjoint(self._asked) and (left_s := end_s - time.monotonic()) > 0:
            self.wait(left_s)

    def close(self) -> None:
        """Let the process end."""
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def _take(self) -> None:
        follower = self._follower
        assert follower is not None
        for told in follower.take():
            self._failed_starts, self._told_s = 0, time.monotonic()
            place = self._asked.get(told.request)
            if place is None:
                continue
            place.questions.popleft()
            place.begun = True
            place.deaths = 0
            if not place.questions:
                del self._asked[place.number]
            if isinstance(place.sequence.state, Finished):
                continue
            if told.bits is None:
                self._fail(place, "the grammar of this request could not be followed")
            elif not place.questions:
                self._tell(place, told.bits)
        late = bool(self._asked) and time.monotonic() - _asked_s(next(iter(self._asked.values()))) > ANSWER_S
        if follower.ended or late:
            self._on_death(follower)

    def _tell(self, place: _Place, bits: bytes) -> None:
        """Let the request sample `bits` next, or end it if they leave nothing but its end."""
        sequence = place.sequence
        forbidden = tuple(sequence.bad_words.completing(sequence.tokens, sequence.num_prompt_tokens))
        if sequence.num_made_tokens < sequence.sampling.min_tokens:
            forbidden += tuple(sorted(sequence.stop_ids))
        if sequence.sampling.ignore_eos:
            forbidden += self._eos
        allowed = _narrowed(bits, place.permitted, forbidden, self._eos)
        if allowed is not None:
            sequence.allowed = len(sequence.tokens), allowed
        elif _narrowed(bits, None, (), self._eos) is not None:
            asked = "min_tokens, allowed_token_ids or bad_words forbid"
            self._fail(place, f"{asked} every token that the grammar of this request lets come next")
        else:
            self._requests.end(sequence, FinishReason.STOP)

    def _ask(self, places: list[_Place]) -> None:
        """Ask about `places`: first those that the process does not know, each alone, then all others together."""
        together = sorted((place for place in places if place.followed), key=_key)  # the same masks beside each other
        alone = [place for place in places if not place.followed]
        for place in (*alone, *together):
            place.questions.append(_Question(time.monotonic(), not place.followed or len(together) == 1))
            self._asked[place.number] = place
        follower = self._follower or self._start()
        if follower is None:
            return
        for place in alone:
            made = place.sequence.tokens[place.sequence.num_prompt_tokens :]
            follower.follow(place.number, place.grammar.key, place.grammar.form, made)
            place.followed = True
        if together:
            follower.advance([(place.number, place.sequence.tokens[-1]) for place in together])

    def _start(self) -> Follower | None:
        """Start the process; if there is none to be had, requests that need it end with an error."""
        assert self._fork_server is not None
        try:
            self._follower = Follower(self._fork_server)
        except OSError as exc:
            self._fail_asked(f"no process can be started to follow the grammar of this request: {exc}")
        return self._follower

    def _on_death(self, follower: Follower) -> None:
        """The process has ended: ask another one, last about the request that this one was busy with. If these were several, nobody
        is to blame yet: the next one is asked about each alone."""
        follower.close()
        self._follower = None
        self._idle.clear()
        asked = [place for place in self._asked.values() if not isinstance(place.sequence.state, Finished)]
        if not follower.began:
            self._failed_starts += 1
        elif asked:
            busy = min(asked, key=_asked_s)
            if busy.questions[0].alone:
                overran = time.monotonic() - max(_asked_s(busy), self._told_s) >= FOLLOW_S
                busy.overruns += overran
                busy.deaths += not overran
            asked = [*(place for place in asked if place is not busy), busy]
        for place in self._places.values():
            place.followed = place.begun = False
            place.questions.clear()
        self._asked.clear()
        left = []
        for place in asked:
            if self._failed_starts >= MAX_FAILED_STARTS:
                self._fail(place, "the process that follows grammars cannot start")
            elif place.deaths + place.overruns >= MAX_DEATHS:
                self._fail(place, "to follow the grammar of this request takes too much time or memory; others go on")
            else:
                left.append(place)
        if self._failed_starts >= MAX_FAILED_STARTS:
            self._failed_starts = 0
        if left:
            self._ask(left)

    def _fail_asked(self, message: str) -> None:
        places, self._asked = list(self._asked.values()), {}
        for place in places:
            place.questions.clear()
            self._fail(place, message)

    def _fail(self, place: _Place, message: str) -> None:
        if not isinstance(place.sequence.state, Finished):
            self._requests.end(place.sequence, FinishReason.ERROR, error=RequestFailedError(message))

    def _forget_ended(self) -> None:
        ended = [place for place in self._places.values() if isinstance(place.sequence.state, Finished)]
        if not ended:
            return
        for place in ended:
            del self._places[place.sequence.request_id]
            self._asked.pop(place.number, None)
        if self._follower is not None:
            used = {place.grammar.key for place in self._places.values()}
            self._idle |= {place.grammar.key: None for place in ended if place.grammar.key not in used}
            oldest = [*self._idle][:-MAX_IDLE]
            for key in oldest:
                del self._idle[key]
            self._follower.leave([place.number for place in ended], oldest)


def _key(place: _Place) -> int:
    """Of its grammar."""
    return place.grammar.key


def _asked_s(place: _Place) -> float:
    """When the first question was asked that is not answered; there is one."""
    return place.questions[0].asked_s


@functools.lru_cache(maxsize=256)
def _narrowed(bits: bytes, permitted: bytes | None, forbidden: tuple[int, ...], eos: tuple[int, ...]) -> bytes | None:
    """Those of `bits` that are permitted and not forbidden; None if that leaves nothing, or nothing but EOS.

    One object for all requests for which it is the same.
    """
    left = bytearray(bits if permitted is None else _both(bits, permitted))
    _clear(left, forbidden)
    allowed = bytes(left)
    _clear(left, eos)
    return None if left == bytes(len(left)) else allowed


def _both(bits: bytes, others: bytes) -> bytes:
    """The bits that are set in both, as many as the first has."""
    both = int.from_bytes(bits, "little") & int.from_bytes(others, "little")
    return both.to_bytes(len(bits), "little")


def _clear(bits: bytearray, ids: Iterable[int]) -> None:
    """Unset these bits, as far as there are so many; `bits` is written."""
    for id_ in ids:
        if id_ < 8 * len(bits):
            bits[id_ // 8] &= ~(1 << id_ % 8)


def _bits(ids: Iterable[int]) -> bytes:
    """Bytes with these bits set."""
    number = 0
    for id_ in ids:
        number |= 1 << id_
    return number.to_bytes(-(-number.bit_length() // 8), "little")
