"""What octavo-tiny is taught is what it is served: the same tokens for the same conversation."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.tiny import calls, data, thoughts, tokenizer
from tools.tiny.example import Example, Exchange, Tool
from tools.tiny.tasks import PLAIN, TASKS, THINKING, WIDE, Task

from octavo.answers.parsers import CALL_FORMS, REASONING, AnswerParser, Start, ToolCallParser, form_for, reasoning_for
from octavo.answers.parsers.events import Content, Event, Reasoning
from octavo.answers.parsers.json_call import read_call
from octavo.answers.tool import ToolSet
from octavo.text.chat_template import ChatTemplate, load_chat_template
from octavo.text.tokenizer import load_tokenizer

FOLDER = Path(__file__).parents[2] / "src/octavo/assets/octavo-tiny"
BEFORE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""The template of the time before tools and thoughts."""


@functools.cache
def template() -> ChatTemplate:
    found = load_chat_template(FOLDER)
    assert found is not None
    return found


def parameters(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, as clients write it."""
    properties = {
        one.name: {"description": "What.", **({} if one.kind == "any" else {"type": one.kind})}
        for one in tool.parameters
    }
    return {
        "type": "object",
        "properties": properties,
        "required": [one.name for one in tool.parameters if one.required],
    }


def offered(tool: Tool) -> dict[str, Any]:
    """The tool in a request."""
    function: dict[str, Any] = {"name": tool.name, "parameters": parameters(tool), "strict": True}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def messages(exchange: Exchange) -> list[dict[str, Any]]:
    """What a client sends of an exchange that is over."""
    told = {"role": "tool", "tool_call_id": "1"} if exchange.by_tool else {"role": "user"}
    first = {**told, "content": exchange.said}
    if not exchange.answer.startswith("<tool_call>"):
        return [first, {"role": "assistant", "content": exchange.answer}]
    call = json.loads(exchange.answer.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
    return [
        first,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]},
    ]


def served(example: Example, system: str | None) -> list[int]:
    """The tokens of the prompt that the server makes of a request."""
    conversation = [] if system is None else [{"role": "system", "content": system}]
    for exchange in example.earlier:
        conversation += messages(exchange)
    conversation.append(messages(example.exchange)[0])
    kwargs = None if example.thoughts is None else {"enable_thinking": True}
    text = template().render(conversation, tools=[offered(tool) for tool in example.tools], kwargs=kwargs)
    return load_tokenizer(FOLDER).encode(text, add_special_tokens=False)


@pytest.mark.parametrize("system", [None, "Be brief."], ids=["no system", "system"])
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_taught_prompts_are_the_served_ones(task: Task, system: str | None) -> None:
    rng = Random(5)
    for _ in range(12):
        example = task.example(rng, held_out=False)
        parts = example.parts(system=system)
        assert [id_ for ids, _ in parts[:-1] for id_ in ids] == served(example, system), example
        ids, marked = parts[-1]
        assert marked
        assert ids[-1] == tokenizer.IM_END
        assert load_tokenizer(FOLDER).decode(ids[:-1], skip_special_tokens=True) == example.written()


@pytest.mark.parametrize("task", [*THINKING, *WIDE], ids=lambda task: task.name)
def test_taught_answers_are_read_into_their_channels(task: Task) -> None:
    rng = Random(6)
    for _ in range(12):
        example = task.example(rng, held_out=True)
        start = Start.UNSAID if example.thoughts is None else Start.OPENED
        parser = AnswerParser(
            REASONING["qwen3"](start, calls_end_it=True), ToolCallParser(CALL_FORMS["hermes"], ToolSet(), None)
        )
        events: list[Event] = [*parser.feed(example.written()), *parser.finish()]
        thought = "".join(event.text for event in events if isinstance(event, Reasoning))
        said = "".join(event.text for event in events if isinstance(event, Content))
        assert thought == (example.thoughts or "")
        called = example.answer.startswith("<tool_call>")
        assert said == ("" if called else example.answer)
        if called:
            call = read_call(example.answer.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
            assert call is not None
            assert call.name in {tool.name for tool in example.tools}


def test_the_parsers_are_found_by_the_template() -> None:
    source = template().source
    assert (form_for(source), reasoning_for(source)) == ("hermes", "qwen3")


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["system", "developer", "user", "assistant"]), st.text()), min_size=1),
    st.booleans(),
)
def test_without_tools_prompts_are_what_they_were(turns: list[tuple[str, str]], thinking: bool) -> None:
    conversation = [{"role": role, "content": text.replace("</think>", "")} for role, text in turns]
    before = ChatTemplate(BEFORE, special_tokens={}).render(conversation)
    assert template().render(conversation, kwargs={"enable_thinking": False}) == before
    assert template().render(conversation) == before
    assert template().render(conversation, kwargs={"enable_thinking": thinking}) == before + "<think>\n" * thinking


def test_tools_stand_behind_what_the_system_says_and_results_of_one_turn_together() -> None:
    tool = {
        "type": "function",
        "function": {"name": "clock", "parameters": {"properties": {"at": {"type": ["string", "null"]}, "b": True}}},
    }
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{broken"}}
    shown = template().render(
        [
            {"role": "system", "content": "Hm."},
            {"role": "user", "content": "Time?"},
            {"role": "assistant", "content": "I look.", "tool_calls": [call, call]},
            {"role": "tool", "content": "1"},
            {"role": "tool", "content": "2"},
        ],
        tools=[tool],
    )
    written = '<tool_call>\n{"name": "clock", "arguments": {broken}\n</tool_call>'
    assert shown == (
        "<|im_start|>system\nHm.\nTools:\nclock(at?: any, b?: any)<|im_end|>\n<|im_start|>user\nTime?<|im_end|>\n"
        f"<|im_start|>assistant\nI look.\n{written}\n{written}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_request_with_three_tools_takes_few_tokens() -> None:
    rng = Random(7)
    lengths: list[int] = []
    while len(lengths) < 50:
        example = WIDE[0].example(rng, held_out=False)
        if len(example.tools) == 3 and not example.earlier:
            lengths.append(len(example.prompt()))
    assert max(lengths) < 600


@pytest.mark.parametrize("task", [task for task in WIDE if task.wording], ids=lambda task: task.name)
def test_wordings_are_held_out_too(task: Task) -> None:
    assert task.wording is not None
    rng = Random(8)
    held = {task.wording(task.example(rng, held_out=True).operands) for _ in range(60)}
    taught = {task.wording(task.example(rng, held_out=False).operands) for _ in range(2000)}
    assert not held & taught


def test_names_of_tools_are_held_out_too() -> None:
    rng = Random(9)

    def names(*, held_out: bool, count: int) -> set[str]:
        offers = (
            calls.Offer.drawn(rng, {"clock": True}, without=frozenset(), safe=False, held_out=held_out)
            for _ in range(count)
        )
        return {tool.name for offer in offers for tool in offer.by_kind.values()}

    assert not names(held_out=True, count=100) & names(held_out=False, count=1000)


@pytest.mark.parametrize(
    ("task", "operands", "steps"),
    [
        ("sum", (58, 7), "85 7\n8+7+0=15\n5+0+1=6"),
        ("difference", (7, 105), "501 7\n15-7-0=8\n10-0-1=9\n1-0-1=0"),
        ("product", (4, 23), "20*4=80\n3*4=12"),
        ("product", (12, 11), "10*11=110\n2*11=22"),
        ("count letters", ("banana", "a"), "b0 a1 n1 a2 n2 a3"),
        ("count words", ("a", "cat"), "a1 cat2"),
        ("series", ("letter", 4, -2, 2), "c b a"),
        ("sort words", ("pear", "fig"), "p f\nf p"),
    ],
    ids=str,
)
def test_workings(task: str, operands: tuple[str | int, ...], steps: str) -> None:
    assert thoughts.working(Example(task, operands, "", "")) == steps


@pytest.mark.parametrize("task", PLAIN, ids=lambda task: task.name)
def test_thinking_leaves_the_answer_as_it_is(task: Task) -> None:
    thinking = next(one for one in THINKING if one.split == task.name)
    rng = Random(10)
    for _ in range(100):
        example = thinking.example(rng, held_out=True)
        assert task.is_held_out(example.operands) or task.identity(example.operands) is None
        assert example.thoughts
        assert "<" not in example.thoughts


@pytest.mark.parametrize("wide", [False, True], ids=["short", "wide"])
@pytest.mark.parametrize("apart", [False, True], ids=["one conversation", "apart"])
def test_rows_hold_only_what_a_prompt_can_hold(*, wide: bool, apart: bool) -> None:
    """Thoughts are taught where the prompt opens them, which is at the end of a conversation."""
    ids, marks, owners = data.row(Random(11), 1024, data.SHARES, apart=apart, wide=wide)
    assert marks.sum() > 50
    opened = ids == tokenizer.THINK
    assert not (opened & marks).any()
    assert apart or not opened.any()
    for owner in set(owners[opened].tolist()):
        mine = (owners == owner) & marks
        assert int((ids[mine] == tokenizer.IM_END).sum()) == 1
