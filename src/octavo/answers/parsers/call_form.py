"""How a family of models writes calls of tools: what each form says of itself, and what reads one."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Protocol, TypeAlias

from octavo.answers.tool import ToolSet


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """A call as the model wrote it; `arguments` is the text of a JSON object."""

    name: str
    arguments: str


@dataclasses.dataclass(frozen=True, slots=True)
class Complete:
    """Calls that stand in the first `end` characters after the opening mark."""

    calls: tuple[Call, ...]
    end: int


@dataclasses.dataclass(frozen=True, slots=True)
class Broken:
    """What follows the opening mark is no call: the mark is text, and so is what follows unless it opens another."""


Verdict: TypeAlias = Complete | Broken | None
"""None: more has to come before one can tell."""


class CallReader(Protocol):
    """Reads what follows one opening mark."""

    def read(self, text: str, *, ended: bool) -> Verdict:
        """Look at `text`, all that has followed the mark so far; it grows from call to call. `ended`: no more comes,
        so the verdict is not None."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CallText:
    """How a call of a tool is spelled, for the grammar that enforces one; NAME stands for the tool's name."""

    begin: str
    end: str
    style: str = "json"
    """How arguments stand between the two, in xgrammar's words."""
    separator: str = ""
    """Between two calls."""


class CallForm(Protocol):
    """One way to write calls."""

    marks: ClassVar[tuple[str, ...]]
    """Texts that open a call wherever they stand."""
    first_marks: ClassVar[tuple[str, ...]]
    """Texts that open a call where nothing but calls stands before them."""
    other_marks: ClassVar[tuple[str, ...]]
    """Further texts that are read inside of calls, and may be special tokens."""
    between: ClassVar[str]
    """Characters, besides white space, that stand between two calls and say nothing."""
    short_ids: ClassVar[bool]
    """Ids of calls are nine letters or digits."""
    text: ClassVar[CallText | None]
    """None: enforced calls are spelled as Hermes does."""
    traits: ClassVar[tuple[str, ...]]
    """Texts of which one stands in the chat template of a model that writes so."""

    @staticmethod
    def reader(mark: str, tools: ToolSet) -> CallReader:
        """What reads the text after `mark`."""
        ...
