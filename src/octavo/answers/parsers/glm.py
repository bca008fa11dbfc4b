"""`<tool_call>NAME<arg_key>KEY</arg_key><arg_value>TEXT</arg_value></tool_call>`: GLM-4.5 and later."""

from __future__ import annotations

from typing import ClassVar

from octavo.answers.parsers.call_form import CallReader, CallText
from octavo.answers.parsers.tagged import TaggedReader, Tags
from octavo.answers.tool import ToolSet

OPEN = "<tool_call>"
TAGS = Tags(key="<arg_key>", key_end="</arg_key>", value="<arg_value>", value_end="</arg_value>", end="</tool_call>")


class Glm:
    """The form of GLM: the name ends with its line in 4.5, at the first tag in 4.7."""

    marks: ClassVar[tuple[str, ...]] = (OPEN,)
    first_marks: ClassVar[tuple[str, ...]] = ()
    other_marks: ClassVar[tuple[str, ...]] = (TAGS.key, TAGS.key_end, TAGS.value, TAGS.value_end, TAGS.end)
    between: ClassVar[str] = ""
    short_ids: ClassVar[bool] = False
    text: ClassVar[CallText | None] = CallText(begin=f"{OPEN}NAME\n", end=TAGS.end, style="glm_xml", separator="\n")
    traits: ClassVar[tuple[str, ...]] = (TAGS.key,)

    @staticmethod
    def reader(mark: str, tools: ToolSet) -> CallReader:
        return TaggedReader(TAGS, tools, opened=True)
