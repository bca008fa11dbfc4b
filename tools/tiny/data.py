"""Rows of tokens for training, and the held-out set. Everything follows from a seed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from tools.tiny.calls import UNFIT, Offer, session
from tools.tiny.example import Example, Part, head
from tools.tiny.talk import TINY, Changes
from tools.tiny.tasks import PLAIN, TASKS, Task
from tools.tiny.tokenizer import END_OF_TEXT, IM_END, encode

SYSTEMS = ("You are a helpful assistant.", "You are octavo-tiny.", "Be brief.", "Answer briefly.", "You are a helpful assistant",
           "You are Octavo, a small model.", "Answer with the result only.", "You are a friendly assistant. Be concise.",
           "You are a helpful assistant with tools.", "Use the tools when they help.")  # fmt: skip

SHARES = tuple(task.share for task in TASKS)

Row = tuple[NDArray[np.int16], NDArray[np.bool_], NDArray[np.int16]]
"""Tokens, which of them are answers, and the number of the conversation each belongs to, all of one shape."""


def train_example(rng: Random, shares: Sequence[float], changes: Changes, *, wide: bool) -> Example:
    """One example that is not held out; tasks by their `shares`, of the `wide` ones (if any is taught yet) or of the others."""
    chances = [share if task.wide == wide else 0.0 for task, share in zip(TASKS, shares, strict=True)]
    task = rng.choices(TASKS, chances if any(chances) else shares)[0]
    return task.example(rng, held_out=False).told(changes)


def held_out(per_task: int, seed: int, tasks: Sequence[Task] = TASKS, changes: Changes = TINY) -> list[Example]:
    """`per_task` examples of every task whose operands never occur in training."""
    rng = Random(f"held-out {seed}")
    return [task.example(rng, held_out=True).told(changes) for task in tasks for _ in range(per_task)]


def _turns(rng: Random, shares: Sequence[float], changes: Changes, *, apart: bool, wide: bool) -> Iterator[list[Part]]:
    """Conversations `apart`, or the turns of one."""
    for number in itertools.count():
        system = rng.choice(SYSTEMS) if (apart or number == 0) and rng.random() < 0.15 else None
        example = train_example(rng, shares, changes, wide=wide)
        while not apart and (example.thoughts is not None or example.tools):
            # thoughts are shown no more in later turns, and tools stand before the first
            example = train_example(rng, shares, changes, wide=False)
        yield [*example.parts(system=system), ([10], False)]


def _talk_with_tools(rng: Random, shares: Sequence[float], changes: Changes) -> Iterator[list[Part]]:
    """The turns of one conversation in which tools are offered, and help with every other question."""
    offer = Offer.drawn(rng, {}, without=frozenset(), safe=True, held_out=False)
    yield [(head(rng.choice(SYSTEMS) if rng.random() < 0.15 else None, offer.shown), False)]
    while True:
        turns = session(rng, offer) if rng.random() < 0.6 else ()
        if not turns:
            task = rng.choices(PLAIN, shares[: len(PLAIN)])[0]
            example = task.example(rng, held_out=False).told(changes)
            turns = (example.exchange,) if example.task not in UNFIT else ()
        for turn in turns:
            yield [(turn.prompt(), False), ([*encode(turn.answer), IM_END], True), ([10], False)]


def row(
    rng: Random, length: int, shares: Sequence[float], *, apart: bool, wide: bool = False, changes: Changes = TINY
) -> Row:
    """(length,) tokens of as many questions with answers as fit: each a conversation `apart`, or all turns of one."""
    ids: list[int] = []
    answers: list[bool] = []
    owners: list[int] = []
    if wide and not apart:
        turns = _talk_with_tools(rng, shares, changes)
    else:
        turns = _turns(rng, shares, changes, apart=apart, wide=wide)
    for number, parts in enumerate(turns):
        if len(ids) + sum(len(part) for part, _ in parts) > length:
            break
        for part, marked in parts:
            ids += part
            answers += [marked] * len(part)
        owners += [number if apart else 0] * (len(ids) - len(owners))
    rest = length - len(ids)
    return (
        np.array(ids + [END_OF_TEXT] * rest, np.int16),
        np.array(answers + [False] * rest, np.bool_),
        np.array(owners + [-1] * rest, np.int16),
    )


def batch(
    seed: int,
    step: int,
    *,
    rows: int,
    length: int,
    apart: bool = True,
    wide: bool = False,
    shares: Sequence[float] = SHARES,
    changes: Changes = TINY,
) -> Row:
    """The rows of one training step, each array (rows, length)."""
    rng = Random(f"train {seed} {step}")
    drawn = [row(rng, length, shares, apart=apart, wide=wide, changes=changes) for _ in range(rows)]
    ids, answers, owners = zip(*drawn, strict=True)
    return np.stack(ids), np.stack(answers), np.stack(owners)
