"""Turns messages of blocks into those that chat templates read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from octavo.errors import RequestError
from octavo.server.fields import Json
from octavo.server.messages.blocks import (
    Block,
    Content,
    RedactedThinkingBlock,
    Strict,
    TextBlock,
    Texts,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)

LONGEST_ID = 100
"""Characters of an id that an error shows."""


class MessageField(Strict):
    """One turn."""

    role: Literal["user", "assistant", "system"]
    content: Content = Field(description="A text, or blocks")


@dataclasses.dataclass(slots=True)
class Turn:
    """A message of chat in the making."""

    role: str
    where: str
    """By which an error names it."""
    texts: list[str] = dataclasses.field(default_factory=list)
    thoughts: list[str] = dataclasses.field(default_factory=list)
    calls: list[Json] = dataclasses.field(default_factory=list)
    answers: str | None = None
    """The id of the call whose result it is."""

    def as_chat(self) -> Json:
        """As messages of chat are: a user's and a tool's texts are parts, a model's are one."""
        message: Json = {"role": self.role, "content": "".join(self.texts)}
        if self.role != "assistant" and len(self.texts) > 1:
            message["content"] = [{"type": "text", "text": text} for text in self.texts]
        if self.thoughts:
            message["reasoning_content"] = "\n".join(self.thoughts)
        if self.calls:
            message["tool_calls"] = self.calls
        if self.answers is not None:
            message["tool_call_id"] = self.answers
        return message


class Conversation:
    """Turns of one role that follow each other become one.

    Args:
        later_systems: the chat template takes messages of the system after others; else a user's text says what they do.
    """

    def __init__(self, *, later_systems: bool) -> None:
        self.turns: list[Turn] = []
        self._later_systems = later_systems
        self._calls: set[str] = set()
        """Ids so far."""

    @property
    def continues(self) -> bool:
        """The answer goes on with the last turn."""
        return bool(self.turns) and self.turns[-1].role == "assistant"

    def add_system(self, system: Texts) -> None:
        """The instructions before all turns."""
        self.turns.append(Turn("system", "system", _texts(system)))

    def add(self, message: MessageField, where: str) -> None:
        """One message, `where` it is.

        Raises:
            RequestError: it has a block that its role cannot have, or a result of no call.
        """
        later = message.role == "system" and any(turn.role != "system" for turn in self.turns)
        if later and not self._later_systems:
            texts = [_text_of(block, place) for block, place in _places(message.content, where)]
            self._turn("user", where).texts += ["<system>", *texts, "</system>"]
            return
        add = {"user": self._add_to_user, "assistant": self._add_to_assistant, "system": self._add_to_system}
        turn = self._turn(message.role, where)
        for block, place in _places(message.content, where):
            turn = add[message.role](turn, block, place)

    def check_end(self) -> None:
        """Raises RequestError if the last turn is one that no answer can go on with."""
        if self.continues and self.turns[-1].calls:
            where = self.turns[-1].where
            raise RequestError(
                f"{where}.content: a tool_use without its tool_result; send the result in the next message", param=where
            )

    def _turn(self, role: str, where: str) -> Turn:
        """The turn that goes on, or a new one."""
        if not self.turns or self.turns[-1].role != role:
            self.turns.append(Turn(role, where))
        return self.turns[-1]

    def _add_to_system(self, turn: Turn, block: Block, where: str) -> Turn:
        turn.texts.append(_text_of(block, where))
        return turn

    def _add_to_user(self, turn: Turn, block: Block, where: str) -> Turn:
        """A text, or a result, which is a turn of its own."""
        if not isinstance(block, ToolResultBlock):
            turn = self._turn("user", where)
            turn.texts.append(_text_of(block, where))
            return turn
        if block.tool_use_id not in self._calls:
            raise RequestError(
                f"{where}.tool_use_id: {block.tool_use_id[:LONGEST_ID]!r} is the id of no tool_use in the messages before",
                param=where,
            )
        if not turn.texts and turn.role == "user":
            self.turns.pop()  # nothing but results so far
        texts = _texts(block.content or "")
        if block.is_error:  # no template reads the flag
            texts[:1] = [f"Error: {texts[0]}" if texts and texts[0] else "Error"]
        self.turns.append(Turn("tool", where, texts, answers=block.tool_use_id))
        return self.turns[-1]

    def _add_to_assistant(self, turn: Turn, block: Block, where: str) -> Turn:
        """What the model wrote: thoughts, text or a call."""
        if isinstance(block, ThinkingBlock):
            turn.thoughts += [block.thinking] if block.thinking else []
        elif isinstance(block, ToolUseBlock):
            turn.calls.append(self._call(block, where))
        elif not isinstance(block, RedactedThinkingBlock):
            turn.texts.append(_text_of(block, where))
        return turn

    def _call(self, block: ToolUseBlock, where: str) -> Json:
        if block.id in self._calls:
            raise RequestError(f"{where}.id: {block.id[:LONGEST_ID]!r} is there twice", param=where)
        self._calls.add(block.id)
        return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}


def _places(content: Content, where: str) -> Iterator[tuple[Any, str]]:
    """Blocks, and where each is."""
    if isinstance(content, str):
        yield TextBlock(type="text", text=content), where
        return
    for number, block in enumerate(content):
        yield block, f"{where}.content.{number}"


def _text_of(block: Block, where: str) -> str:
    """The text of a block that stands where only texts may.

    Raises:
        RequestError: it has none.
    """
    if isinstance(block, TextBlock):
        return block.text
    roles = "user messages" if isinstance(block, ToolResultBlock) else "assistant messages"
    raise RequestError(f"{where}: a {block.type} block can only be in {roles}", param=where)


def _texts(content: Texts) -> list[str]:
    return [content] if isinstance(content, str) else [block.text for block in content]
