"""Splits a text that a grammar lets be nothing but calls, whose arguments are told as they come."""

from __future__ import annotations

from octavo.answers.parsers.call_form import CallForm
from octavo.answers.parsers.events import Content, Event, ToolCallArguments, ToolCallStart
from octavo.answers.parsers.json_scanner import JsonScanner
from octavo.answers.tool import ToolSet


class EnforcedCallParser:
    """Calls piece by piece: none of them can turn out to be something else, only break off where the answer is cut.

    Args:
        form: how the grammar spells calls; with arguments in JSON.
        tools: which there are.
        most_calls: how many the grammar allows at most.
    """

    def __init__(self, form: type[CallForm], tools: ToolSet, most_calls: int | None = None) -> None:
        assert form.text is not None
        self.num_calls = 0
        self._most_calls = most_calls
        self._begins = {form.text.begin.replace("NAME", tool.name): tool.name for tool in tools}
        self._end = form.text.end
        self._separator = form.text.separator
        self._text = ""
        """What has not been told, or of the arguments that are being read all."""
        self._scanner: JsonScanner | None = None
        self._told = 0
        """Characters of the arguments."""

    @property
    def done(self) -> bool:
        """As many calls were made as are allowed."""
        return self.num_calls == self._most_calls

    def feed(self, text: str) -> list[Event]:
        """Add text; return what is known now."""
        events: list[Event] = []
        self._text += text
        while not self.done and (self._read_arguments(events) if self._scanner is not None else self._open(events)):
            pass
        return events

    def finish(self) -> list[Event]:
        """No more comes: return what is left, the beginning of a call that nobody has heard of."""
        rest, self._text = self._text, ""
        return [Content(rest)] if self._scanner is None and rest.strip() and not self.done else []

    def _open(self, events: list[Event]) -> bool:
        """Read up to the arguments of the next call; whether they have begun."""
        if self.num_calls == 0:
            self._text = self._text.lstrip()  # what may stand behind thoughts
        for begin, name in self._begins.items():
            for opening in (begin, self._separator + begin):
                if self._text.startswith(opening):
                    events.append(ToolCallStart(self.num_calls, name))
                    self._text = self._text[len(opening) :]
                    self._scanner, self._told = JsonScanner(), 0
                    return True
        return False

    def _read_arguments(self, events: list[Event]) -> bool:
        """Tell what there is of the arguments; whether the call is whole."""
        assert self._scanner is not None
        self._scanner.scan(self._text)
        end = self._scanner.end
        news = self._text[self._told : end]
        if news:
            events.append(ToolCallArguments(self.num_calls, news))
            self._told += len(news)
        if end is None or len(self._text) < end + len(self._end):
            return False
        self._text = self._text[end + len(self._end) :]
        self._scanner = None
        self.num_calls += 1
        return True
