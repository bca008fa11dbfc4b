"""Exact match of the training model on the held-out set."""

from __future__ import annotations

import itertools

import torch

from tools.tiny.example import Example
from tools.tiny.model import Model
from tools.tiny.tokenizer import END_OF_TEXT, IM_END, encode

SEED = 1
"""Of the held-out set."""


ROWS = (256, 1024, 4096)
"""Tokens that a prompt and its answer may fit in."""
TOKENS = 128 * ROWS[0]
"""Of a batch."""


def rows(examples: list[Example], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, length) int64 prompt and answer, and (N, length) bool marks of the answer."""
    ids = torch.full((len(examples), length), END_OF_TEXT, dtype=torch.int64)
    marks = torch.zeros((len(examples), length), dtype=torch.bool)
    for n, example in enumerate(examples):
        prompt, answer = example.prompt(), [*encode(example.written()), IM_END]
        ids[n, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        marks[n, len(prompt) : len(prompt) + len(answer)] = True
    return ids, marks


class Sheet:
    """Examples as batches on the device of `model`."""

    def __init__(self, model: Model, examples: list[Example]) -> None:
        self.model = model
        self.examples = examples
        self._batches: list[tuple[list[int], torch.Tensor, torch.Tensor]] = []
        lengths = [len(example.prompt()) + len(encode(example.written())) + 1 for example in examples]
        for least, row in itertools.pairwise((0, *ROWS)):
            fitting = [n for n, length in enumerate(lengths) if least < length <= row]
            count = TOKENS // row
            for start in range(0, len(fitting), count):
                places = fitting[start : start + count]
                part = [examples[n] for n in places]
                ids, marks = rows(part + part[:1] * (count - len(part)), row)
                self._batches.append((places, ids.to(model.embed.device), marks.to(model.embed.device)))

    @torch.no_grad()
    def right(self) -> list[bool]:
        """Whether greedy decoding gives each answer.

        It does exactly when every token of the answer, and its end mark, is the likeliest after the right tokens before
        it; so one pass over prompt and answer decides.
        """
        right = [False] * len(self.examples)
        for places, ids, marks in self._batches:
            guess = self.model(ids)[0].argmax(dim=-1)
            wrong = ((guess[:, :-1] != ids[:, 1:]) & marks[:, 1:]).any(dim=1).tolist()
            for n, failed in zip(places, wrong, strict=False):
                right[n] = not failed
        return right

    def by_task(self) -> dict[str, float]:
        """Share of exact answers of every task."""
        return by_task(self.examples, self.right())


def by_task(examples: list[Example], right: list[bool]) -> dict[str, float]:
    """Share of exact answers of every task."""
    found: dict[str, list[bool]] = {}
    for example, ok in zip(examples, right, strict=True):
        found.setdefault(example.task, []).append(ok)
    return {task: sum(oks) / len(oks) for task, oks in found.items()}
