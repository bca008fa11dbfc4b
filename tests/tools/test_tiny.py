"""The data, tokenizer and folder of octavo-tiny."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.tiny import curriculum, data, numbers, tokenizer
from tools.tiny.example import Example
from tools.tiny.tasks import TASKS

FOLDER = Path(__file__).parents[2] / "src/octavo/assets/octavo-tiny"
BY_NAME = {task.name: task for task in TASKS}


def test_folder_is_at_most_12_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 12_000_000


def test_folder_holds_the_tokenizer_that_the_script_builds() -> None:
    assert (FOLDER / "tokenizer.json").read_text(encoding="utf-8") == tokenizer.build().to_str(pretty=False)


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    built = tokenizer.build()
    ids = built.encode(text, add_special_tokens=False).ids
    if not any(mark in text for mark in tokenizer.MARKS):
        assert ids == list(text.encode())
    assert built.decode(ids, skip_special_tokens=False) == text


def test_batches_follow_from_the_seed() -> None:
    first, again, other = (data.batch(seed, 3, rows=4, length=256) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_marks_cover_exactly_the_answers() -> None:
    ids, marks, _ = data.row(Random(0), 256, data.SHARES, apart=True)
    spans = "".join(chr(i) if m else "\0" for i, m in zip(ids.tolist(), marks.tolist(), strict=True)).split("\0")
    answers = [span for span in spans if span]
    assert len(answers) >= 2
    assert all(answer.endswith(chr(tokenizer.IM_END)) for answer in answers)
    assert np.all(ids[np.flatnonzero(marks[1:] & ~marks[:-1])] == ord("\n"))


@pytest.mark.parametrize("apart", [True, False], ids=["apart", "one conversation"])
def test_a_row_says_whose_each_token_is(apart: bool) -> None:
    ids, marks, owners = data.row(Random(0), 512, data.SHARES, apart=apart)
    turns = int((ids[np.flatnonzero(marks)] == tokenizer.IM_END).sum())
    assert turns >= 2
    assert set(owners[ids == tokenizer.END_OF_TEXT].tolist()) <= {-1}
    assert set(owners.tolist()) - {-1} == (set(range(turns)) if apart else {0})
    starts = np.flatnonzero(np.diff(owners[owners >= 0])) + 1
    assert np.all(ids[starts] == tokenizer.IM_START)


def test_curriculum_opens_the_other_tasks_once_copying_is_known() -> None:
    plan = curriculum.Curriculum(opened=False)
    names = [task.name for task in TASKS]

    def taught() -> set[str]:
        return {name for name, share in zip(names, plan.shares.tolist(), strict=True) if share}

    assert taught() == set(curriculum.FIRST)
    plan.update(dict.fromkeys(names, 0.0) | dict.fromkeys(curriculum.FIRST[1:], 1.0))
    assert taught() == set(curriculum.FIRST)
    assert data.batch(0, 3, rows=1, length=256, wide=True, shares=plan.shares.tolist())[1].any()
    plan.update(dict.fromkeys(names, 0.5) | {"sum": 1.0})
    assert taught() == set(names)
    known, half = (plan.shares[names.index(name)].item() / BY_NAME[name].share for name in ("sum", "product"))
    assert known == pytest.approx(curriculum.REST)
    assert half == pytest.approx(curriculum.REST + 0.5)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_training_never_draws_held_out_operands(task: object) -> None:
    one = BY_NAME[task.name]  # type: ignore[attr-defined]
    rng = Random(0)
    held = {one.identity(one.example(rng, held_out=True).operands) for _ in range(100)}
    taught = {one.identity(one.example(rng, held_out=False).operands) for _ in range(2000)}
    assert None not in held
    assert not held & taught


def solve(example: Example) -> set[str]:
    """Answers worked out another way: from the operands alone, by other means than the generator's."""
    ops = [str(x) for x in example.operands]
    values = [int(x) for x in ops if x.lstrip("-").isdigit()]
    match example.task.removeprefix("think "):
        case "sum":
            return {str(len(range(-values[0], values[1])))}
        case "difference":
            gap = len(range(min(values), max(values)))
            return {str(gap), str(-gap)}
        case "product":
            return {str(sum([values[0]] * values[1]))}
        case "sort numbers":
            up = [str(n) for n in range(100) if n in values]
            return {", ".join(up), ", ".join(up[::-1])}
        case "compare":
            return {str(max(values)), str(min(values)), "Yes.", "No."}
        case "reverse":
            back = "".join(ops[0][-i - 1] for i in range(len(ops[0])))
            return {back, back[:-1] + back[-1].upper()}
        case "spell":
            spelled = "-".join(list(ops[0]))
            return {spelled, spelled[0].upper() + spelled[1:]}
        case "sort letters":
            return {"".join(c * ops[0].count(c) for c in "abcdefghijklmnopqrstuvwxyz")}
        case "sort words":
            return {", ".join(w for c in "abcdefghijklmnopqrstuvwxyz" for w in ops if w[0] == c)}
        case "count letters":
            return {str(sum(c == ops[1] for c in ops[0]))}
        case "count length":
            return {str(sum(1 for _ in ops[0]))}
        case "count words" | "count items":
            return {str(sum(1 for _ in ops))}
        case "upper case":
            return {"".join(chr(ord(c) - 32) if c != " " else c for c in " ".join(ops))}
        case "lower case":
            return {" ".join(ops)}
    return {example.answer}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_answers_are_right(task: object) -> None:
    rng = Random(1)
    one = BY_NAME[task.name]  # type: ignore[attr-defined]
    for _ in range(200):
        example = one.example(rng, held_out=False)
        assert example.answer in solve(example), example


@pytest.mark.parametrize(
    ("operands", "answer"),
    [
        (("number", 2, 3, 3), "11"),
        (("number", 30, -7, 3), "9"),
        (("double", 3, 2, 3), "24"),
        (("letter", 0, 2, 3), "g"),
        (("day", 5, 1, 2), "Monday"),
        (("month", 0, -1, 1), "December"),
    ],
    ids=str,
)
def test_series(operands: numbers.Operands, answer: str) -> None:
    assert numbers.series_items(operands)[-1] == answer


def test_comparisons_answer_the_question() -> None:
    rng = Random(2)
    for _ in range(300):
        question, answer = numbers.ask_compare(rng, (734, 58))
        big = any(w in question.lower() for w in ("larg", "big", "great", "more", ">"))
        if answer in ("Yes.", "No."):
            first = question.index("734") < question.index("58")
            assert (answer == "Yes.") == (big == first)
        else:
            assert answer == ("734" if big else "58"), question


@pytest.mark.parametrize(
    ("task", "most"), [("reverse", 8), ("sort letters", 6), ("count letters", 8), ("spell", 10)], ids=str
)
def test_words_are_no_longer_than_the_model_card_says(task: str, most: int) -> None:
    rng = Random(3)
    lengths = [len(str(BY_NAME[task].example(rng, held_out=True).operands[0])) for _ in range(100)]
    assert max(lengths) == most


def test_lists_of_numbers_have_three_to_five_items() -> None:
    rng = Random(4)
    assert {len(BY_NAME["sort numbers"].draw(rng)) for _ in range(200)} == {3, 4, 5}
