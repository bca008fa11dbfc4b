"""The output of a response: an answer's channels become items, one after the other, and the events that tell them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Raw

from octavo.answers import Part
from octavo.answers.parsers import Content, Event, Reasoning, ToolCallArguments, ToolCallStart, joined
from octavo.messages import TokenScore
from octavo.server.fields import Json
from octavo.server.responses.items import COMPLETED, INCOMPLETE, Call, Item, Message, Thoughts
from octavo.server.responses.scored_events import ScoredEvents

Scored = tuple[Event, list[TokenScore]]


class Output:
    """The items of one answer so far. What it tells does not depend on the parts that the answer comes in, but for how
    many deltas there are.

    Args:
        base_id: what the ids of items are made of.
        splits: a parser makes the events; else all text is content.
        call_id: the id of a call by its number.
        write_scores: the inside of a JSON list of scores; None: they are not told.
    """

    def __init__(
        self,
        base_id: str,
        *,
        splits: bool,
        call_id: Callable[[int], str],
        write_scores: Callable[[Sequence[TokenScore]], Raw] | None = None,
    ) -> None:
        self._base_id = base_id
        self._splits = splits
        self._call_id = call_id
        self._write_scores = write_scores
        self._scored = ScoredEvents(splits=splits) if write_scores is not None else None
        self._closed: list[Json] = []
        self._open: Item | None = None

    def items(self, status: str = COMPLETED) -> list[Json]:
        """All items, of which the last one, if it has not ended, has `status`."""
        return self._closed if self._open is None else [*self._closed, self._open.shown(status)]

    def take(self, part: Part, *, last: bool = False) -> list[Json]:
        """Add what is new; the events that tell it. `last`: no part comes after it."""
        return [event for run in _runs(self._events(part, last=last)) for event in self._tell(run)]

    def end(self, *, complete: bool) -> list[Json]:
        """Close the last item; an answer of nothing is an empty message. The events that tell it."""
        opened = self._begin(Message(self._base_id, 0)) if not self._closed and self._open is None else []
        return opened + self._close(COMPLETED if complete else INCOMPLETE)

    def _events(self, part: Part, *, last: bool) -> Iterable[Scored]:
        if self._scored is not None:
            return self._scored.take(part, last=last)
        events: list[Event] = joined(part.events) if self._splits else [Content(part.text)] if part.text else []
        return [(event, []) for event in events]

    def _tell(self, run: Sequence[Scored]) -> Iterator[Json]:
        """The events for neighbours of one channel."""
        first, _ = run[0]
        index = len(self._closed) + (self._open is not None)
        if isinstance(first, ToolCallStart):
            yield from self._begin(Call(self._base_id, index, first.name, self._call_id(first.index)))
            return
        if isinstance(first, Content) and not isinstance(self._open, Message):
            yield from self._begin(Message(self._base_id, index))
        elif isinstance(first, Reasoning) and not isinstance(self._open, Thoughts):
            yield from self._begin(Thoughts(self._base_id, index))
        assert self._open is not None
        text = "".join(event.text for event, _ in run if not isinstance(event, ToolCallStart))
        scores = [score for _, some in run for score in some]
        yield self._open.grow(text, [self._write_scores(scores)] if self._write_scores and scores else [])

    def _begin(self, item: Item) -> list[Json]:
        closed = self._close(COMPLETED)
        self._open = item
        return closed + item.begin()

    def _close(self, status: str) -> list[Json]:
        if self._open is None:
            return []
        events = self._open.end(status)
        self._closed.append(self._open.shown(status))
        self._open = None
        return events


def _runs(events: Iterable[Scored]) -> Iterator[list[Scored]]:
    """Neighbours of one channel."""
    for _, run in itertools.groupby(events, key=lambda scored: _channel(scored[0])):
        yield list(run)


def _channel(event: Event) -> tuple[type[Event], int]:
    return type(event), event.index if isinstance(event, ToolCallStart | ToolCallArguments) else 0
