"""Rows of tokens for training, and the held-out set. Everything follows from a seed."""

from __future__ import annotations

from random import Random

import numpy as np
from numpy.typing import NDArray

from tools.tiny.tasks import TASKS, Example
from tools.tiny.tokenizer import END_OF_TEXT, IM_END, IM_START

SYSTEMS = ("You are a helpful assistant.", "You are octavo-tiny.", "Be brief.", "Answer briefly.", "You are a helpful assistant",
           "You are Octavo, a small model.", "Answer with the result only.", "You are a friendly assistant. Be concise.")  # fmt: skip

Row = tuple[NDArray[np.int16], NDArray[np.bool_]]


def prompt_ids(question: str, *, system: str | None = None) -> list[int]:
    """One user turn up to where the assistant begins, as the chat template renders it."""
    head = [] if system is None else [IM_START, *b"system\n", *system.encode(), IM_END, 10]
    return [*head, IM_START, *b"user\n", *question.encode(), IM_END, 10, IM_START, *b"assistant\n"]


def train_example(rng: Random) -> Example:
    """One example that is not held out; tasks by their shares."""
    task = rng.choices(TASKS, [task.share for task in TASKS])[0]
    return task.example(rng, held_out=False)


def held_out(per_task: int, seed: int) -> list[Example]:
    """`per_task` examples of every task whose operands never occur in training."""
    rng = Random(f"held-out {seed}")
    return [task.example(rng, held_out=True) for task in TASKS for _ in range(per_task)]


def conversation(rng: Random, length: int) -> Row:
    """(length,) tokens of a chat of as many turns as fit, and which of them are answers."""
    ids: list[int] = []
    answers: list[bool] = []
    system = rng.choice(SYSTEMS) if rng.random() < 0.25 else None
    while True:
        example = train_example(rng)
        prompt = prompt_ids(example.question, system=None if ids else system)
        answer = [*example.answer.encode(), IM_END]
        if len(ids) + len(prompt) + len(answer) + 1 > length:
            break
        ids += [*prompt, *answer, 10]
        answers += [False] * len(prompt) + [True] * len(answer) + [False]
    rest = length - len(ids)
    return np.array(ids + [END_OF_TEXT] * rest, np.int16), np.array(answers + [False] * rest, np.bool_)


def batch(seed: int, step: int, *, rows: int, length: int) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """(rows, length) tokens and answer marks of one training step."""
    rng = Random(f"train {seed} {step}")
    drawn = [conversation(rng, length) for _ in range(rows)]
    return np.stack([ids for ids, _ in drawn]), np.stack([marks for _, marks in drawn])
