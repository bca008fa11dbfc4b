"""The field of a message request about thoughts, as chat has it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from octavo.errors import RequestError
from octavo.server.body import BodyReader
from octavo.server.fields import Json
from octavo.server.messages.blocks import Strict

SWITCH = "enable_thinking"
"""What chat templates call it."""


class ThinkingField(Strict):
    """Whether the model thinks, how much, and whether the thoughts are told."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = Field(None, ge=1)
    display: Literal["summarized", "omitted"] | None = None

    def check(self, max_tokens: int | None) -> None:
        """Raises RequestError if there can be no such budget in an answer of `max_tokens`."""
        budget = self.budget_tokens
        if (self.type == "enabled") != (budget is not None):
            raise RequestError(
                "thinking.budget_tokens goes with the type enabled, and with no other", param="thinking.budget_tokens"
            )
        if budget is not None and max_tokens and budget >= max_tokens:
            raise RequestError(
                f"thinking.budget_tokens is {budget}, which leaves nothing of max_tokens ({max_tokens}) for the answer",
                param="thinking.budget_tokens",
            )


def thinking_of_chat(field: ThinkingField | None, reader: BodyReader) -> Json:
    """Fields of chat: a client that does not ask for thoughts expects none, unless the server's settings say otherwise."""
    template = reader.chat_template
    known = template is not None and SWITCH in template.variables
    if field is None:
        settled = template is not None and SWITCH in template.default_names
        return {"chat_template_kwargs": {SWITCH: False}} if known and not settled else {}
    if field.type != "disabled":
        switch = {"chat_template_kwargs": {SWITCH: True}} if known else {}
        return {**switch, "thinking_token_budget": field.budget_tokens}
    if known:
        return {"chat_template_kwargs": {SWITCH: False}}
    # A model that cannot be told so is made to end its thoughts at once.
    return {"thinking_token_budget": 0} if reader.forms.reasoning is not None else {}
