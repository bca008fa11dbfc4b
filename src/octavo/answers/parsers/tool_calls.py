"""Splits a text into content and calls of tools, in any of the forms in which models write them."""

from __future__ import annotations

from octavo.answers.parsers.call_form import Broken, CallForm, CallReader, Complete
from octavo.answers.parsers.events import Content, Event, ToolCallArguments, ToolCallStart
from octavo.answers.parsers.marks import find_first, partial, skip_space
from octavo.answers.parsers.text_parser import TextParser
from octavo.answers.tool import ToolSet


class ToolCallParser(TextParser):
    """Content as it comes, and each call once it is whole: so what was told has never to be taken back.

    What begins as a call and is none is content, mark and all. White space beside a call belongs to neither.

    Args:
        form: how the model writes calls.
        tools: which there are.
        most_calls: what stands behind so many calls is not read.
    """

    def __init__(self, form: type[CallForm], tools: ToolSet, most_calls: int | None = None) -> None:
        super().__init__()
        self.num_calls = 0
        self._form = form
        self._tools = tools
        self._most_calls = most_calls
        self._reader: CallReader | None = None
        self._opened = 0
        """Characters of `_text` up to the end of the mark, while there is a reader."""
        self._said = False
        """There was content."""
        self._after_call = False
        """Nothing but white space since a call."""

    @property
    def done(self) -> bool:
        """As many calls were made as are allowed."""
        return self.num_calls == self._most_calls

    def _advance(self, *, ended: bool) -> list[Event]:
        events: list[Event] = []
        while not self.done:
            if self._reader is None and not self._open(events, ended):
                return events
            assert self._reader is not None
            verdict = self._reader.read(self._text[self._opened :], ended=ended)
            if verdict is None:
                return events
            self._reader = None
            if isinstance(verdict, Broken):
                self._say(events, self._opened)
            else:
                self._call(events, verdict)
        return events

    def _open(self, events: list[Event], ended: bool) -> bool:
        """Tell content up to the next mark; whether there is one."""
        found = self._find()
        if found is None:
            self._say(events, len(self._text) if ended else self._safe())
            return False
        place, mark = found
        if place != self._start():
            told = len(self._text[:place].rstrip())
            self._say(events, told)
            place -= told
        self._opened = place + len(mark)
        self._reader = self._form.reader(mark, self._tools)
        return True

    def _find(self) -> tuple[int, str] | None:
        """The place of the next mark, and the mark."""
        start = self._start()
        for mark in self._first_marks:
            if self._text.startswith(mark, start):
                return start, mark
        return find_first(self._text, self._form.marks)

    @property
    def _first_marks(self) -> tuple[str, ...]:
        """Those that count here."""
        return () if self._said else self._form.first_marks

    def _start(self) -> int:
        """Where the text begins, after what may stand before a call and says nothing."""
        at = skip_space(self._text, 0)
        while self._after_call and at < len(self._text) and self._text[at] in self._form.between:
            at = skip_space(self._text, at + 1)
        return at

    def _safe(self) -> int:
        """Characters that are content whatever comes: all but what may become a mark, and what may stand before one."""
        start = self._start()
        rest = self._text[start:]
        if any(mark.startswith(rest) for mark in (*self._first_marks, *self._form.marks)):
            return 0
        held = partial(self._text, self._form.marks)
        return len(self._text[: len(self._text) - held].rstrip())

    def _say(self, events: list[Event], length: int) -> None:
        """Tell the first characters of the text as content."""
        text, self._text = self._text[:length], self._text[length:]
        if self._after_call:
            text = text if self._said and text.strip() else text.lstrip()
        if text:
            events.append(Content(text))
            self._said, self._after_call = True, False

    def _call(self, events: list[Event], verdict: Complete) -> None:
        for call in verdict.calls:
            if self.done:
                break
            events += [ToolCallStart(self.num_calls, call.name), ToolCallArguments(self.num_calls, call.arguments)]
            self.num_calls += 1
        self._text = self._text[self._opened + verdict.end :]
        self._after_call = True
