"""How the texts of a call's answers are read: which channels they are split into, and by which parsers."""

from __future__ import annotations

import dataclasses

from octavo.answers.parsers import AnswerParser, EnforcedCallParser, Start, Think, ToolCallParser
from octavo.answers.parsers.call_form import CallForm
from octavo.answers.tool import Tool, ToolSet
from octavo.text import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Plain data, which any process can be sent."""

    reasoning: type[Think] | None = None
    """What splits off the thoughts, if anything does."""
    start: Start = Start.UNSAID
    """What the prompt says of them."""
    form: type[CallForm] | None = None
    """How calls are written; None: text that looks like one is content."""
    tools: tuple[Tool, ...] = ()
    enforced: bool = False
    """A grammar lets nothing but calls come after the thoughts."""
    most_calls: int | None = None
    """An answer ends with its last allowed call."""

    @property
    def splits(self) -> bool:
        """Answers have more than one channel."""
        return self.reasoning is not None or self.form is not None

    def parser(self) -> AnswerParser:
        """What reads one answer."""
        calls = self.form is not None and not self.enforced
        return AnswerParser(
            self.reasoning(self.start, calls_end_it=calls) if self.reasoning is not None else None,
            self._call_parser(),
        )

    def _call_parser(self) -> ToolCallParser | EnforcedCallParser | None:
        if self.form is None:
            return None
        in_json = self.form.text is not None and self.form.text.style == "json"
        kind = EnforcedCallParser if self.enforced and in_json else ToolCallParser
        return kind(self.form, ToolSet(self.tools), self.most_calls)

    def shown_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Special tokens that are marks: the parsers must see them, though readers of the answer do not."""
        marks = set(self.reasoning.marks) if self.reasoning is not None else set()
        if self.form is not None:
            marks.update(self.form.marks, self.form.first_marks, self.form.other_marks)
        return frozenset(id_ for id_ in tokenizer.special_ids if tokenizer.piece(id_).decode(errors="replace") in marks)
