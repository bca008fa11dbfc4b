"""What the embedded model answers, through `octavo.LLM`: a sample of the held-out set, and a sum over HTTP's path."""

from __future__ import annotations

from tools.tiny import data, exact, score
from tools.tiny.tasks import PLAIN, THINKING, WIDE

from octavo import LLM, SamplingParams

ENOUGH = 0.97
"""Of the tasks without thoughts and tools; of 3,600 such questions it answers 99.4 %."""


def test_the_embedded_model_is_right_as_often_as_its_card_says() -> None:
    found = score.scores(score.FOLDER, data.held_out(12, exact.SEED, PLAIN), "cpu")
    assert found.pop("all") >= ENOUGH
    assert min(found.values()) >= 0.75


def test_it_calls_tools_writes_objects_and_thinks_as_often_as_its_card_says() -> None:
    found = score.scores(score.FOLDER, data.held_out(8, exact.SEED, (*THINKING, *WIDE)), "cpu")
    assert found.pop("all") >= 0.95
    assert min(found.values()) >= 0.75


def test_a_chat_adds_numbers_and_remembers_its_name() -> None:
    with LLM("octavo-tiny", device="cpu") as llm:
        asked = [[{"role": "user", "content": text}] for text in ("What is 17 + 25?", "Who are you?")]
        said = [output.outputs[0].text for output in llm.chat(asked, SamplingParams(temperature=0.0, max_tokens=100))]
    assert said == ["42", "I am octavo-tiny, the small language model that comes with Octavo."]
