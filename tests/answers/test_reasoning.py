"""Thoughts apart from the answer, whoever opened them."""

from __future__ import annotations

import pytest

from answers.parser_harness import calls, content, events, parser, thoughts
from octavo.answers.parsers import Start

CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    ("prompt", "start"),
    [
        ("<|im_start|>assistant\n", Start.UNSAID),
        ("<|im_start|>assistant\n<think>\n", Start.OPENED),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", Start.CLOSED),
        ("<|assistant|></think>", Start.CLOSED),
        ("what is <think>?<|im_end|>\n<|im_start|>assistant\n", Start.UNSAID),
    ],
)
def test_what_a_prompt_says(prompt: str, start: Start) -> None:
    assert Start.after(prompt) is start


@pytest.mark.parametrize(
    ("message", "start"),
    [("<think>Hm", Start.OPENED), ("<think>Hm</think>So", Start.CLOSED), ("So", Start.CLOSED)],
)
def test_what_a_message_says_that_is_continued(message: str, start: Start) -> None:
    assert Start.within(message) is start


@pytest.mark.parametrize(
    ("name", "start", "text", "thought", "said"),
    [
        ("qwen3", Start.UNSAID, "<think>\nHm\n\n</think>\n\nSo.\n", "Hm", "So.\n"),
        ("qwen3", Start.UNSAID, "\n <think>Hm</think>", "Hm", ""),
        ("qwen3", Start.UNSAID, "  So <think>.", "", "  So <think>."),
        ("qwen3", Start.UNSAID, "<thin", "", "<thin"),
        ("qwen3", Start.UNSAID, "<think></think>So", "", "So"),
        ("qwen3", Start.UNSAID, "<think>\n\n</think>\n\nSo", "", "So"),
        ("qwen3", Start.OPENED, "Hm</think>So", "Hm", "So"),
        ("qwen3", Start.OPENED, "<think>Hm</think>So", "Hm", "So"),
        ("qwen3", Start.OPENED, "Hm <think>?</think>So", "Hm <think>?", "So"),
        ("qwen3", Start.OPENED, "Hm </think", "Hm </think", ""),
        ("qwen3", Start.CLOSED, "<think>So</think>", "", "<think>So</think>"),
        ("glm45", Start.UNSAID, "\n<think>Hm</think>\nSo", "Hm", "So"),
        ("glm45", Start.CLOSED, "\nSo", "", "\nSo"),
        ("deepseek_r1", Start.UNSAID, "Hm</think>\n\nSo", "Hm", "So"),
        ("deepseek_r1", Start.UNSAID, "<think>\nHm", "Hm", ""),
        ("deepseek_r1", Start.CLOSED, "So", "", "So"),
        ("minimax", Start.OPENED, "Hm\n</think>\n\nSo</think>", "Hm", "So</think>"),
        ("minimax_m2", Start.UNSAID, "Hm", "Hm", ""),
    ],
)
def test_thoughts(name: str, start: Start, text: str, thought: str, said: str) -> None:
    for parts in ([text], list(text)):
        found = events(parts, parser(None, name, start))
        assert (thoughts(found), content(found)) == (thought, said)


def test_a_call_ends_the_thoughts_and_a_mark_in_them_does_not() -> None:
    found = events(f"<think>I use <tool_call> now.\n{CALL}", parser("hermes", "qwen3"))
    assert (thoughts(found), content(found), calls(found)) == ("I use <tool_call> now.", "", [("now", "{}")])
    found = events(f"<think>Hm\n{CALL}", parser(None, "qwen3"))
    assert (thoughts(found), content(found)) == (f"Hm\n{CALL}", "")


def test_whether_it_thinks_is_known_at_once() -> None:
    reader = parser("hermes", "qwen3")
    told = [reader.reasoning]
    for part in ("<think>", "Hm", "</think>", "So"):
        reader.feed(part)
        told.append(reader.reasoning)
    assert told == [False, True, True, False, False]
