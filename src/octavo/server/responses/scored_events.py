"""The events of an answer, each with the scores of the tokens that its text was made of."""

from __future__ import annotations

from collections.abc import Iterator

from octavo.answers import Part
from octavo.answers.parsers import Content, Event, Reasoning, Think, joined
from octavo.messages import TokenScore


class ScoredEvents:
    """Finds the tokens of each content of one answer, part by part: the same ones in however many parts it comes, for
    parsers read token by token. Tokens of marks, thoughts and calls, and those behind all text, belong to none.

    Args:
        splits: a parser makes the events; else all text is content.
    """

    def __init__(self, *, splits: bool) -> None:
        self._splits = splits
        self._untold: list[tuple[str, TokenScore | None]] = []
        """Texts and scores of tokens of which an event may still tell."""
        self._last: type[Event] | None = None
        """The kind of the last event."""

    def take(self, part: Part, *, last: bool) -> Iterator[tuple[Event, list[TokenScore]]]:
        """The events of `part`, each with its scores; `last`: no part comes after it."""
        told, events = 0, 0
        for (characters, num_events), score in zip(part.steps, part.scores, strict=True):
            text, told = part.text[told:characters], characters
            self._untold.append((text, score))
            yield from self._scored(self._events(part, events, num_events, text))
            events = num_events
        if last:
            rest = part.text[told:]
            self._untold.append((rest, None))
            yield from self._scored(self._events(part, events, None, rest))

    def _events(self, part: Part, begin: int, end: int | None, text: str) -> list[Event]:
        if self._splits:
            return part.events[begin:end]
        return [Content(text)] if text else []

    def _scored(self, events: list[Event]) -> Iterator[tuple[Event, list[TokenScore]]]:
        for event in joined(events):
            match event:
                case Content(text):
                    yield event, self._pop(text, follows=self._follows(event), scored=True)
                case Reasoning(text):
                    yield event, self._pop(text, follows=self._follows(event), scored=False)
                case _:
                    del self._untold[:-1]
                    yield event, []
            self._last = type(event)

    def _follows(self, event: Event) -> bool:
        """Nothing but what parsers hold back is between what was told before `event` and its own text: no mark."""
        if self._last is not None:
            return self._last is type(event)
        text = "".join(text for text, _ in self._untold)
        return not text.lstrip().startswith(Think.marks)

    def _pop(self, told: str, *, follows: bool, scored: bool) -> list[TokenScore]:
        """Drop the tokens of `told`, with which the untold text begins, or else ends but for what is held back.

        `scored`: their scores are returned, and belong to no other text.
        """
        text = "".join(text for text, _ in self._untold)
        begin = 0 if follows and text.startswith(told) else max(text.rfind(told), 0)
        end = begin + len(told)
        scores: list[TokenScore] = []
        rest: list[tuple[str, TokenScore | None]] = []
        at = 0
        for text, score in self._untold:
            first, at = at, at + len(text)
            if first >= end:
                rest.append((text, score))
                continue
            if scored and score is not None and (at > begin or first == begin):
                scores.append(score)
            if at > end:
                rest.append((text[end - first :], None if scored else score))
        self._untold = rest
        return scores
