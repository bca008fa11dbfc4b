"""What an answer says, piece by piece, each piece in its channel."""

from __future__ import annotations

import dataclasses
from typing import TypeAlias


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """Text for the reader of the answer."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Reasoning:
    """Text that the model wrote for itself."""

    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call of a tool begins; `index` counts the calls of the answer from 0."""

    index: int
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of the JSON text of a call's arguments; joined, they are all of it."""

    index: int
    text: str


Event: TypeAlias = Content | Reasoning | ToolCallStart | ToolCallArguments


def joined(events: list[Event]) -> list[Event]:
    """The same events, neighbours of one channel as one."""
    runs: list[list[Event]] = []
    for event in events:
        if runs and _continues(runs[-1][0], event):
            runs[-1].append(event)
        else:
            runs.append([event])
    return [_as_one(run) for run in runs]


def _continues(first: Event, event: Event) -> bool:
    if isinstance(first, ToolCallArguments) and isinstance(event, ToolCallArguments):
        return first.index == event.index
    return not isinstance(first, ToolCallStart) and type(first) is type(event)


def _as_one(run: list[Event]) -> Event:
    first = run[0]
    if isinstance(first, ToolCallStart) or len(run) == 1:
        return first
    return dataclasses.replace(first, text="".join(event.text for event in run if not isinstance(event, ToolCallStart)))
