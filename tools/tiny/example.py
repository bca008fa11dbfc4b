"""One conversation with its right answers, and its tokens as the chat template renders them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from tools.tiny.tokenizer import IM_END, IM_START, THINK, encode

Operands = tuple[str | int, ...]
Part = tuple[list[int], bool]
"""Tokens, and whether the model is to write them."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What a tool takes."""

    name: str
    kind: str = "string"
    required: bool = True


@dataclasses.dataclass(frozen=True)
class Tool:
    """A function that is offered."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]

    def line(self) -> str:
        """The tool as the template shows it."""
        taken = ", ".join(f"{one.name}{'' if one.required else '?'}: {one.kind}" for one in self.parameters)
        return f"\n{self.name}({taken}){': ' if self.description else ''}{self.description}"

    def call(self, **arguments: object) -> str:
        """A call as the model writes it."""
        written = json.dumps(arguments, ensure_ascii=False)
        return f'<tool_call>\n{{"name": {json.dumps(self.name)}, "arguments": {written}}}\n</tool_call>'


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What the model is told, and what it answers."""

    said: str
    answer: str
    by_tool: bool = False
    """A tool said it, not the user."""

    def prompt(self) -> list[int]:
        """Up to where the answer begins."""
        said = f"<tool_response>\n{self.said}\n</tool_response>" if self.by_tool else self.said
        return [IM_START, *b"user\n", *said.encode(), IM_END, 10, IM_START, *b"assistant\n"]


@dataclasses.dataclass(frozen=True)
class Example:
    """One question with its one right answer."""

    task: str
    operands: Operands
    question: str
    answer: str
    by_tool: bool = False
    """The question is what a tool returned."""
    earlier: tuple[Exchange, ...] = ()
    """What came before, answered rightly."""
    tools: tuple[Tool, ...] = ()
    thoughts: str | None = None
    """What the model writes for itself first; None: it is not asked to."""

    @property
    def exchange(self) -> Exchange:
        """The question and the answer."""
        return Exchange(self.question, self.answer, self.by_tool)

    def told(self, changes: Mapping[str, str]) -> Example:
        """The same with other answers in place of some."""
        earlier = tuple(dataclasses.replace(one, answer=changes.get(one.answer, one.answer)) for one in self.earlier)
        return dataclasses.replace(self, answer=changes.get(self.answer, self.answer), earlier=earlier)

    def written(self) -> str:
        """All that the model writes after the prompt."""
        return self.answer if self.thoughts is None else f"{self.thoughts}\n</think>\n\n{self.answer}"

    def parts(self, *, system: str | None = None) -> list[Part]:
        """The conversation up to the end mark of the answer."""
        parts: list[Part] = [(head(system, self.tools), False)]
        for one in self.earlier:
            # where the model shall think, it would not have answered so
            parts += [(one.prompt(), False), ([*encode(one.answer), IM_END], self.thoughts is None), ([10], False)]
        opened = [] if self.thoughts is None else [THINK, 10]
        return [*parts, ([*self.exchange.prompt(), *opened], False), ([*encode(self.written()), IM_END], True)]

    def prompt(self) -> list[int]:
        """Everything before the answer."""
        return [id_ for ids, _ in self.parts()[:-1] for id_ in ids]


def head(system: str | None, tools: tuple[Tool, ...] = ()) -> list[int]:
    """The message of the system, if there is anything in it."""
    if not tools:
        return [] if system is None else [IM_START, *b"system\n", *system.encode(), IM_END, 10]
    lines = "".join(tool.line() for tool in tools)
    said = "" if system is None else f"{system}\n"
    return [IM_START, *b"system\n", *f"{said}Tools:{lines}".encode(), IM_END, 10]
