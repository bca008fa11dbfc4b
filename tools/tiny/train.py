"""Train octavo-tiny: `python -m tools.tiny.train --out FOLDER --minutes M` (`--check` first; see README.md here)."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from tools.tiny import checkpoint, data, exact, export
from tools.tiny.model import Model, Numerics, Shape

LONG_EVERY, LONG = 32, 16
"""Every 32nd step has rows 16 times as long (and 16 times fewer), so that long contexts are known too."""

COPYING, LEAST = ("upper case", "spell"), 0.2
"""Tasks that a run must get right this often when a quarter of its time is over; one that does not is stuck."""

Batch = tuple[NDArray[np.int16], NDArray[np.bool_]]


class Steps(Dataset[Batch]):
    """Batches by step number, made by worker processes."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args

    def __getitem__(self, step: int) -> Batch:
        rows, length = self.args.rows, self.args.length
        if step % LONG_EVERY == LONG_EVERY - 1:
            rows, length = rows // LONG, length * LONG
        return data.batch(self.args.seed, step, rows=rows, length=length)


def learning_rate(done: float, step: int, peak: float, *, warm_up: int, decay: float) -> float:
    """Rise over `warm_up` steps, hold, fall to zero over the last `decay` of the time; `done` runs from 0 to 1."""
    rise = min(1.0, (step + 1) / warm_up)
    fall = 1.0 if decay == 0 else min(1.0, max(0.0, 1.0 - done) / decay)
    return peak * rise * fall


def optimizer(model: Model, fused: bool) -> torch.optim.AdamW:
    """AdamW; norms and embeddings do not decay."""
    kept = ("embed", "head")
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and name not in kept]
    rest = [p for name, p in model.named_parameters() if p.ndim <= 1 or name in kept]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=fused)


class Trainer:
    """A model, its optimizer and its clock."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        torch.manual_seed(args.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        cuda = self.device.type == "cuda"
        numerics = Numerics(dtype=torch.bfloat16 if cuda else torch.float32, block=args.block if cuda else None)
        self.model = Model(Shape(), numerics).to(self.device)
        self.adam = optimizer(self.model, fused=cuda)
        self.first = self.step = 0 if args.resume is None else checkpoint.load(args.resume, self.model, self.adam)
        if args.compile:
            for part in (*self.model.attention, *self.model.experts):
                part.compile(dynamic=False)
        self.examples = data.held_out(args.per_task, exact.SEED)
        self.loss = self.balance = float("nan")
        self.scores: dict[str, float] = {}

    def backward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the gradients of one batch; (mean cross-entropy of the answers' tokens, load-balancing loss)."""
        ids = torch.as_tensor(batch[0]).to(self.device, non_blocking=True).long()
        marks = torch.as_tensor(batch[1]).to(self.device, non_blocking=True)
        logits, balance = self.model(ids)
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        weights = marks[:, 1:].flatten().float()
        answers = (losses * weights).sum() / weights.sum()
        (answers + self.args.prompts * losses.mean() + self.args.balance * balance).backward()
        return answers.detach(), balance.detach()

    def compile(self) -> None:
        """Pass each shape once, for its compilation, and leave the weights as they are."""
        steps = Steps(self.args)
        for number in (0, LONG_EVERY - 1):
            self.backward(steps[number])
        self.adam.zero_grad(set_to_none=True)
        exact.exact(self.model, self.examples[:1], batch_rows=self.args.rows)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def update(self, batch: Batch, done: float) -> None:
        """Make one step."""
        rate = learning_rate(
            done, self.step - self.first, self.args.peak, warm_up=self.args.warm_up, decay=self.args.decay
        )
        for group in self.adam.param_groups:
            group["lr"] = rate
        answers, balance = self.backward(batch)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        self.step += 1
        if self.step % self.args.log_every == 0:
            self.loss, self.balance = answers.item(), balance.item()

    def report(self, seconds: float) -> None:
        """Print held-out accuracy by task; write the folder and the checkpoint."""
        right = exact.exact(self.model, self.examples, batch_rows=self.args.rows)
        self.scores = exact.by_task(self.examples, right)
        listing = " ".join(f"{task}={100 * share:.1f}" for task, share in self.scores.items())
        print(f"held-out {100 * sum(right) / len(right):.2f} {listing}", flush=True)
        export.save(self.model, self.args.out)
        checkpoint.save(self.args.out / "state.safetensors", self.model, self.adam, self.step)
        log = {"steps": self.step, "seconds": seconds, "loss": self.loss, "fp8": self.scores}
        (self.args.out / "training.json").write_text(json.dumps(log) + "\n")

    def stuck(self) -> bool:
        """Whether copying has not been learnt."""
        return min(self.scores[task] for task in COPYING) < LEAST


def train(args: argparse.Namespace) -> int:
    """Train for `args.minutes`, compilation not counted; 0, or 1 if stopped as stuck."""
    began = time.monotonic()
    trainer = Trainer(args)
    trainer.compile()
    numbers = range(trainer.first, trainer.first + args.steps)
    loader = DataLoader(Steps(args), batch_size=None, sampler=numbers, num_workers=args.workers,
                        prefetch_factor=8 if args.workers else None)  # fmt: skip
    batches: Iterator[Batch] = iter(loader)
    started = marked = time.monotonic()
    print(f"built and compiled in {started - began:.0f}s on {trainer.device.type}", flush=True)
    next_report, budget, watched, waited = args.report_s, 60 * args.minutes, not args.check, 0.0
    while True:
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        trainer.update(batch, (asked - started) / budget)
        now = time.monotonic()
        last = now - started >= budget or trainer.step == numbers.stop
        if trainer.step % args.log_every == 0:
            print(f"step {trainer.step} {now - started:.0f}s loss {trainer.loss:.4f} balance {trainer.balance:.3f} "
                  f"{args.log_every / (now - marked):.1f} steps/s, {100 * waited / (now - marked):.0f}% of the time waiting for data",
                  flush=True)  # fmt: skip
            marked, waited = now, 0.0
        if now - started > next_report or last:
            next_report += args.report_s
            trainer.report(now - started)
        if watched and now - started > budget / 4:
            watched = False
            trainer.report(now - started)
            if trainer.stuck():
                print(
                    f"stopped: {' and '.join(COPYING)} below {100 * LEAST:.0f}% after a quarter of the time", flush=True
                )
                return 1
        if last:
            return 0


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path, help="a state.safetensors to go on from")
    parser.add_argument(
        "--check", action="store_true", help="one minute without decay: does it learn, and how fast is it?"
    )
    parser.add_argument("--steps", type=int, default=10**6, help="at most, in this call")
    parser.add_argument("--minutes", type=float, default=8.0, help="of this call, compilation not counted")
    parser.add_argument(
        "--decay", type=float, default=0.3, help="share of the time over which the rate falls to zero; 0: never"
    )
    parser.add_argument("--warm-up", type=int, default=300, help="steps over which the rate rises")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--block", type=int, default=128, help="rows per block of the chosen experts, on CUDA")
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--prompts", type=float, default=0.1, help="weight of the loss on all tokens")
    parser.add_argument("--balance", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--per-task", type=int, default=128)
    parser.add_argument("--log-every", type=int, default=200)
    parser.add_argument("--report-s", type=float, default=60.0)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args(argv)
    if args.rows % LONG:
        parser.error(f"--rows must be a multiple of {LONG}, of which the long steps are made; it is {args.rows}")
    if args.check:
        args.minutes, args.decay, args.report_s = 1.0, 0.0, 20.0
    return args


if __name__ == "__main__":
    sys.exit(train(parse()))
