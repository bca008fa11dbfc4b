"""The body of POST /v1/responses: it becomes a request to chat, which does all the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, WithJsonSchema

from octavo.errors import RequestError
from octavo.server.body import BodyReader
from octavo.server.call import Call
from octavo.server.chat_request import ChatRequest
from octavo.server.fields import Int64, Json, SamplingFields
from octavo.server.json_pieces import encode
from octavo.server.responses.input_items import ITEMS_SCHEMA, Conversation
from octavo.server.responses.names import RESPONSE_NAMES
from octavo.server.responses.options import (
    Choice,
    FunctionTools,
    ReasoningOption,
    StreamOption,
    TextOption,
    choice_of_chat,
    is_enforced,
)
from octavo.server.unserved import REFUSED, Refusal

LOGPROBS, SEALED = "message.output_text.logprobs", "reasoning.encrypted_content"
INCLUDED = (LOGPROBS, SEALED)
"""What a response may be asked to tell; thoughts are always sealed."""

_STATELESS = "nothing is kept; send the earlier items in input"
_FORM = "use text.format or structured_outputs"
_ONE = "a response is one answer; send the request again, or use chat"
_REFUSED: Mapping[str, Refusal] = {
    "previous_response_id": ((None,), _STATELESS),
    "conversation": ((None,), _STATELESS),
    "background": ((None, False), "nothing is kept; leave it out, and stream"),
    "background_options": ((None,), "nothing is kept; leave it out, and stream"),
    "truncation": ((None, "disabled"), "input is never cut; send a shorter one, and truncation disabled"),
    "context_management": ((None, []), "input is never cut; send a shorter one"),
    "prompt": ((None,), "there are no prompt templates here; put what it says into instructions and input"),
    "max_tool_calls": ((None,), "it bounds tools that the server runs, and there are none; see parallel_tool_calls"),
    "moderation": ((None,), "answers are not moderated"),
    "image": ((None,), "prompts and answers are text"),
    "access_programs": ((None,), "there are none"),
    "messages": ((None,), "use input"),
    "max_tokens": ((None,), "use max_output_tokens"),
    "max_completion_tokens": ((None,), "use max_output_tokens"),
    "n": ((None, 1), _ONE),
    "best_of": ((None, 1), _ONE),
    "logprobs": ((None, False), f'use include: ["{LOGPROBS}"] and top_logprobs'),
    "prompt_logprobs": ((None,), "use completions or chat"),
    "return_token_ids": ((None, False), "use completions or chat"),
    "echo": ((None, False), "use completions"),
    "add_special_tokens": ((None, False), "the chat template has them"),
    "add_generation_prompt": ((None, True), "use chat"),
    "continue_final_message": ((None, False), "use chat"),
    "reasoning_effort": ((None,), 'use reasoning: {"effort": ...}'),
    "include_reasoning": ((None, True), "thoughts are items of their own; pass over them"),
    "verbosity": ((None, "medium"), "say in the input how long the answer is to be; max_output_tokens bounds it"),
    "response_format": ((None,), "use text.format"),
    **{f"guided_{kind}": ((None, []), _FORM) for kind in ("json", "regex", "choice", "grammar")},
    "structural_tag": ((None,), _FORM),
}

Label = Annotated[str, Field(max_length=512)]
"""A text that a response tells again."""
Metadata = Annotated[dict[Annotated[str, Field(max_length=64)], Label], Field(max_length=16)]


class ResponseFields(SamplingFields):
    """Fields by the names that they have on chat, too."""

    parallel_tool_calls: bool = True
    top_logprobs: Int64 | None = None
    structured_outputs: Json | None = None
    chat_template_kwargs: Json | None = None
    thinking_token_budget: int | None = None


class ResponseRequest(ResponseFields):
    """Answer a conversation, in items."""

    refused: ClassVar[Mapping[str, Refusal]] = {
        **{name: refusal for name, refusal in REFUSED.items() if name not in ("reasoning", "tools", "tool_choice")},
        **_REFUSED,
    }

    input: Annotated[Any, WithJsonSchema(ITEMS_SCHEMA)]
    instructions: str | None = None
    max_output_tokens: int | None = None
    tools: FunctionTools | None = None
    tool_choice: Choice | None = None
    reasoning: ReasoningOption | None = None
    text: TextOption | None = None
    include: Annotated[list[str], Field(max_length=16)] | None = None
    stream_options: StreamOption | None = None
    metadata: Metadata | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    service_tier: Label | None = None
    store: bool | None = Field(default=None, description="Nothing is kept, whatever it says; the response says so")

    def prepare(self, reader: BodyReader) -> Call[ResponseOptions]:
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream to be true", param="stream_options")
        for name in self.include or []:
            if name not in INCLUDED:
                raise RequestError(f"include has {name!r:.80}, but may have {' and '.join(INCLUDED)}", param="include")
        talk = Conversation(self.input, self.instructions)
        with RESPONSE_NAMES.renaming(talk.origins):
            call = self._chat(talk).prepare(reader)
        options = ResponseOptions(model=self.model, stream=bool(self.stream), told=self._told(call))
        return Call(options, call.prompts, call.samplings, call.reading)

    def _chat(self, talk: Conversation) -> ChatRequest:
        """The same request in the words of chat.

        Raises:
            RequestError, ValidationError: it cannot be said so.
        """
        fields = {name: value for name in ResponseFields.model_fields if (value := getattr(self, name)) is not None}
        if self._tells_logprobs:
            fields["logprobs"] = True
        if self.text is not None and self.text.format is not None:
            fields["response_format"] = self.text.format.of_chat()
        return ChatRequest.model_validate(
            {
                **fields,
                "messages": talk.messages,
                "max_completion_tokens": self.max_output_tokens,
                "tools": [tool.of_chat(f"tools[{number}]") for number, tool in enumerate(self.tools or [])],
                "tool_choice": choice_of_chat(self.tool_choice),
                "reasoning_effort": self.reasoning.effort if self.reasoning is not None else None,
            }
        )

    @property
    def _tells_logprobs(self) -> bool:
        return LOGPROBS in (self.include or []) or bool(self.top_logprobs)

    def _told(self, call: Call[ChatRequest]) -> bytes:
        """The fields that a response tells again, as the JSON of an object."""
        enforced = is_enforced(self.tool_choice)
        sampling = call.samplings[0]
        return encode(
            {
                "background": False,
                "conversation": None,
                "instructions": self.instructions,
                "max_output_tokens": self.max_output_tokens,
                "max_tool_calls": None,
                "metadata": self.metadata or {},
                "parallel_tool_calls": self.parallel_tool_calls,
                "previous_response_id": None,
                "prompt_cache_key": self.prompt_cache_key,
                "reasoning": (self.reasoning or ReasoningOption()).shown(),
                "safety_identifier": self.safety_identifier,
                "service_tier": "default",
                "store": False,
                "temperature": sampling.temperature,
                "text": (self.text or TextOption()).shown(),
                "tool_choice": self.tool_choice or "auto",
                "tools": [tool.shown(enforced=enforced) for tool in self.tools or []],
                "top_logprobs": self.top_logprobs or 0,
                "top_p": sampling.top_p,
                "truncation": "disabled",
                "user": self.user,
            }
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ResponseOptions:
    """What of a request its response is written by."""

    model: str | None
    stream: bool
    told: bytes
    """The fields of the request that a response tells again, as the JSON of an object."""
