"""`<minimax:tool_call><invoke name="NAME"><parameter name="KEY">TEXT</parameter></invoke></minimax:tool_call>`."""

from __future__ import annotations

from typing import ClassVar

from octavo.answers.parsers.call_form import CallReader, CallText
from octavo.answers.parsers.tagged import TaggedReader, Tags
from octavo.answers.tool import ToolSet

OPEN, HEAD = "<minimax:tool_call>", '<invoke name="'
TAGS = Tags(
    head=HEAD,
    name_end='">',
    key='<parameter name="',
    key_end='">',
    value_end="</parameter>",
    end="</invoke>",
    close="</minimax:tool_call>",
)


class MiniMaxM2:
    """The form of MiniMax-M2: several calls may stand between one pair of outer marks."""

    marks: ClassVar[tuple[str, ...]] = (OPEN, HEAD)
    first_marks: ClassVar[tuple[str, ...]] = ()
    other_marks: ClassVar[tuple[str, ...]] = (TAGS.close,)
    between: ClassVar[str] = ""
    short_ids: ClassVar[bool] = False
    text: ClassVar[CallText | None] = CallText(
        begin=f'{OPEN}\n{HEAD}NAME">\n', end=f"{TAGS.end}\n{TAGS.close}", style="minimax_xml", separator="\n"
    )
    traits: ClassVar[tuple[str, ...]] = (OPEN,)

    @staticmethod
    def reader(mark: str, tools: ToolSet) -> CallReader:
        return TaggedReader(TAGS, tools, opened=mark == HEAD)
