"""How the served model marks what its answers are made of: chosen once, by the settings or by its chat template."""

from __future__ import annotations

import dataclasses

from octavo.answers.parsers import CALL_FORMS, REASONING, Think, form_for, reasoning_for
from octavo.answers.parsers.call_form import CallForm
from octavo.config import Settings


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AnswerForms:
    """Plain data, which any process can be sent."""

    reasoning: type[Think] | None = None
    """None: thoughts stay in the content."""
    calls: type[CallForm] | None = None
    """None: the model calls no tools of its own accord."""
    automatic: bool = True
    """The model may choose whether to call."""
    hide_unwanted: bool = False
    """Tools that are not to be called are kept out of the prompt."""

    @classmethod
    def chosen(cls, settings: Settings, template: str | None) -> AnswerForms:
        """What `settings` say; where they say auto, what the text of the chat template shows."""
        call_name, reasoning_name = settings.tool_call_parser, settings.reasoning_parser
        if call_name == "auto":
            call_name = form_for(template or "") or "none"
        if reasoning_name == "auto":
            reasoning_name = reasoning_for(template or "") or "none"
        return cls(
            reasoning=REASONING.get(reasoning_name),
            calls=CALL_FORMS.get(call_name),
            automatic=settings.enable_auto_tool_choice,
            hide_unwanted=settings.exclude_tools_when_tool_choice_none,
        )
