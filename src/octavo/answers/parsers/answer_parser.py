"""Splits the text of one answer into its channels: first the thoughts, then what follows them into content and calls."""

from __future__ import annotations

from octavo.answers.parsers.enforced_calls import EnforcedCallParser
from octavo.answers.parsers.events import Content, Event
from octavo.answers.parsers.reasoning import Think
from octavo.answers.parsers.tool_calls import ToolCallParser


class AnswerParser:
    """A function of the text so far: in however many pieces it comes, the joined events are the same. So an answer that
    goes on after the death of a worker needs nothing but its text.

    Args:
        reasoning: splits off the thoughts; None: they are not looked for.
        tools: splits off the calls; None: the same.
    """

    def __init__(self, reasoning: Think | None, tools: ToolCallParser | EnforcedCallParser | None) -> None:
        self._reasoning = reasoning
        self._tools = tools

    @property
    def reasoning(self) -> bool:
        """What comes next is reasoning, as far as one can tell."""
        return self._reasoning is not None and self._reasoning.inside

    @property
    def num_calls(self) -> int:
        """Calls so far."""
        return self._tools.num_calls if self._tools is not None else 0

    @property
    def done(self) -> bool:
        """There are as many calls as are allowed: the answer ends here."""
        return self._tools is not None and self._tools.done

    def feed(self, text: str) -> list[Event]:
        """Add text; return what is known now."""
        return self._split(self._reasoning.feed(text) if self._reasoning is not None else [Content(text)])

    def finish(self) -> list[Event]:
        """No more comes: return what is left."""
        events = self._split(self._reasoning.finish()) if self._reasoning is not None else []
        return events + self._tools.finish() if self._tools is not None else events

    def _split(self, events: list[Event]) -> list[Event]:
        """The events, with the calls in their content as such."""
        if self._tools is None:
            return events
        split: list[Event] = []
        for event in events:
            split += self._tools.feed(event.text) if isinstance(event, Content) else [event]
        return split
