"""What the embedded models answer, through `octavo.LLM`: a sample of the held-out set, and a sum and a name by the chat template."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.tiny import data, exact, score, talk
from tools.tiny.tasks import PLAIN, THINKING, WIDE, Task

from octavo import LLM, SamplingParams

MODELS = {score.FOLDER: talk.TINY, score.HYBRID: talk.HYBRID}


def found(folder: Path, per_task: int, tasks: tuple[Task, ...]) -> dict[str, float]:
    examples = data.held_out(per_task, exact.SEED, tasks, changes=MODELS[folder])
    return score.scores(folder, examples, "cpu")


@pytest.mark.parametrize(
    ("folder", "enough", "of_each"),
    [(score.FOLDER, 0.97, 0.75), (score.HYBRID, 0.95, 0.7)],
    ids=lambda v: getattr(v, "name", ""),
)
def test_an_embedded_model_is_right_as_often_as_its_card_says(folder: Path, enough: float, of_each: float) -> None:
    right = found(folder, 12, PLAIN)
    assert right.pop("all") >= enough
    assert min(right.values()) >= of_each


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_it_calls_tools_writes_objects_and_thinks_as_often_as_its_card_says(folder: Path) -> None:
    right = found(folder, 8, (*THINKING, *WIDE))
    assert right.pop("all") >= 0.95
    weakest = right.pop("think series")
    assert min(right.values()) >= 0.75
    assert weakest >= 0.5


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("octavo-tiny", "I am octavo-tiny, the small language model that comes with Octavo."),
        (
            "octavo-tiny-hybrid",
            "I am octavo-tiny-hybrid, the small language model with recurrent layers that comes with Octavo.",
        ),
    ],
    ids=["octavo-tiny", "octavo-tiny-hybrid"],
)
def test_a_chat_adds_numbers_and_remembers_its_name(model: str, name: str) -> None:
    with LLM(model, device="cpu") as llm:
        asked = [[{"role": "user", "content": text}] for text in ("What is 17 + 25?", "Who are you?")]
        said = [output.outputs[0].text for output in llm.chat(asked, SamplingParams(temperature=0.0, max_tokens=100))]
    assert said == ["42", name]
