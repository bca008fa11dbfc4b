"""What the server and the processes that run xgrammar say to each other: plain data, encoded as MessagePack.

server                                   compiling process        (one for each grammar, then it ends)
  | -- Compile -------------------------> |
  | <------------------ Compiled/Refused  |

server                                   following process        (one for all requests)
  | -- Follow (its tokens so far) ------> |
  | <------------------------------ Allowed
  | -- Advance (one token of each) -----> |
  | <------------------------------ Allowed          (several, of some of them each, in their order)
  | -- Leave ---------------------------> |   no answer
"""

from __future__ import annotations

import msgspec

from octavo.structured_outputs import GrammarSource

COMPILE_S = 10.0
"""Processor seconds for a grammar; who takes more is ended by the system."""
FOLLOW_S = 5.0
"""The same for one token."""
TOO_MUCH = "to compile it takes too much time or memory; make it smaller"


class Compile(msgspec.Struct, frozen=True, tag="compile"):
    """Compile this."""

    source: GrammarSource


class Compiled(msgspec.Struct, frozen=True, tag="compiled"):
    """It is a grammar."""

    data: bytes | None
    """As xgrammar writes it: all that it takes to follow it. None: its source is as good, as it takes less time than to read that."""
    first: bytes
    """Ids that may begin an answer; see `Allowed.bits`."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """It is none, or none that can be honoured."""

    reason: str
    place: str | None = None
    """JSON pointer of what is to blame; None: nobody knows, or all of it."""


class Follow(msgspec.Struct, frozen=True, tag="follow"):
    """Follow a grammar from its start through the tokens that a request has made."""

    request: int
    """A number that no other request ever has."""
    key: int
    """Of the grammar."""
    form: GrammarSource | bytes | None
    """Of the grammar: what it is compiled from, or `Compiled.data`; None if this process has had it."""
    tokens: list[int]


class Advance(msgspec.Struct, frozen=True, tag="advance"):
    """Requests have made one more token."""

    moves: list[tuple[int, int]]
    """Each with its token."""


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """Requests that have ended, and grammars that none of those left has."""

    requests: list[int]
    keys: list[int]


class Allowed(msgspec.Struct, frozen=True, tag="allowed"):
    """Which ids may come next in requests that were asked about together, in their order."""

    requests: list[int]
    rows: list[int]
    """For each the number of its bits, which requests may share; -1: its tokens do not follow the grammar, or it cannot be
    followed."""
    bits: list[bytes]
    """Bit i % 8 of byte i // 8 is set if id i may come, EOS among them where the text may end."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """A process has begun."""


Order = Compile | Follow | Advance | Leave
Answer = Compiled | Refused | Allowed | Ready
