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
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tools.tiny import checkpoint, curriculum, data, exact, export, talk
from tools.tiny.graph import Graph
from tools.tiny.hybrid import Hybrid, HybridShape
from tools.tiny.model import Model, Numerics, Shape
from tools.tiny.rounding import Blocks, Channels

LONG_EVERY, LONG = 32, 16
"""The last two steps of 32 have rows 16 times as long (and 16 times fewer), so that long contexts are known too."""

WIDE_EVERY, WIDE = 2, 4
"""Every second step has tools and objects, in rows four times as long (and four times fewer)."""

COPYING, LEAST, WATCH = ("upper case", "spell"), 0.2, 0.1
"""Tasks that a run must get right this often when a tenth of its time is over; one that does not is stuck."""

STEER_S = 12.0
"""How often the shares of the tasks are set."""

APART = 4
"""All but every fourth step have conversations of one turn, which is how most people ask."""

Inputs = tuple[Tensor, Tensor, Tensor]
"""Tokens (B, S) int64, answers (B, S) bool, owners (B, S) int64."""


class Rounds(Dataset[list[data.Row]]):
    """The batches of `LONG_EVERY` steps at a time, by the number of the round, made by worker processes."""

    def __init__(self, args: argparse.Namespace, shares: Tensor) -> None:
        self.args = args
        self.shares = shares

    def __getitem__(self, number: int) -> list[data.Row]:
        return [self.batch(step) for step in range(number * LONG_EVERY, (number + 1) * LONG_EVERY)]

    def batch(self, step: int) -> data.Row:
        """The batch of `step`."""
        wide = step % WIDE_EVERY == 0
        times = LONG if step % LONG_EVERY >= LONG_EVERY - 2 else WIDE if wide else 1
        rows, length = self.args.rows // times, self.args.length * times
        apart = times < LONG and step // WIDE_EVERY % APART != APART - 1
        shares = self.shares.tolist()
        return data.batch(
            self.args.seed, step, rows=rows, length=length, apart=apart, wide=wide, shares=shares,
            changes=changes(self.args),
        )  # fmt: skip


def on_device(round_: list[data.Row], device: torch.device) -> list[Inputs]:
    """A round's batches, moved in one copy for each array of the batches of one shape."""
    shapes = {
        row[0].shape: [number for number, one in enumerate(round_) if one[0].shape == row[0].shape] for row in round_
    }
    found: dict[int, Inputs] = {}
    for numbers in shapes.values():
        moved = (
            torch.as_tensor(np.stack(arrays)).to(device) for arrays in zip(*(round_[n] for n in numbers), strict=True)
        )
        for number, (ids, answers, owners) in zip(numbers, zip(*moved, strict=True), strict=True):
            found[number] = (ids.long(), answers, owners.long())
    return [found[number] for number in range(len(round_))]


def learning_rate(done: float, step: int, peak: float, *, warm_up: int, decay: float) -> float:
    """Rise over `warm_up` steps, hold, fall to zero over the last `decay` of the time; `done` runs from 0 to 1."""
    rise = min(1.0, (step + 1) / warm_up)
    fall = 1.0 if decay == 0 else min(1.0, max(0.0, 1.0 - done) / decay)
    return peak * rise * fall


def optimizer(model: Model, device: torch.device) -> torch.optim.AdamW:
    """AdamW with empty moments and, as a tensor, a learning rate of 0; norms and embeddings do not decay."""
    kept = ("embed", "head")
    decayed = [p for name, p in model.named_parameters() if p.ndim > 1 and name not in kept]
    rest = [p for name, p in model.named_parameters() if p.ndim <= 1 or name in kept]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    cuda = device.type == "cuda"
    adam = torch.optim.AdamW(
        groups, lr=torch.zeros((), device=device), betas=(0.9, 0.98), fused=cuda, foreach=False, capturable=cuda
    )
    for parameter in model.parameters():
        moments = {moment: torch.zeros_like(parameter) for moment in checkpoint.MOMENTS}
        adam.state[parameter] = {"step": torch.zeros((), device=device), **moments}
    return adam


def changes(args: argparse.Namespace) -> talk.Changes:
    """What the model that `args` asks for says in place of octavo-tiny's answers."""
    return talk.HYBRID if args.hybrid else talk.TINY


def fresh(args: argparse.Namespace) -> Model:
    """The model that `args` asks for, with start values."""
    numerics = Numerics(dtype=torch.float32, block=args.block, rounding=Blocks() if args.hybrid else Channels())
    return Hybrid(HybridShape(), numerics) if args.hybrid else Model(Shape(), numerics)


class Trainer:
    """A model, its optimizer and its clock."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        torch.manual_seed(args.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Float32 throughout, and no torch.compile: with it the very same steps learnt nothing (README.md).
        if args.hybrid:
            # products of TF32, which FP8 rounds far more; half a step's time otherwise
            torch.set_float32_matmul_precision("high")
        self.model = fresh(args).to(self.device)
        self.adam = optimizer(self.model, self.device)
        self.first = self.step = 0 if args.resume is None else checkpoint.load(args.resume, self.model, self.adam)
        self.held_out = exact.Sheet(self.model, data.held_out(args.per_task, exact.SEED, changes=changes(args)))
        self.guides = exact.Sheet(self.model, curriculum.examples(args.per_task // 4 + 1, changes(args)))
        if args.start is not None:
            export.load(args.start, self.model)
        self.curriculum = curriculum.Curriculum(opened=args.resume is not None or args.start is not None)
        self.graphs: dict[tuple[int, ...], Graph] = {}
        self.sums = torch.zeros(2, device=self.device)
        self.loss = float("nan")
        self.scores: dict[str, float] = {}

    def rounds(self) -> Rounds:
        """The batches, by the curriculum's shares."""
        return Rounds(self.args, self.curriculum.shares)

    def move(self, ids: Tensor, marks: Tensor, owners: Tensor) -> tuple[Tensor, Tensor]:
        """Make one step; (mean cross-entropy of the answers' tokens, balance)."""
        logits, balance = self.model(ids, owners if ids.shape[1] < self.args.length * LONG else None)
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        weights = marks[:, 1:].flatten().float()
        answers = (losses * weights).sum() / weights.sum().clamp_min(1.0)
        (answers + self.args.prompts * losses.mean() + self.args.balance * balance).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        return answers.detach(), balance.detach()

    def capture(self) -> None:
        """Capture the step of each shape on CUDA; the weights stay as they are."""
        if self.device.type == "cuda":
            for shape, inputs in {one[0].shape: one for one in on_device(self.rounds()[0], self.device)}.items():
                self.graphs[shape] = Graph(self.move, inputs)
            for state in self.adam.state.values():
                for value in state.values() if self.args.resume is None else ():
                    value.zero_()

    def update(self, inputs: Inputs, done: float) -> None:
        """Make one step at the learning rate of `done`."""
        rate = learning_rate(
            done, self.step - self.first, self.args.peak, warm_up=self.args.warm_up, decay=self.args.decay
        )
        for group in self.adam.param_groups:
            group["lr"].fill_(rate)
        graph = self.graphs.get(inputs[0].shape)
        answers, balance = self.move(*inputs) if graph is None else graph(inputs)
        self.sums += torch.stack((answers, balance))
        self.step += 1

    def means(self, steps: int) -> tuple[float, float]:
        """(loss of the answers, balance), the mean over the last `steps` steps since the last call."""
        self.loss, balance = (self.sums / steps).tolist()
        self.sums.zero_()
        return self.loss, balance

    def steer(self) -> None:
        """Set the shares of the tasks by what the model gets right."""
        was = self.curriculum.opened
        self.curriculum.update(self.guides.by_task())
        if self.curriculum.opened and not was:
            print(f"all tasks from step {self.step} on", flush=True)

    def report(self, seconds: float) -> None:
        """Print held-out accuracy by task; write the folder and the checkpoint."""
        self.scores = self.held_out.by_task()
        listing = " ".join(f"{task}={100 * share:.1f}" for task, share in self.scores.items())
        print(f"held-out {100 * sum(self.scores.values()) / len(self.scores):.2f} {listing}", flush=True)
        export.save(self.model, self.args.out)
        checkpoint.save(self.args.out / "state.safetensors", self.model, self.adam, self.step)
        log = {"steps": self.step, "seconds": seconds, "loss": self.loss, "fp8": self.scores}
        (self.args.out / "training.json").write_text(json.dumps(log) + "\n")

    def stuck(self) -> bool:
        """Whether copying has not been learnt."""
        return min(self.scores[task] for task in COPYING) < LEAST


def train(args: argparse.Namespace) -> int:
    """Train for `args.minutes`, the start not counted; 0, or 1 if stopped as stuck."""
    began = time.monotonic()
    trainer = Trainer(args)
    trainer.capture()
    rounds = range(trainer.first // LONG_EVERY, (trainer.first + args.steps) // LONG_EVERY)
    loader = DataLoader(trainer.rounds(), batch_size=None, sampler=rounds, num_workers=args.workers,
                        prefetch_factor=2 if args.workers else None, collate_fn=_as_it_is)  # fmt: skip
    batches: Iterator[list[data.Row]] = iter(loader)
    started = marked = time.monotonic()
    print(f"built in {started - began:.0f}s on {trainer.device.type}", flush=True)
    next_report, next_steer, budget, watched, waited = args.report_s, STEER_S, 60 * args.minutes, not args.check, 0.0
    counted = trainer.step
    for _ in rounds:
        asked = time.monotonic()
        round_ = next(batches)
        waited += time.monotonic() - asked
        for inputs in on_device(round_, trainer.device):
            trainer.update(inputs, (asked - started) / budget)
        now = time.monotonic()
        last = now - started >= budget or trainer.step == rounds.stop * LONG_EVERY
        if trainer.step - counted >= args.log_every or last:
            loss, balance = trainer.means(trainer.step - counted)
            print(f"step {trainer.step} {now - started:.0f}s loss {loss:.4f} balance {balance:.3f} "
                  f"{(trainer.step - counted) / (now - marked):.1f} steps/s, {100 * waited / (now - marked):.0f}% of the time waiting for data",
                  flush=True)  # fmt: skip
            marked, waited, counted = now, 0.0, trainer.step
        if now - started > next_steer:
            next_steer += STEER_S
            trainer.steer()
        if now - started > next_report or last:
            next_report += args.report_s
            trainer.report(now - started)
        if watched and now - started > budget * WATCH:
            watched = False
            trainer.report(now - started)
            if trainer.stuck():
                print(
                    f"stopped: {' and '.join(COPYING)} below {100 * LEAST:.0f}% after {now - started:.0f}s", flush=True
                )
                return 1
        if last:
            break
    return 0


def _as_it_is(round_: list[data.Row]) -> list[data.Row]:
    """Arrays as arrays: the loader would make a tensor of each, with a file descriptor in shared memory."""
    return round_


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    origin = parser.add_mutually_exclusive_group()
    origin.add_argument("--resume", type=Path, help="a state.safetensors to go on from")
    origin.add_argument("--start", type=Path, help="a model folder whose weights to begin with")
    parser.add_argument("--hybrid", action="store_true", help="train octavo-tiny-hybrid")
    parser.add_argument(
        "--check", action="store_true", help="one minute without decay: does it learn, and how fast is it?"
    )
    parser.add_argument("--steps", type=int, default=10**6, help="at most, in this call")
    parser.add_argument("--minutes", type=float, default=8.0, help="of this call, the start not counted")
    parser.add_argument(
        "--decay", type=float, default=0.3, help="share of the time over which the rate falls to zero; 0: never"
    )
    parser.add_argument("--warm-up", type=int, default=300, help="steps over which the rate rises")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--block", type=int, default=32, help="rows per block of the chosen experts")
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--prompts", type=float, default=0.1, help="weight of the loss on all tokens")
    parser.add_argument("--balance", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--per-task", type=int, default=128)
    parser.add_argument("--log-every", type=int, default=200)
    parser.add_argument("--report-s", type=float, default=60.0)
    args = parser.parse_args(argv)
    if args.rows % LONG:
        parser.error(f"--rows must be a multiple of {LONG}, of which the long steps are made; it is {args.rows}")
    if args.check:
        args.minutes, args.decay, args.report_s = 1.0, 0.0, 20.0
    return args


if __name__ == "__main__":
    sys.exit(train(parse()))
