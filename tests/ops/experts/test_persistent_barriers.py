"""The barriers of the persistent kernels in random interleavings: nobody waits for ever, reads what is not there, or overwrites what is read.

A model of them: three partitions, copies that land at any time, and products that read their stage until they are waited for.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

import pytest

from ops.interleavings import Barrier, interleave

Kernel = Literal["channel", "block"]
Mutation = Literal["", "no wait for empty stages", "freed when issued", "freed by one consumer", "a stage kept"]
THREADS = {"channel": 0, "block": 3}
"""Threads of the producer that copy: fewer than there are, as they differ by when their copies land alone."""


class Program:
    """A program that goes through items of `steps` K steps, some with no rows for consumer 1 of the block kernel, by random moves."""

    def __init__(self, kernel: Kernel, steps: int, rows: list[int], stages: int, mutation: Mutation, seed: int) -> None:
        self._random = random.Random(seed)
        self._kernel, self._steps, self._rows, self._stages, self._mutation = kernel, steps, rows, stages, mutation
        self._full = [Barrier(1 + THREADS[kernel]) for _ in range(stages)]
        self._empty = [Barrier(1 if mutation == "freed by one consumer" else 2) for _ in range(stages)]
        self._parts = ["weights", "rows", *range(THREADS[kernel])]
        self._held: list[dict[str | int, int]] = [{} for _ in range(stages)]
        self._copies: list[tuple[int, str | int, int]] = []
        self._reads: list[int] = []
        """Steps whose stages products in flight read, of either consumer."""
        self.multiplied: dict[int, list[int]] = {0: [], 1: []}

    def run(self) -> None:
        """Raises: AssertionError where something goes wrong, or nothing goes on."""
        partitions = {"producer": self._producer(), "first": self._consumer(0), "second": self._consumer(1)}
        interleave(partitions, self._land, self._random)

    def _producer(self) -> Iterator[None]:
        for step in range(len(self._rows) * self._steps):
            stage, use = step % self._stages, step // self._stages
            while not self._empty[stage].passes((use & 1) ^ 1) and self._mutation != "no wait for empty stages":
                yield
            self._full[stage].expect(2)
            yield
            for part in self._random.sample(self._parts, len(self._parts)):
                self._copies.append((stage, part, step))
                yield

    def _land(self) -> None:
        if self._copies:
            stage, part, step = self._copies.pop(self._random.randrange(len(self._copies)))
            assert not any(read % self._stages == stage for read in self._reads), "overwritten while it is read"
            self._held[stage][part] = step
            if isinstance(part, int):
                self._full[stage].arrive()
            else:
                self._full[stage].land()

    def _consumer(self, me: int) -> Iterator[None]:
        for item, rows in enumerate(self._rows):
            steps = range(item * self._steps, (item + 1) * self._steps)
            if self._kernel == "channel":
                yield from self._channel_item(me, steps)
            elif rows > 64 * me:
                yield from self._block_item(me, steps)
            else:
                for step in steps:
                    yield from self._wait(step)
                    self._empty[step % self._stages].arrive()
            for _ in range(self._random.choice((0, 3, 40))):  # the epilogue
                yield

    def _channel_item(self, me: int, steps: range) -> Iterator[None]:
        """A step is freed when the next one's products are issued and its own are done."""
        for step in steps:
            yield from self._wait(step)
            yield from self._issue(me, step)
            if step != steps[0]:
                yield from self._finish(step - 1)
        yield from self._finish(steps[-1], last=True)

    def _block_item(self, me: int, steps: range) -> Iterator[None]:
        """A step's second products are waited for behind the arrival of the next step."""
        yield from self._wait(steps[0])
        for step in steps:
            yield from self._issue(me, step)
            self._look(step)
            self._reads.remove(step)
            yield from self._issue(me, step, again=True)
            if step != steps[-1]:
                yield from self._wait(step + 1)
            yield from self._finish(step, last=step == steps[-1])

    def _wait(self, step: int) -> Iterator[None]:
        while not self._full[step % self._stages].passes(step // self._stages & 1):
            yield

    def _issue(self, me: int, step: int, *, again: bool = False) -> Iterator[None]:
        self._look(step)
        self._reads.append(step)
        if not again:
            self.multiplied[me].append(step)
        if self._mutation == "freed when issued" and not again:
            self._empty[step % self._stages].arrive()
        yield

    def _finish(self, step: int, *, last: bool = False) -> Iterator[None]:
        self._look(step)
        self._reads.remove(step)
        yield
        if self._mutation != "freed when issued" and not (self._mutation == "a stage kept" and last):
            self._empty[step % self._stages].arrive()
        yield

    def _look(self, step: int) -> None:
        held = self._held[step % self._stages]
        assert all(held.get(part) == step for part in self._parts), "not what is to be multiplied"


def program(kernel: Kernel, seed: int, mutation: Mutation = "") -> Program:
    drawn = random.Random(seed)
    steps, stages = drawn.choice((1, 2, 3, 4, 6, 16)), drawn.choice((2, 3, 4))
    rows = [drawn.choice((1, 64, 65, 128)) for _ in range(drawn.randrange(1, 12))]
    return Program(kernel, steps, rows, stages, mutation, seed)


@pytest.mark.parametrize("kernel", ["channel", "block"])
def test_every_interleaving_ends_with_all_steps_multiplied_once(kernel: Kernel) -> None:
    for seed in range(150):
        drawn = program(kernel, seed)
        drawn.run()
        for me, multiplied in drawn.multiplied.items():
            items = [item for item, rows in enumerate(drawn._rows) if kernel == "channel" or rows > 64 * me]
            assert multiplied == [item * drawn._steps + step for item in items for step in range(drawn._steps)]


@pytest.mark.parametrize("kernel", ["channel", "block"])
@pytest.mark.parametrize(
    ("mutation", "told"),
    [
        ("no wait for empty stages", "overwritten|not what|arrivals"),
        ("freed when issued", "overwritten|not what"),
        ("freed by one consumer", "overwritten|not what|arrivals|stuck"),
        ("a stage kept", "stuck"),
    ],
)
def test_a_wrong_protocol_is_found(kernel: Kernel, mutation: Mutation, told: str) -> None:
    with pytest.raises(AssertionError, match=told):  # noqa: PT012 (any of the interleavings)
        for seed in range(20):
            program(kernel, seed, mutation).run()
