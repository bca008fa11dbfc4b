"""Splits what a model wrote for itself from what it says, by the marks of its family."""

from __future__ import annotations

import enum
import re
from typing import ClassVar

from octavo.answers.parsers.events import Content, Event, Reasoning
from octavo.answers.parsers.marks import partial, skip_space
from octavo.answers.parsers.text_parser import TextParser

OPEN, CLOSE = "<think>", "</think>"
_CALL = re.compile(r"<tool_call>\s*(?:<function=|\{\s*\"name\")")
"""A call within thoughts ends them: models forget the closing mark before it."""
_CALL_MARK = "<tool_call>"
_CALL_BEGINS = re.compile(r"<tool_call>\s*(?:<[a-z]*|\{\s*(?:\"[a-z]*)?)?$")
"""The end of a text that may become one."""


class _State(enum.Enum):
    BEFORE = "nothing but white space so far"
    INSIDE = "thinking"
    BEHIND = "nothing but white space since the end of the thoughts"
    CONTENT = "the answer itself"


class Start(enum.Enum):
    """What a prompt says of the thoughts that follow it."""

    UNSAID = "the model opens them, if there are any"
    OPENED = "the prompt ends within them"
    CLOSED = "there are none, or they have ended"

    @classmethod
    def after(cls, prompt: str) -> Start:
        """After a prompt whose last lines a template wrote: many open the thoughts, or close them where there shall be
        none."""
        prompt = prompt.rstrip()
        if prompt.endswith(OPEN):
            return cls.OPENED
        return cls.CLOSED if prompt.endswith(CLOSE) else cls.UNSAID

    @classmethod
    def within(cls, message: str) -> Start:
        """Within a message that is to be continued."""
        return cls.OPENED if message.rfind(OPEN) > message.rfind(CLOSE) else cls.CLOSED


class Think(TextParser):
    """`<think>` thoughts `</think>` answer. White space beside a mark belongs to neither.

    Args:
        start: what the prompt says of them.
        calls_end_it: a call of a tool ends the thoughts too.
    """

    marks: ClassVar[tuple[str, ...]] = (OPEN, CLOSE)
    always: ClassVar[bool] = False
    """Thoughts come first even where nobody wrote the opening mark."""

    def __init__(self, start: Start, *, calls_end_it: bool = False) -> None:
        super().__init__()
        if start is Start.CLOSED:
            self._state = _State.CONTENT
        elif start is Start.OPENED or self.always:
            self._state = _State.INSIDE
        else:
            self._state = _State.BEFORE
        self._calls_end_it = calls_end_it
        self._opening = True
        """The opening mark may come, though the thoughts have begun: some models repeat that of the prompt."""
        self._begun = False
        """Something of the thoughts has been told."""

    @property
    def inside(self) -> bool:
        """What comes next is reasoning, as far as one can tell."""
        return self._state is _State.INSIDE

    def _advance(self, *, ended: bool) -> list[Event]:
        events: list[Event] = []
        if self._state is _State.BEFORE:
            self._begin(ended)
        if self._state is _State.INSIDE:
            self._think(events, ended)
        if self._state is _State.BEHIND:
            self._text = self._text.lstrip()
            if self._text:
                self._state = _State.CONTENT
        if self._state is _State.CONTENT and self._text:
            events.append(Content(self._text))
            self._text = ""
        return events

    def _begin(self, ended: bool) -> None:
        start = skip_space(self._text, 0)
        if self._text.startswith(OPEN, start):
            self._state = _State.INSIDE
        elif ended or not OPEN.startswith(self._text[start:]):
            self._state = _State.CONTENT

    def _think(self, events: list[Event], ended: bool) -> None:
        if not self._begun:
            self._skip_opening()
        if not self._text or (self._opening and not ended):
            return
        place, length = self._end()
        if place >= 0:
            self._tell(events, self._text[:place].rstrip())
            self._text = self._text[place + length :]
            self._state = _State.BEHIND
        elif ended:
            self._tell(events, self._text)
            self._text = ""
        else:
            told = self._text[: len(self._text) - self._kept()].rstrip()
            self._tell(events, told)
            self._text = self._text[len(told) :]

    def _skip_opening(self) -> None:
        """Leave out white space before the thoughts, and the opening mark."""
        self._text = self._text.lstrip()
        if self._opening and self._text.startswith(OPEN):
            self._text = self._text[len(OPEN) :].lstrip()
            self._opening = False
        elif not OPEN.startswith(self._text):
            self._opening = False

    def _end(self) -> tuple[int, int]:
        """Where the thoughts end, and the length of the mark there; -1 if they go on."""
        place = self._text.find(CLOSE)
        call = _CALL.search(self._text) if self._calls_end_it else None
        if call is not None and not 0 <= place < call.start():
            return call.start(), 0
        return place, len(CLOSE)

    def _kept(self) -> int:
        """Characters at the end that may become a mark."""
        kept = partial(self._text, (CLOSE, _CALL_MARK) if self._calls_end_it else (CLOSE,))
        call = _CALL_BEGINS.search(self._text) if self._calls_end_it else None
        return max(kept, len(self._text) - call.start()) if call is not None else kept

    def _tell(self, events: list[Event], text: str) -> None:
        if text:
            events.append(Reasoning(text))
            self._begun = True


class Qwen3(Think):
    """Qwen3 and its successors: the model opens its thoughts, or the template does."""


class Glm45(Think):
    """GLM-4.5 and its successors."""


class DeepSeekR1(Think):
    """DeepSeek-R1 and what was made of it: all is thought until the closing mark."""

    always: ClassVar[bool] = True


class MiniMax(Think):
    """MiniMax-M2: its template opens the thoughts."""

    always: ClassVar[bool] = True
