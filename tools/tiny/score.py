"""Exact match by task on the held-out set: `python -m tools.tiny.score [--format fp8|bf16] [--per-task N]`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from tools.tiny import export
from tools.tiny.data import held_out, prompt_ids
from tools.tiny.model import Model, Numerics
from tools.tiny.tasks import Example
from tools.tiny.tokenizer import END_OF_TEXT, IM_END

FOLDER = Path("src/octavo/assets/octavo-tiny")
SEED = 1


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--format", choices=("fp8", "bf16", "both"), default="both")
    parser.add_argument("--per-task", type=int, default=200)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/tiny_scores.json"))
    args = parser.parse_args()
    examples = held_out(args.per_task, SEED)
    formats = ("fp8", "bf16") if args.format == "both" else (args.format,)
    result: dict[str, dict[str, float]] = {}
    for name in formats:
        model = export.load(args.model, Numerics(activations=name == "fp8", dtype=torch.float32))
        right = exact(model, examples, batch_rows=16)
        result[name] = {"all": sum(right) / len(right), **by_task(examples, right)}
    print(f"{'task':16s}" + "".join(f"{name:>9s}" for name in formats))
    for task in result[formats[0]]:
        print(f"{task:16s}" + "".join(f"{100 * result[name][task]:8.1f}%" for name in formats))
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"per_task": args.per_task, "seed": SEED, "exact_match": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
