"""The bodies of POST /v1/messages and POST /v1/messages/count_tokens, which become requests of chat."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from octavo.errors import RequestError
from octavo.server.body import Body, BodyReader
from octavo.server.call import Call
from octavo.server.chat_request import MAX_MESSAGES, ChatRequest
from octavo.server.fields import Json
from octavo.server.messages.blocks import CacheControl, Strict, Texts
from octavo.server.messages.conversation import Conversation, MessageField
from octavo.server.messages.names import MESSAGE_NAMES
from octavo.server.messages.thinking import ThinkingField, thinking_of_chat
from octavo.server.messages.tools import ToolChoiceField, Tools
from octavo.server.messages.unserved import REFUSED, check_edits
from octavo.server.tool_fields import checked_tools
from octavo.server.unserved import Refusal


class MetadataField(Strict):
    """Who asks; nothing here reads it."""

    user_id: str | None = None


class OutputFormat(Strict):
    """The form of the answer."""

    type: Literal["json_schema"]
    schema_: Json = Field(alias="schema")


class OutputConfig(Strict):
    """How the model is to answer."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class MessagesChat(ChatRequest):
    """A request of chat whose answer may have what fits, if `max_tokens` is more."""

    cut_to_room: ClassVar[bool] = True


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MessageOptions:
    """What of a request its message is written by."""

    model: str | None
    max_tokens: int
    """None are made where it is 0: the prompt is to be in the prefix cache."""
    stream: bool
    tells_thinking: bool


class MessageFields(Body):
    """The fields of which a prompt is made."""

    refused: ClassVar[Mapping[str, Refusal]] = REFUSED

    messages: Annotated[list[MessageField], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    system: Texts | None = None
    tools: Tools | None = None
    tool_choice: ToolChoiceField | None = None
    thinking: ThinkingField | None = None
    output_config: OutputConfig = OutputConfig()
    cache_control: CacheControl | None = None
    context_management: Json | None = None
    max_tokens: int | None = None
    stop_sequences: list[str] | None = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    metadata: MetadataField | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    @contextlib.contextmanager
    def as_chat(self, reader: BodyReader) -> Iterator[MessagesChat]:
        """Yields the same request to chat; errors about that name what is here meanwhile.

        Raises:
            RequestError: something in it cannot be served.
        """
        self._check()
        template = reader.chat_template
        conversation = Conversation(later_systems=template is not None and template.shows_later_systems)
        if self.system is not None:
            conversation.add_system(self.system)
        for number, message in enumerate(self.messages):
            conversation.add(message, f"messages.{number}")
        conversation.check_end()
        turns = conversation.turns
        fields = {
            "model": self.model,
            "messages": [turn.as_chat() for turn in turns],
            "continue_final_message": conversation.continues,
            "add_generation_prompt": not conversation.continues,
            "stop": self.stop_sequences,
            "max_tokens": 1 if self.max_tokens == 0 else self.max_tokens,
            "stream": self.stream,
            **{name: getattr(self, name) for name in ("temperature", "top_p", "top_k")},
            **self._tool_fields(),
            **self._output_fields(reader),
        }
        with MESSAGE_NAMES.renaming([turn.where for turn in turns]):
            yield MessagesChat.model_validate(fields)

    def _check(self) -> None:
        """Refuse what makes no sense together.

        Raises:
            RequestError: `param` names the field.
        """
        check_edits(self.context_management)
        choice = self.tool_choice
        if choice is not None and (choice.type == "tool") != (choice.name is not None):
            raise RequestError("tool_choice.name goes with the type tool, and with no other", param="tool_choice.name")
        if self.thinking is not None:
            self.thinking.check(self.max_tokens)

    def _tool_fields(self) -> Json:
        choice = self.tool_choice or ToolChoiceField(type="auto")
        return {
            "tools": [tool.as_chat() for tool in self.tools or []],
            "tool_choice": choice.as_chat(),
            "parallel_tool_calls": not choice.disable_parallel_tool_use,
        }

    def _output_fields(self, reader: BodyReader) -> Json:
        """Thoughts, effort, and the form of the answer."""
        known = reader.chat_template.variables if reader.chat_template is not None else frozenset()
        fields = thinking_of_chat(self.thinking, reader)
        effort = self.output_config.effort
        if effort is not None and "reasoning_effort" in known:
            fields["chat_template_kwargs"] = {**fields.get("chat_template_kwargs", {}), "reasoning_effort": effort}
        elif effort not in (None, "high"):  # high is what they call the effort of a request that names none
            raise RequestError(
                "output_config.effort is not known to the model's chat template; leave it out, or bound the thoughts "
                "by thinking.budget_tokens",
                param="output_config.effort",
            )
        if self.output_config.format is not None:
            schema = {"schema": self.output_config.format.schema_}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        return fields


class MessagesRequest(MessageFields):
    """Answer a conversation."""

    max_tokens: int = Field(ge=0)

    def prepare(self, reader: BodyReader) -> Call[MessageOptions]:
        with self.as_chat(reader) as chat:
            call = chat.prepare(reader)
        options = MessageOptions(
            model=self.model,
            max_tokens=self.max_tokens,
            stream=self.stream,
            tells_thinking=self.thinking is None or self.thinking.display != "omitted",
        )
        return Call(options, call.prompts, call.samplings, call.reading, only_scores=self.max_tokens == 0)


class CountTokensRequest(MessageFields):
    """Count the tokens of a prompt; takes all fields of a message, of which those of the answer change nothing."""

    def prepare(self, reader: BodyReader) -> int:
        with self.as_chat(reader) as chat:
            checked_tools(chat.tools or [])
            return len(chat.render(reader, add_special_tokens=chat.add_special_tokens).token_ids)
