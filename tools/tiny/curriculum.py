"""Which tasks the next batches are made of: copying first, then most of what the model cannot do yet."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import torch

from tools.tiny.example import Example
from tools.tiny.talk import TINY, Changes
from tools.tiny.tasks import TASKS

FIRST = ("spell", "upper case", "lower case", "reverse")
"""Taught alone at first: most others build on copying."""
KNOWN = 0.5
"""Right answers to each of the first tasks that open the others."""
REST = 0.08
"""What a task that is known wholly keeps of its share."""
SEED = 2
"""Of the examples that steer; they are drawn from the training side, so the held-out set decides nothing."""


def examples(per_task: int, changes: Changes = TINY) -> list[Example]:
    """`per_task` examples of every task, none of them held out."""
    rng = Random(f"curriculum {SEED}")
    return [task.example(rng, held_out=False).told(changes) for task in TASKS for _ in range(per_task)]


class Curriculum:
    """The shares of the tasks.

    `shares` (tasks,) float32 is in shared memory: the processes that make batches see every update.
    """

    def __init__(self, *, opened: bool) -> None:
        self.opened = opened
        self.shares = torch.empty(len(TASKS))
        self.shares.share_memory_()
        self.update({})

    def update(self, right: Mapping[str, float]) -> None:
        """Set the shares by the share of right answers of every task (none known: 0)."""
        self.opened = self.opened or min(right.get(name, 0.0) for name in FIRST) >= KNOWN
        for index, task in enumerate(TASKS):
            wanted = self.opened or task.name in FIRST
            self.shares[index] = task.share * (REST + 1 - right.get(task.name, 0.0)) if wanted else 0.0
