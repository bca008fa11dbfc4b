"""The ring of a product with early weights in random interleavings: nobody waits for ever, reads what is not there, or overwrites what is read.

A model of it: four warps, copies that land at any time, products that read their place until they are waited for, and barriers that
know the parity of their phase alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

import pytest

from ops.interleavings import Barrier, interleave

Mutation = Literal[
    "", "no barrier of all warps", "asked for when issued", "rows before the kernel before", "wrong parity"
]
WARPS = 4


class Program:
    """A program whose K has `groups` groups, with places for `ring` of them."""

    def __init__(self, groups: int, ring: int, mutation: Mutation, seed: int) -> None:
        self._random = random.Random(seed)
        self._groups, self._ring, self._mutation = groups, ring, mutation
        self._full = [Barrier(1) for _ in range(ring)]
        self._held: list[dict[str, int]] = [{} for _ in range(ring)]
        self._copies: list[tuple[int, str, int]] = []
        self._reads: list[int] = []
        """Groups whose places products in flight read, of each warp."""
        self._arrived = [0] * WARPS
        self._is_before_done = False
        self.multiplied: list[list[int]] = [[] for _ in range(WARPS)]

    def run(self) -> None:
        """Raises: AssertionError where something goes wrong, or nothing goes on."""
        parts = {str(warp): self._warp(warp) for warp in range(WARPS)}
        interleave(parts | {"before": self._before()}, self._land, self._random)
        assert not self._copies

    def _before(self) -> Iterator[None]:
        """The kernel before, which writes the rows."""
        for _ in range(self._random.choice((0, 5, 50))):
            yield
        self._is_before_done = True

    def _land(self) -> None:
        if self._copies:
            place, part, group = self._copies.pop(self._random.randrange(len(self._copies)))
            assert not any(read % self._ring == place for read in self._reads), "overwritten while it is read"
            assert part == "weights" or self._is_before_done, "rows that are not written yet"
            self._held[place][part] = group
            self._full[place].land()

    def _warp(self, me: int) -> Iterator[None]:
        early = min(self._groups, self._ring)
        if me == 0:
            for group in range(early):
                self._ask_for_weights(group)
                yield
        yield from self._sync(me)
        while not self._is_before_done and self._mutation != "rows before the kernel before":
            yield
        if me == 0:
            for group in range(early):
                self._copies.append((group % self._ring, "rows", group))
                yield
        for group in range(self._groups):
            parity = group // self._ring & 1
            while not self._full[group % self._ring].passes(parity ^ (self._mutation == "wrong parity")):
                yield
            self._look(group)
            self._reads.append(group)
            self.multiplied[me].append(group)
            if me == 0 and self._mutation == "asked for when issued" and group + self._ring < self._groups:
                self._ask_for_both(group + self._ring)
            yield
            self._look(group)
            self._reads.remove(group)
            yield
            if group + self._ring < self._groups:
                if self._mutation != "no barrier of all warps":
                    yield from self._sync(me)
                if me == 0 and self._mutation != "asked for when issued":
                    self._ask_for_both(group + self._ring)
                yield

    def _sync(self, me: int) -> Iterator[None]:
        """The barrier of all warps."""
        self._arrived[me] += 1
        while min(self._arrived) < self._arrived[me]:
            yield

    def _ask_for_weights(self, group: int) -> None:
        self._full[group % self._ring].expect(2)
        self._copies.append((group % self._ring, "weights", group))

    def _ask_for_both(self, group: int) -> None:
        self._ask_for_weights(group)
        self._copies.append((group % self._ring, "rows", group))

    def _look(self, group: int) -> None:
        held = self._held[group % self._ring]
        assert held.get("weights") == held.get("rows") == group, "not what is to be multiplied"


def program(seed: int, mutation: Mutation = "") -> Program:
    drawn = random.Random(seed)
    return Program(drawn.choice((1, 2, 3, 4, 5, 8, 16)), drawn.choice((1, 2, 3, 5)), mutation, seed)


def test_every_interleaving_ends_with_all_groups_multiplied_once() -> None:
    for seed in range(300):
        drawn = program(seed)
        drawn.run()
        assert all(multiplied == list(range(drawn._groups)) for multiplied in drawn.multiplied)


@pytest.mark.parametrize(
    ("mutation", "told"),
    [
        ("no barrier of all warps", "overwritten|not what|arrivals|stuck"),
        ("asked for when issued", "overwritten|not what|arrivals|stuck"),
        ("rows before the kernel before", "not written yet"),
        ("wrong parity", "not what|stuck"),
    ],
)
def test_a_wrong_protocol_is_found(mutation: Mutation, told: str) -> None:
    with pytest.raises(AssertionError, match=told):  # noqa: PT012 (any of the interleavings)
        for seed in range(40):
            program(seed, mutation).run()
