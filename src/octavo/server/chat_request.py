"""The body of POST /v1/chat/completions."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from octavo.answers import Prompt, Reading, Tool
from octavo.answers.parsers import Start
from octavo.engine.acceptance import checked_prompt
from octavo.errors import RequestError
from octavo.sampling import SamplingParams
from octavo.server.body import Body, BodyReader
from octavo.server.call import Call, bounded, tokenize
from octavo.server.fields import GenerationFields, Int64, Json
from octavo.server.tool_fields import NamedToolChoice, ToolChoice, Tools, checked_choice, checked_tools

MAX_MESSAGES = 1 << 18
"""Each takes several tokens: no model here reads more."""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ContentPart(BaseModel):
    """One part of a message; only text."""

    model_config = ConfigDict(extra="allow")
    type: str
    text: str | None = None


class Message(BaseModel):
    """One turn of the conversation; further fields go to the chat template as they are."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    role: str = Field(min_length=1, max_length=64)
    content: str | list[ContentPart] | None = None

    def plain(self, where: str) -> Json:
        """The message as `ChatTemplate.render` takes it.

        Raises:
            RequestError: it calls a function in the way of old.
        """
        extra = self.model_extra or {}
        if extra.get("function_call"):
            raise RequestError(f"{where}.function_call: use tool_calls", param="messages")
        parts = [part.model_dump() for part in self.content] if isinstance(self.content, list) else self.content
        return {**extra, "role": self.role, "content": parts}


class ChatFields(Body):
    """What makes a prompt out of messages."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: Json | None = None
    reasoning_effort: Effort | None = None
    tools: Tools | None = None

    def render(self, reader: BodyReader, *, add_special_tokens: bool) -> Prompt:
        """The prompt that the model's template makes of the messages.

        Raises:
            RequestError: the template refuses the messages or the tools, or there is none; or they cannot fit.
        """
        template = reader.chat_template
        if template is None:
            raise RequestError(
                "the model has no chat template: give one with --chat-template, or use /v1/completions",
                param="messages",
            )
        text = template.render(
            [message.plain(f"messages.{number}") for number, message in enumerate(self.messages)],
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
            kwargs=self._effort(template.variables) | (self.chat_template_kwargs or {}),
            tools=[tool.shown() for tool in self._shown_tools(reader)],
        )
        return Prompt(0, tokenize(reader, text, add_special_tokens=add_special_tokens, param="messages"), text)

    def _shown_tools(self, reader: BodyReader) -> Tools:
        """Tools that the prompt is to tell of."""
        return self.tools or []

    def _effort(self, variables: frozenset[str]) -> Json:
        """`reasoning_effort` in the words of the template, as vLLM tells it: its level, and whether to think at all."""
        if self.reasoning_effort is None:
            return {}
        told = {"reasoning_effort": self.reasoning_effort, "enable_thinking": self.reasoning_effort != "none"}
        known = {name: value for name, value in told.items() if name in variables}
        if not known:
            raise RequestError(
                "reasoning_effort is not known to the model's chat template; leave it out", param="reasoning_effort"
            )
        return known


class ChatRequest(ChatFields, GenerationFields):
    """Answer a conversation."""

    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Int64 | None = None
    echo: bool = False
    add_special_tokens: bool = False
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    include_reasoning: bool = True
    thinking_token_budget: int | None = None
    _continued_role: str | None = PrivateAttr(None)
    _reading: Reading = PrivateAttr(Reading())

    @property
    def continued_role(self) -> str | None:
        """The role of the last message where the answer goes on with it."""
        return self._continued_role

    @property
    def reading(self) -> Reading:
        """How answers are split into channels."""
        return self._reading

    def prepare(self, reader: BodyReader) -> Call[ChatRequest]:
        self.check_combinations()
        tools = self._checked_tools(reader)
        sampling = self._sampling(reader)
        prompt = self.render(reader, add_special_tokens=self.add_special_tokens)
        prompt = dataclasses.replace(prompt, token_ids=checked_prompt(prompt.token_ids, reader.engine_config))
        samplings = [bounded(reader, sampling, prompt, self._answer_tokens)]
        self._reading = self._read_as(reader, tools, prompt.text or "")
        if not self.add_generation_prompt:
            self._continued_role = self.messages[-1].role
        self.settle()
        self.messages, self.tools = [], None
        return Call.checked(self, [prompt], samplings)

    def _checked_tools(self, reader: BodyReader) -> tuple[Tool, ...]:
        """Raises RequestError if the tools, or what is asked of them, cannot be served."""
        tools = checked_tools(self.tools or [])
        checked_choice(self.tool_choice, tools)
        if self.tool_choice == "required" or isinstance(self.tool_choice, NamedToolChoice):
            raise RequestError("tool_choice can be none or auto for now: no call can be enforced", param="tool_choice")
        if tools and self.tool_choice != "none":
            if not reader.forms.automatic:
                raise RequestError(
                    "tool_choice auto needs --enable-auto-tool-choice; none, required or a name go without",
                    param="tool_choice",
                )
            if reader.forms.calls is None:
                raise RequestError(
                    "the chat template does not show how this model calls tools: name it with --tool-call-parser",
                    param="tools",
                )
        if self.thinking_token_budget not in (None, -1):
            raise RequestError("thinking has no bound of its own yet; use max_tokens", param="thinking_token_budget")
        return tools

    def _shown_tools(self, reader: BodyReader) -> Tools:
        return [] if self.tool_choice == "none" and reader.forms.hide_unwanted else self.tools or []

    def _read_as(self, reader: BodyReader, tools: tuple[Tool, ...], prompt: str) -> Reading:
        last = self.messages[-1]
        start = Start.after(prompt)
        if self.continue_final_message:
            start = Start.within(last.content if isinstance(last.content, str) else "")
        wanted = tools and self.tool_choice != "none"
        return Reading(
            reasoning=reader.forms.reasoning,
            start=start,
            form=reader.forms.calls if wanted else None,
            tools=tools if wanted else (),
            most_calls=None if self.parallel_tool_calls else 1,
        )

    @property
    def _answer_tokens(self) -> tuple[str, int | None]:
        """The name and value of the field that bounds the answer."""
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return "max_tokens", self.max_tokens

    def _sampling(self, reader: BodyReader) -> SamplingParams:
        """Raises as `GenerationFields.sampling`."""
        if self.echo:
            raise RequestError("echo is not supported on chat; continue_final_message may be meant", param="echo")
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
        name, most = self._answer_tokens
        if most is not None and most < 1:
            raise RequestError(f"{name} must be at least 1, got {most}", param=name)
        own: dict[str, Any] = {"max_tokens": most, "prompt_logprobs": self.prompt_logprobs}
        if self.logprobs:
            own["logprobs"] = self.top_logprobs or 0
        return self.sampling(reader, **own)
