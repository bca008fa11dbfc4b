"""What reads a text as it comes and tells what is known of it."""

from __future__ import annotations

import abc

from octavo.answers.parsers.events import Event


class TextParser(abc.ABC):
    """Holds the text that has not been told, because what follows decides what it is."""

    def __init__(self) -> None:
        self._text = ""
        """What has not been told."""
        self._blank = False
        """That is white space alone, which waits for what follows; more of it is not looked at: some models write nothing else."""

    def feed(self, text: str) -> list[Event]:
        """Add text; return what is known now."""
        self._text += text
        if self._blank and text.isspace():
            return []
        events = self._advance(ended=False)
        self._blank = self._text.isspace()
        return events

    def finish(self) -> list[Event]:
        """No more comes: return what is left."""
        return self._advance(ended=True)

    @abc.abstractmethod
    def _advance(self, *, ended: bool) -> list[Event]:
        """Take off `_text` what is known; all of it if the text has `ended`."""
