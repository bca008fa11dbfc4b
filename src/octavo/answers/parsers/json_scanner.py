"""Finds the end of a JSON object or array in a text that grows, one look at each character."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

_IN_STRING = re.compile(r'[^"\\]*')
_OUTSIDE = re.compile(r"[\s\d:,+\-.eEtrufalsn]*")
"""What may stand between strings and brackets. All else breaks a value, marks of calls among it: so a text full of marks
is not read again and again to its end."""


class JsonScanner:
    """Scans from `start`, where a bracket opens."""

    def __init__(self, start: int = 0) -> None:
        self._at = start
        self._depth = 0
        self._in_string = False
        self.end: int | None = None
        """Just after the closing bracket, once it is there."""
        self.broken = False
        """There is a character that no JSON has at its place."""

    def scan(self, text: str) -> None:
        """Go on as far as `text` goes, which holds all of the texts before."""
        while self.end is None and not self.broken and self._at < len(text):
            if self._in_string:
                self._scan_string(text)
                if self._in_string:
                    return
            else:
                self._scan_structure(text)

    def _scan_string(self, text: str) -> None:
        while self._at < len(text):
            match = _IN_STRING.match(text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at == len(text):
                return
            if text[self._at] == '"':
                self._at += 1
                self._in_string = False
                return
            if self._at + 1 == len(text):
                return  # what the backslash escapes is not there yet
            self._at += 2

    def _scan_structure(self, text: str) -> None:
        match = _OUTSIDE.match(text, self._at)
        assert match is not None
        self._at = match.end()
        if self._at == len(text):
            return
        char = text[self._at]
        if char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            if self._depth == 0:
                self.end = self._at + 1
        else:
            self.broken = True
        self._at += 1


def as_json(text: str) -> str | None:
    """`text` if it is JSON; JSON that says the same if all that is wrong are line ends and tabs in its strings, which models
    write so; else None."""
    ignore: Callable[[str], int] = len  # numbers of any length are fine: clients read them
    try:
        json.loads(text, parse_int=ignore, parse_float=ignore, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _repaired(text)
    return text


def json_text(value: Any) -> str:
    """The JSON of `value`, in characters that UTF-8 can say."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(value, allow_nan=False)
    return text


def _repaired(text: str) -> str | None:
    try:
        return json_text(json.loads(text, strict=False, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
