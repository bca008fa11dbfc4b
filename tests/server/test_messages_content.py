"""The events of a message's blocks add up to the same, however many pieces an answer comes in."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.answers import Answer, Prompt, Reading, Tool
from octavo.answers.parsers import Start
from octavo.answers.parsers.hermes import Hermes
from octavo.answers.parsers.reasoning import Qwen3
from octavo.server.messages.content import ContentStream, added_up
from octavo.text import Detokenizer
from server.agent import CALL
from server.harness import byte_tokenizer

TOOLS = (Tool("get_weather", {"type": "object"}),)
FREE = Reading(reasoning=Qwen3, start=Start.UNSAID, form=Hermes, tools=TOOLS)
ENFORCED = Reading(form=Hermes, tools=TOOLS, enforced=True)
PIECES = ["<think>", "Hm, hm.", "</think>", "\n\n", "Let me see.", CALL, CALL[:-30], "<tool_call>", "é", "{", " "]
CALLS = f'{CALL}\n<tool_call>\n{{"name": "get_weather", "arguments": {{"a": [1, -2.5, "\\u00e9\\n", {{}}], "b": null}}}}\n</tool_call>'


def told(reading: Reading, pieces: list[str]) -> list[dict[str, Any]]:
    """Events of an answer that comes in `pieces`."""
    tokenizer = byte_tokenizer()
    answer = Answer(0, "id", Prompt(0, [1], "prompt"), lambda: Detokenizer(tokenizer))
    stream = ContentStream("id", tells_thinking=True, short_ids=False)
    parser = reading.parser()
    events = [event for piece in pieces for event in stream.push(answer, parser.feed(piece))]
    return events + stream.push(answer, parser.finish()) + stream.close()


def divided(text: str, cuts: list[int]) -> list[str]:
    places = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


def as_sent(blocks: list[dict[str, Any]]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(blocks))


def check_order(events: list[dict[str, Any]]) -> None:
    """Blocks begin with the next index, and end before another begins."""
    opened, index = False, -1
    for event in events:
        if event["type"] == "content_block_start":
            assert not opened
            opened, index = True, index + 1
        assert opened
        assert event["index"] == index
        opened = event["type"] != "content_block_stop"
    assert not opened


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.lists(st.integers(0, 2000), max_size=30))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_any_division_adds_up_to_the_whole(pieces: list[str], cuts: list[int]) -> None:
    text = "".join(pieces)
    events = told(FREE, divided(text, cuts))
    check_order(events)
    assert as_sent(added_up(events)) == as_sent(added_up(told(FREE, [text])))


@given(st.integers(0, len(CALLS)), st.lists(st.integers(0, 2000), max_size=30))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_enforced_calls_add_up_wherever_they_are_cut(length: int, cuts: list[int]) -> None:
    text = CALLS[:length]
    events = told(ENFORCED, divided(text, cuts))
    check_order(events)
    blocks = as_sent(added_up(events))
    assert blocks == as_sent(added_up(told(ENFORCED, [text])))
    assert all(isinstance(block["input"], dict) for block in blocks if block["type"] == "tool_use")
    if length == len(CALLS):
        assert [block["input"] for block in blocks] == [{"city": "Köln"}, {"a": [1, -2.5, "é\n", {}], "b": None}]


def test_arguments_stay_as_the_model_wrote_them() -> None:
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"n": 123456789012345678901234567890, "x": 1e400}}\n</tool_call>'
    (block,) = added_up(told(FREE, [call]))
    assert b'{"n": 123456789012345678901234567890, "x": 1e400}' in msgspec.json.encode(block)
