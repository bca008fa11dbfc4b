"""What the embedded models answer, through `octavo.LLM`: a sample of the held-out set, and a sum and a name by the chat template."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tools.tiny import data, exact, score, talk
from tools.tiny.tasks import PLAIN, THINKING, WIDE, Task

from octavo import LLM, SamplingParams


@dataclasses.dataclass(frozen=True)
class Embedded:
    """An embedded model, and how many questions of each task it is asked: of those without thoughts and tools, and of the others."""

    folder: Path
    changes: talk.Changes
    plain: int
    wide: int
    least: float
    """Share of right answers in the weakest task of the others."""

    def scores(self, per_task: int, tasks: tuple[Task, ...]) -> dict[str, float]:
        """Share of exact answers: all, then by task."""
        return score.scores(self.folder, data.held_out(per_task, exact.SEED, tasks, changes=self.changes), "cpu")


TINY = Embedded(score.FOLDER, talk.TINY, plain=12, wide=8, least=0.75)
HYBRID = Embedded(score.HYBRID, talk.HYBRID, plain=8, wide=3, least=0.6)
of_both = pytest.mark.parametrize("model", [TINY, HYBRID], ids=lambda model: model.folder.name)


@of_both
def test_an_embedded_model_is_right_as_often_as_its_card_says(model: Embedded) -> None:
    found = model.scores(model.plain, PLAIN)
    assert found.pop("all") >= 0.97
    assert min(found.values()) >= 0.75


@of_both
def test_it_calls_tools_writes_objects_and_thinks_as_often_as_its_card_says(model: Embedded) -> None:
    found = model.scores(model.wide, (*THINKING, *WIDE))
    assert found.pop("all") >= 0.95
    assert min(found.values()) >= model.least


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
    with LLM(model, device="cpu", max_model_len=512, max_num_batched_tokens=512) as llm:
        asked = [[{"role": "user", "content": text}] for text in ("What is 17 + 25?", "Who are you?")]
        said = [output.outputs[0].text for output in llm.chat(asked, SamplingParams(temperature=0.0, max_tokens=100))]
    assert said == ["42", name]
