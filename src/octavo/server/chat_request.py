"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from octavo.answers import Prompt, Reading
from octavo.answers.parsers import Start
from octavo.errors import RequestError
from octavo.sampling import SamplingParams
from octavo.server.body import Body, BodyReader
from octavo.server.call import Call, bounded, tokenize
from octavo.server.field_names import FieldNames
from octavo.server.fields import GenerationFields, Int64, Json
from octavo.server.tool_fields import ToolChoice, Tools, checked_choice, checked_tools
from octavo.server.tool_use import ToolUse, check_marks, checked_budget, structure_of

MAX_MESSAGES = 1 << 18
"""Each takes several tokens: no model here reads more."""

_CALLED = {"prompt": "messages", "logprobs": "top_logprobs"}
NAMES = FieldNames(leading=_CALLED)
"""What chat calls the fields that it shares with completions."""
NEWER_NAMES = FieldNames(leading={**_CALLED, "max_tokens": "max_completion_tokens"})

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
    """The fields of which a prompt is made from messages."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: Json | None = None
    reasoning_effort: Effort | None = None
    tools: Tools | None = None
    documents: Annotated[list[Json], Field(max_length=MAX_MESSAGES)] | None = None

    def render(self, reader: BodyReader, *, add_special_tokens: bool, cut: bool = False) -> Prompt:
        """The prompt that the model's template makes of the messages; with `cut` it may be longer than fits.

        Raises:
            RequestError: the template refuses the messages, the tools or the documents, or there is none; or they cannot fit.
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
            documents=self.documents,
        )
        ids = tokenize(reader, text, add_special_tokens=add_special_tokens, param="messages", cut=cut)
        return Prompt(0, ids, text)

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
    cut_to_room: ClassVar[bool] = False
    """An answer may have what fits where more is asked for; else that is refused."""
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
        names = NAMES if self.max_completion_tokens is None else NEWER_NAMES
        with names.renaming():
            return self._prepared(reader)

    def _prepared(self, reader: BodyReader) -> Call[ChatRequest]:
        self.check_combinations()
        use = self._tool_use(reader)
        budget = checked_budget(self.thinking_token_budget, reader.forms)
        sampling = self._sampling(reader)
        cut = self.truncate_prompt_tokens is not None
        whole = self.render(reader, add_special_tokens=self.add_special_tokens, cut=cut)
        prompt = self.prompt_of(reader, 0, whole.token_ids, whole.text, self._answer_tokens[1])
        start = self._thoughts(reader, prompt.text or "")
        asked = sampling.structured_outputs
        if asked is not None:
            use = use.beside_a_form()
        structure = structure_of(use, reader.forms, start, asked, budget)
        if structure is not None and structure is not asked:
            check_marks(use.reading(reader.forms, start), reader.tokenizer, structure.asked_as)
            sampling = sampling.replace(structured_outputs=structure)
        samplings = [bounded(reader, sampling, prompt, self._answer_tokens, cut=self.cut_to_room)]
        self._reading = use.reading(reader.forms, start)
        if not self.add_generation_prompt:
            self._continued_role = self.messages[-1].role
        self.settle()
        return Call(self, [prompt], samplings, self._reading).checked(reader.engine_config)

    def _tool_use(self, reader: BodyReader) -> ToolUse:
        """Raises RequestError if the tools, or what is asked of them, cannot be served."""
        tools = checked_tools(self.tools or [])
        checked_choice(self.tool_choice, tools)
        return ToolUse.asked(self.tool_choice, tools, reader.forms, parallel=self.parallel_tool_calls)

    def _shown_tools(self, reader: BodyReader) -> Tools:
        return [] if self.tool_choice == "none" and reader.forms.hide_unwanted else self.tools or []

    def _thoughts(self, reader: BodyReader, prompt: str) -> Start:
        """What the prompt says of the thoughts."""
        last = self.messages[-1].content
        if self.continue_final_message:
            return Start.within(last if isinstance(last, str) else "")
        start, template = Start.after(prompt), reader.chat_template
        if start is Start.UNSAID and self.add_generation_prompt and template is not None:
            # Where a template opens the thoughts that are asked for, a prompt that says nothing asks for none.
            return Start.CLOSED if Start.after(template.asking_for_thoughts) is Start.OPENED else start
        return start

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
        if self.logprob_token_ids is not None and not self.logprobs:
            raise RequestError("logprob_token_ids needs logprobs to be true", param="logprob_token_ids")
        name, most = self._answer_tokens
        if most is not None and most < 1:
            raise RequestError(f"{name} must be at least 1, got {most}", param=name)
        own: dict[str, Any] = {"max_tokens": most, "prompt_logprobs": self.prompt_logprobs}
        if self.logprobs:
            own["logprobs"] = self.top_logprobs or 0
        return self.sampling(reader, **own)
