"""`<tool_call><function=NAME><parameter=KEY>TEXT</parameter></function></tool_call>`: Qwen3-Coder, Qwen3.5 and later."""

from __future__ import annotations

from typing import ClassVar

from octavo.answers.parsers.call_form import CallReader, CallText
from octavo.answers.parsers.tagged import TaggedReader, Tags
from octavo.answers.tool import ToolSet

OPEN, HEAD = "<tool_call>", "<function="
TAGS = Tags(
    head=HEAD,
    name_end=">",
    key="<parameter=",
    key_end=">",
    value_end="</parameter>",
    end="</function>",
    close="</tool_call>",
    trim=True,
)


class Qwen3Coder:
    """The form of Qwen3-Coder, which forgets the outer mark now and then."""

    marks: ClassVar[tuple[str, ...]] = (OPEN, HEAD)
    first_marks: ClassVar[tuple[str, ...]] = ()
    other_marks: ClassVar[tuple[str, ...]] = (TAGS.close, TAGS.end, TAGS.key, TAGS.value_end)
    between: ClassVar[str] = ""
    short_ids: ClassVar[bool] = False
    text: ClassVar[CallText | None] = CallText(
        begin=f"{OPEN}\n{HEAD}NAME>\n", end=f"{TAGS.end}\n{TAGS.close}", style="qwen_xml", separator="\n"
    )
    traits: ClassVar[tuple[str, ...]] = (HEAD,)

    @staticmethod
    def reader(mark: str, tools: ToolSet) -> CallReader:
        return TaggedReader(TAGS, tools, opened=mark == HEAD)
