"""Finds stop strings in a text that arrives in pieces, one look at each character (Aho and Corasick, 1975)."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from octavo.errors import RequestError

MAX_STOP_STRINGS = 1024
MAX_STOP_CHARS = 16384


class StopStrings:
    """The automaton of a set of stop strings; unchanging, shared by all answers of a request.

    A state is the longest end of the text read so far that begins a stop string.

    Raises:
        RequestError: more than 1024 strings, or more than 16384 characters in all.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        check_stops(strings)
        self._next: list[dict[str, int]] = [{}]
        self._fallback = [0]
        self.depth = [0]
        """Characters of the text that a state holds."""
        self.match: list[str | None] = [None]
        """The longest stop string that ends in a state."""
        for string in strings:
            self._add(string)
        self._link()

    def __bool__(self) -> bool:
        return len(self.depth) > 1

    def step(self, state: int, char: str) -> int:
        """The state after `char`."""
        while state and char not in self._next[state]:
            state = self._fallback[state]
        return self._next[state].get(char, 0)

    def _add(self, string: str) -> None:
        state = 0
        for char in string:
            if char not in self._next[state]:
                self._next[state][char] = len(self._next)
                self._next.append({})
                self._fallback.append(0)
                self.depth.append(self.depth[state] + 1)
                self.match.append(None)
            state = self._next[state][char]
        self.match[state] = string

    def _link(self) -> None:
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for char, child in self._next[state].items():
                self._fallback[child] = self.step(self._fallback[state], char)
                self.match[child] = self.match[child] or self.match[self._fallback[child]]
                queue.append(child)


def check_stops(strings: Sequence[str]) -> None:
    """Check that an automaton of `strings` is small.

    Raises:
        RequestError: more than 1024 strings, or more than 16384 characters in all.
    """
    if len(strings) > MAX_STOP_STRINGS or sum(map(len, strings)) > MAX_STOP_CHARS:
        rule = f"at most {MAX_STOP_STRINGS} strings with at most {MAX_STOP_CHARS} characters in all"
        raise RequestError(f"stop must hold {rule}, got {len(strings)} strings", param="stop")


class StopScanner:
    """Lets a text through except what may still become a stop string."""

    def __init__(self, strings: StopStrings, *, include: bool = False) -> None:
        self._strings = strings
        self._include = include
        self._state = 0
        self._held = ""
        self.found: str | None = None
        """The stop string that ended the text; the longest of those complete at the same character."""

    def push(self, text: str, *, armed: bool = True) -> str:
        """Returns the text that may be shown now. A stop string ends it at the first character that completes one;
        while not `armed`, completing one does nothing."""
        strings, state = self._strings, self._state
        for position, char in enumerate(text):
            state = strings.step(state, char)
            if armed and strings.match[state] is not None:
                self.found = strings.match[state]
                return self._end(self._held + text[: position + 1])
        self._state = state
        self._held += text
        return self._release(strings.depth[state])

    def finish(self) -> str:
        """The text still held, as nothing more will come."""
        return self._release(0)

    def _release(self, hold: int) -> str:
        cut = len(self._held) - hold
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def _end(self, text: str) -> str:
        assert self.found is not None
        self._held = ""
        return text if self._include else text[: len(text) - len(self.found)]
