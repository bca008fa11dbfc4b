"""What reads a text as it comes and tells what is known of it."""

from __future__ import annotations

import abc

from octavo.answers.parsers.events import Event


class TextParser(abc.ABC):
    """Holds the text that has not been told, because what follows decides what it is."""

    def __init__(self) -> None:
        self._text = ""
        """What has not been told."""

    def feed(self, text: str) -> list[Event]:
        """Add text; return what is known now."""
        self._text += text
        return self._advance(ended=False)

    def finish(self) -> list[Event]:
        """No more comes: return what is left."""
        return self._advance(ended=True)

    @abc.abstractmethod
    def _advance(self, *, ended: bool) -> list[Event]:
        """Take off `_text` what is known; all of it if the text has `ended`."""
