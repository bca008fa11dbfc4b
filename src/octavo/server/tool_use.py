"""What a chat request wants of its tools, and the grammar that follows from that, from its thoughts and from its form."""

from __future__ import annotations

import dataclasses

from octavo.answers import AnswerForms, Reading, Tool
from octavo.answers.parsers import Start, enforced_form
from octavo.answers.parsers.call_form import CallForm
from octavo.answers.structure import ANY_TEXT, Part, after_thoughts, as_structure, calls, either, form_of
from octavo.errors import RequestError
from octavo.server.tool_fields import NamedToolChoice, ToolChoice
from octavo.structured_outputs import StructuredOutputsParams
from octavo.text import Tokenizer

MAX_BUDGET = 2**31 - 1
"""Tokens; more than any model reads."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ToolUse:
    """Which tools may be called, and how."""

    tools: tuple[Tool, ...] = ()
    form: type[CallForm] | None = None
    """How calls are written; None: there are none."""
    enforced: bool = False
    """There is at least one call, and nothing else."""
    only_one: bool = False

    @classmethod
    def asked(
        cls, choice: ToolChoice | None, tools: tuple[Tool, ...], forms: AnswerForms, *, parallel: bool
    ) -> ToolUse:
        """What `choice` asks of `tools`.

        Raises:
            RequestError: the server was told, or does not know how, to leave calls to this model.
        """
        if not tools or choice == "none":
            return cls()
        if isinstance(choice, NamedToolChoice):
            named = tuple(tool for tool in tools if tool.name == choice.function.name)
            return cls(tools=named, form=enforced_form(forms.calls), enforced=True, only_one=True)
        if choice == "required":
            return cls(tools=tools, form=enforced_form(forms.calls), enforced=True, only_one=not parallel)
        if not forms.automatic:
            raise RequestError(
                "tool_choice auto needs --enable-auto-tool-choice; none, required or a name go without",
                param="tool_choice",
            )
        if forms.calls is None:
            raise RequestError(
                "the chat template does not show how this model calls tools: name it with --tool-call-parser",
                param="tools",
            )
        return cls(tools=tools, form=forms.calls, only_one=not parallel)

    def beside_a_form(self) -> ToolUse:
        """The same where a grammar spells the calls."""
        return self if self.form is None else dataclasses.replace(self, form=enforced_form(self.form))

    def reading(self, forms: AnswerForms, start: Start) -> Reading:
        """How answers are read."""
        return Reading(
            reasoning=forms.reasoning,
            start=start,
            form=self.form,
            tools=self.tools,
            enforced=self.enforced,
            most_calls=1 if self.only_one else None,
        )

    def calls(self) -> Part:
        """The calls, as a grammar spells them."""
        assert self.form is not None
        return calls(self.form, self.tools, only_one=self.only_one)


def checked_budget(budget: int | None, forms: AnswerForms) -> int | None:
    """Most tokens of the thoughts; None if they have no bound.

    Raises:
        RequestError: there can be no such bound.
    """
    if budget is None or budget == -1:
        return None
    if budget < 0:
        raise RequestError(
            f"thinking_token_budget must be at least 0, or -1, got {budget}", param="thinking_token_budget"
        )
    if forms.reasoning is None:
        raise RequestError(
            "thinking_token_budget needs to know how the model marks its thoughts: name it with --reasoning-parser",
            param="thinking_token_budget",
        )
    return min(budget, MAX_BUDGET)


def check_marks(reading: Reading, tokenizer: Tokenizer, field: str) -> None:
    """Raises RequestError if the model cannot write its marks under a grammar, of which special tokens are no part."""
    if reading.start is not Start.CLOSED and dataclasses.replace(reading, form=None).shown_ids(tokenizer):
        raise RequestError(
            f"{field} cannot be had with thoughts: this model marks them by special tokens, which are no part of a "
            "grammar; reasoning_effort none leaves them out, if the chat template knows it",
            param=field,
        )


def structure_of(
    use: ToolUse, forms: AnswerForms, start: Start, asked: StructuredOutputsParams | None, budget: int | None
) -> StructuredOutputsParams | None:
    """The grammar of the answers; None if they may be anything.

    A `response_format` is the form of what is said: where calls are enforced nothing is said, and it holds of nothing, as with OpenAI.

    Args:
        use: which calls are enforced, or may stand instead of the form.
        start: what the prompt says of the thoughts, which come before all that.
        asked: the form that the client asks for.
        budget: most tokens of the thoughts.

    Raises:
        RequestError: a form and a call cannot both be had.
    """
    if use.enforced:
        if asked is not None and asked.asked_as != "response_format":
            raise RequestError(
                f"{asked.asked_as} and an enforced call exclude each other: leave tool_choice to auto",
                param=asked.asked_as,
            )
        rest, field = use.calls(), "tools"
    elif asked is not None:
        if use.form is None and (forms.reasoning is None or start is Start.CLOSED):
            return asked
        rest, field = form_of(asked), asked.asked_as
        if use.form is not None:
            rest = either(rest, use.calls())
    elif budget is not None and start is not Start.CLOSED:
        rest, field = ANY_TEXT, "thinking_token_budget"
    else:
        return None
    return as_structure(after_thoughts(forms.reasoning, start, rest, budget), field)
