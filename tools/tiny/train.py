"""Train octavo-tiny: `python -m tools.tiny.train --out FOLDER --steps N --minutes M`."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from tools.tiny import data, export, score
from tools.tiny.model import Model, Numerics, Shape

LONG_EVERY, LONG = 32, 16
"""Every 32nd step has rows 16 times as long (and 16 times fewer), so that long contexts are known too."""


class Steps(Dataset[tuple[NDArray[np.int16], NDArray[np.bool_]]]):
    """Batches by step number, made by worker processes."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    def __len__(self) -> int:
        return int(self.args.steps)

    def __getitem__(self, step: int) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        rows, length = self.args.rows, self.args.length
        if step % LONG_EVERY == LONG_EVERY - 1:
            rows, length = rows // LONG, length * LONG
        return data.batch(self.args.seed, step, rows=rows, length=length)


def learning_rate(done: float, step: int, peak: float) -> float:
    """Warm up over 300 steps, then fall along a half cosine; `done` runs from 0 to 1."""
    return peak * min(1.0, (step + 1) / 300) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def optimizer(model: Model, fused: bool) -> torch.optim.AdamW:
    """AdamW; norms and embeddings do not decay."""
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and name != "embed"]
    rest = [p for name, p in model.named_parameters() if p.ndim <= 1 or name == "embed"]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=fused)


def loss_of(model: Model, ids: torch.Tensor, marks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(mean cross-entropy of the answers' tokens, of all tokens, load-balancing loss)."""
    logits, balance = model(ids)
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = marks[:, 1:].flatten().float()
    return (losses * weights).sum() / weights.sum(), losses.mean(), balance


def report(model: Model, per_task: int, rows: int, length: int) -> dict[str, float]:
    """Print and return held-out accuracy by task."""
    examples = data.held_out(per_task, score.SEED)
    right = score.exact(model, examples, batch_rows=rows, length=length)
    tasks = score.by_task(examples, right)
    listing = " ".join(f"{task}={100 * share:.1f}" for task, share in tasks.items())
    print(f"held-out {100 * sum(right) / len(right):.2f} {listing}", flush=True)
    return tasks


def train(args: argparse.Namespace) -> None:
    started = time.monotonic()
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = DataLoader(Steps(args), batch_size=None, num_workers=args.workers, prefetch_factor=8)
    batches = iter(loader)
    first = next(batches)
    model = Model(Shape(), Numerics(dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)).to(device)
    if args.compile:
        for part in (*model.attention, *model.experts):
            part.compile(dynamic=False)
    adam = optimizer(model, fused=device.type == "cuda")
    step, next_report, mark = 0, args.report_s, time.monotonic()
    while True:
        ids, marks = first if step == 0 else next(batches)
        spent = (time.monotonic() - started) / (60 * args.minutes)
        done = max(step / args.steps, spent)
        for group in adam.param_groups:
            group["lr"] = learning_rate(done, step, args.peak)
        loss, prompts, balance = loss_of(model, ids.to(device).long(), marks.to(device))
        (loss + args.prompts * prompts + args.balance * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        step += 1
        last = done >= 1 or step == args.steps
        if step % args.log_every == 0 or last:
            now = time.monotonic()
            rate = args.log_every / (now - mark)
            print(
                f"step {step} {now - started:.0f}s loss {loss.item():.4f} balance {balance.item():.3f} {rate:.1f} steps/s",
                flush=True,
            )
            mark = now
        if time.monotonic() - started > next_report or last:
            next_report += args.report_s
            scores = report(model, args.per_task if last else 64, args.rows, args.length)
            export.save(model, args.out)
            (args.out / "training.json").write_text(
                json.dumps({"steps": step, "seconds": time.monotonic() - started, "loss": loss.item(), "fp8": scores})
            )
            mark = time.monotonic()
        if last:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40000)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--peak", type=float, default=1e-3)
    parser.add_argument("--prompts", type=float, default=0.1, help="weight of the loss on all tokens")
    parser.add_argument("--balance", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--per-task", type=int, default=256)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--report-s", type=float, default=60.0)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
