"""Exact match of the training model on the held-out set."""

from __future__ import annotations

import torch

from tools.tiny.data import prompt_ids
from tools.tiny.model import Model
from tools.tiny.tasks import Example
from tools.tiny.tokenizer import END_OF_TEXT, IM_END

SEED = 1
"""Of the held-out set."""


def rows(examples: list[Example], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, length) int64 prompt and answer, and (N, length) bool marks of the answer."""
    ids = torch.full((len(examples), length), END_OF_TEXT, dtype=torch.int64)
    marks = torch.zeros((len(examples), length), dtype=torch.bool)
    for n, example in enumerate(examples):
        prompt, answer = prompt_ids(example.question), [*example.answer.encode(), IM_END]
        ids[n, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        marks[n, len(prompt) : len(prompt) + len(answer)] = True
    return ids, marks


@torch.no_grad()
def exact(model: Model, examples: list[Example], *, batch_rows: int = 128, length: int = 256) -> list[bool]:
    """Whether greedy decoding gives each answer.

    It does exactly when every token of the answer, and its end mark, is the likeliest after the right tokens before
    it; so one pass over prompt and answer decides.
    """
    right: list[bool] = []
    device = model.embed.device
    for start in range(0, len(examples), batch_rows):
        part = examples[start : start + batch_rows]
        ids, marks = rows(part + part[:1] * (batch_rows - len(part)), length)
        ids, marks = ids.to(device), marks.to(device)
        guess = model(ids)[0].argmax(dim=-1)
        wrong = (guess[:, :-1] != ids[:, 1:]) & marks[:, 1:]
        right += (~wrong.any(dim=1)).tolist()[: len(part)]
    return right


def by_task(examples: list[Example], right: list[bool]) -> dict[str, float]:
    """Share of exact answers of every task."""
    found: dict[str, list[bool]] = {}
    for example, ok in zip(examples, right, strict=True):
        found.setdefault(example.task, []).append(ok)
    return {task: sum(oks) / len(oks) for task, oks in found.items()}
