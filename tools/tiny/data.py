"""Rows of tokens for training, and the held-out set. Everything follows from a seed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from tools.tiny.tasks import TASKS, Example
from tools.tiny.tokenizer import END_OF_TEXT, IM_END, IM_START

SYSTEMS = ("You are a helpful assistant.", "You are octavo-tiny.", "Be brief.", "Answer briefly.", "You are a helpful assistant",
           "You are Octavo, a small model.", "Answer with the result only.", "You are a friendly assistant. Be concise.")  # fmt: skip

SHARES = tuple(task.share for task in TASKS)

Row = tuple[NDArray[np.int16], NDArray[np.bool_], NDArray[np.int16]]
"""Tokens, which of them are answers, and the number of the conversation each belongs to, all of one shape."""


def prompt_ids(question: str, *, system: str | None = None) -> list[int]:
    """One user turn up to where the assistant begins, as the chat template renders it."""
    head = [] if system is None else [IM_START, *b"system\n", *system.encode(), IM_END, 10]
    return [*head, IM_START, *b"user\n", *question.encode(), IM_END, 10, IM_START, *b"assistant\n"]


def train_example(rng: Random, shares: Sequence[float]) -> Example:
    """One example that is not held out; tasks by their `shares`."""
    task = rng.choices(TASKS, shares)[0]
    return task.example(rng, held_out=False)


def held_out(per_task: int, seed: int) -> list[Example]:
    """`per_task` examples of every task whose operands never occur in training."""
    rng = Random(f"held-out {seed}")
    return [task.example(rng, held_out=True) for task in TASKS for _ in range(per_task)]


def row(rng: Random, length: int, shares: Sequence[float], *, apart: bool) -> Row:
    """(length,) tokens of as many questions with answers as fit: each a conversation `apart`, or all turns of one."""
    ids: list[int] = []
    answers: list[bool] = []
    owners: list[int] = []
    for number in itertools.count():
        example = train_example(rng, shares)
        system = rng.choice(SYSTEMS) if (apart or number == 0) and rng.random() < 0.15 else None
        prompt = prompt_ids(example.question, system=system)
        answer = [*example.answer.encode(), IM_END]
        if len(ids) + len(prompt) + len(answer) + 1 > length:
            break
        ids += [*prompt, *answer, 10]
        answers += [False] * len(prompt) + [True] * len(answer) + [False]
        owners += [number if apart else 0] * (len(ids) - len(owners))
    rest = length - len(ids)
    return (
        np.array(ids + [END_OF_TEXT] * rest, np.int16),
        np.array(answers + [False] * rest, np.bool_),
        np.array(owners + [-1] * rest, np.int16),
    )


def batch(seed: int, step: int, *, rows: int, length: int, apart: bool = True, shares: Sequence[float] = SHARES) -> Row:
    """The rows of one training step, each array (rows, length)."""
    rng = Random(f"train {seed} {step}")
    drawn = [row(rng, length, shares, apart=apart) for _ in range(rows)]
    ids, answers, owners = zip(*drawn, strict=True)
    return np.stack(ids), np.stack(answers), np.stack(owners)
