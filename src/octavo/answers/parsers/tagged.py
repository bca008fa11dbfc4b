"""Reads calls whose arguments stand between tags, a name and a text each."""

from __future__ import annotations

import dataclasses
import enum

from octavo.answers.parsers.call_form import Broken, Complete, Verdict
from octavo.answers.parsers.marks import after, skip_space
from octavo.answers.parsers.typed_values import typed_call
from octavo.answers.tool import ToolSet

LONGEST_NAME = 256
_NOT_IN_NAMES = frozenset("<>\n")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Tags:
    """What a call is made of; white space may stand between any two parts."""

    head: str = ""
    """Before the name of the tool."""
    name_end: str = ""
    """After it; empty: a line end, or the next tag."""
    key: str
    """Before the name of an argument."""
    key_end: str
    value: str = ""
    """Before its text."""
    value_end: str
    """After its text, if another argument or the end follows: else it is part of the text."""
    end: str
    """After all arguments."""
    close: str = ""
    """May follow that."""
    trim: bool = False
    """A line end at either end of a text belongs to the tags."""


class _Part(enum.Enum):
    HEAD = enum.auto()
    NAME = enum.auto()
    KEY_OR_END = enum.auto()
    KEY = enum.auto()
    VALUE = enum.auto()
    TEXT = enum.auto()
    CLOSE = enum.auto()


class TaggedReader:
    """Reads one call part by part; `opened`: the mark before was the tag of its head."""

    def __init__(self, tags: Tags, tools: ToolSet, *, opened: bool = False) -> None:
        self._tags = tags
        self._tools = tools
        self._part = _Part.NAME if opened else _Part.HEAD
        self._at = 0
        """Where the part begins."""
        self._name = ""
        self._key = ""
        self._arguments: list[tuple[str, str]] = []
        self._searched = 0
        """Where to look on for the end of a text."""

    def read(self, text: str, *, ended: bool) -> Verdict:
        steps = {
            _Part.HEAD: lambda: self._expect(text, {self._tags.head: _Part.NAME}),
            _Part.NAME: lambda: self._read_name(text),
            _Part.KEY_OR_END: lambda: self._expect(text, {self._tags.end: _Part.CLOSE, self._tags.key: _Part.KEY}),
            _Part.KEY: lambda: self._read_key(text),
            _Part.VALUE: lambda: self._expect(text, {self._tags.value: _Part.TEXT}),
            _Part.TEXT: lambda: self._read_text(text, ended),
        }
        while self._part is not _Part.CLOSE:
            done = steps[self._part]()
            if done is None:
                return Broken() if ended else None
            if not done:
                return Broken()
        end = after(text, self._at, self._tags.close, ended=ended) if self._tags.close else self._at
        return None if end is None else Complete((typed_call(self._name, self._arguments, self._tools),), end)

    def _expect(self, text: str, tags: dict[str, _Part]) -> bool | None:
        """Go on after whichever of the tags comes next; False if it is none of them, None if it may become one."""
        place = skip_space(text, self._at) if all(tags) else self._at
        for tag, part in tags.items():
            if text.startswith(tag, place):
                self._at, self._part, self._searched = place + len(tag), part, place + len(tag)
                return True
        rest = text[place : place + LONGEST_NAME]
        return None if any(tag.startswith(rest) for tag in tags) else False

    def _read_name(self, text: str) -> bool | None:
        if self._tags.name_end:
            name = self._until(text, self._tags.name_end)
        else:
            ends = [place for mark in "\n<" if (place := text.find(mark, skip_space(text, self._at))) >= 0]
            name = text[self._at : min(ends)] if ends else self._unended(text)
            self._at = min(ends, default=self._at)
        if name:
            self._name, self._part = name.strip(), _Part.KEY_OR_END
            return _is_name(self._name)
        return name if name is None else False

    def _read_key(self, text: str) -> bool | None:
        key = self._until(text, self._tags.key_end)
        if key:
            self._key, self._part = key.strip(), _Part.VALUE
            return _is_name(self._key)
        return key if key is None else False

    def _until(self, text: str, tag: str) -> str | None:
        """What stands before `tag`, and go on after it; empty if it is too long, None if the tag may still come."""
        place = text.find(tag, self._at)
        if place < 0:
            return self._unended(text)
        found, self._at = text[self._at : place], place + len(tag)
        return found

    def _unended(self, text: str) -> str | None:
        return None if len(text) - self._at <= LONGEST_NAME else ""

    def _read_text(self, text: str, ended: bool) -> bool | None:
        tag = self._tags.value_end
        while (place := text.find(tag, self._searched)) >= 0:
            follows = self._follows(text, place + len(tag))
            if follows is None and not ended:
                return None
            if follows:
                self._arguments.append((self._key, self._trimmed(text[self._at : place])))
                self._at, self._part = place + len(tag), _Part.KEY_OR_END
                return True
            self._searched = place + len(tag)
        self._searched = max(self._searched, len(text) - len(tag) + 1)
        return None

    def _follows(self, text: str, at: int) -> bool | None:
        """Whether an argument or the end of the call begins at `at`; None: it may."""
        place = skip_space(text, at)
        tags = (self._tags.end, self._tags.key)
        if any(text.startswith(tag, place) for tag in tags):
            return True
        return None if any(tag.startswith(text[place:]) for tag in tags) else False

    def _trimmed(self, value: str) -> str:
        return value.removeprefix("\n").removesuffix("\n") if self._tags.trim else value


def _is_name(text: str) -> bool:
    return 0 < len(text) <= LONGEST_NAME and _NOT_IN_NAMES.isdisjoint(text)
