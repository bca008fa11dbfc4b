"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from octavo.errors import RequestError
from octavo.sampling import SamplingParams
from octavo.server.fields import GenerationFields, Int64, Json
from octavo.text.generation_config import DefaultSampling


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
            RequestError: it calls tools.
        """
        extra = self.model_extra or {}
        if extra.get("tool_calls") or extra.get("function_call"):
            raise RequestError(f"{where}.tool_calls: tool calls are not supported yet", param="messages")
        parts = [part.model_dump() for part in self.content] if isinstance(self.content, list) else self.content
        return {**extra, "role": self.role, "content": parts}


class ChatFields(BaseModel):
    """What makes a prompt out of messages."""

    messages: list[Message] = Field(min_length=1)
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: Json | None = None

    def plain_messages(self) -> list[Json]:
        """Raises RequestError as `Message.plain`."""
        return [message.plain(f"messages.{number}") for number, message in enumerate(self.messages)]


class ChatRequest(ChatFields, GenerationFields):
    """Answer a conversation."""

    prompt_field: ClassVar[str] = "messages"

    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Int64 | None = None
    echo: bool = False
    add_special_tokens: bool = False

    @property
    def answer_tokens(self) -> tuple[str, int | None]:
        """The name and value of the field that bounds the answer."""
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return "max_tokens", self.max_tokens

    def to_sampling(self, defaults: DefaultSampling) -> SamplingParams:
        """Raises as `GenerationFields.sampling`."""
        if self.echo:
            raise RequestError("echo is not supported on chat; continue_final_message may be meant", param="echo")
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
        name, most = self.answer_tokens
        if most is not None and most < 1:
            raise RequestError(f"{name} must be at least 1, got {most}", param=name)
        own: dict[str, Any] = {"max_tokens": most, "prompt_logprobs": self.prompt_logprobs}
        if self.logprobs:
            own["logprobs"] = self.top_logprobs or 0
        return self.sampling(defaults, **own)
