"""The barriers of the persistent kernel in random interleavings: nobody waits for ever, reads what is not there, or overwrites what is read.

A model of its three partitions: copies land at any time, products read their stage until they are waited for, and barriers know the
parity of their phase alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

import pytest

from ops.interleavings import Barrier, interleave

Mutation = Literal[
    "",
    "no wait for empty stages",
    "no wait for empty queries",
    "freed when issued",
    "freed by one",
    "queries freed early",
]
Place = tuple[str, int]
"""Of queries of either consumer, keys or values, and where in the ring."""
Part = tuple[int, int]
"""Item, and tile of it."""


class Program:
    """A program that goes through items of some tiles each, none for those that are not sound, by random moves."""

    def __init__(self, tiles: list[int], stages: int, mutation: Mutation, seed: int) -> None:
        self._random = random.Random(seed)
        self._tiles, self._stages, self._mutation = tiles, stages, mutation
        self._full = [Barrier(1) for _ in range(stages)]
        self._empty = [Barrier(1 if mutation == "freed by one" else 2) for _ in range(stages)]
        self._q_full, self._q_empty = [Barrier(1) for _ in range(2)], [Barrier(2) for _ in range(2)]
        self._held: dict[Place, Part] = {}
        self._copies: list[tuple[Place, Part, Barrier]] = []
        self._reads: list[Place] = []
        self.multiplied: dict[int, list[tuple[str, Part]]] = {0: [], 1: []}

    def run(self) -> None:
        """Raises: AssertionError where something goes wrong, or nothing goes on."""
        partitions = {"producer": self._producer(), "first": self._consumer(0), "second": self._consumer(1)}
        interleave(partitions, self._land, self._random)
        assert not self._copies

    def _producer(self) -> Iterator[None]:
        number, use = 0, 0
        for item, tiles in enumerate(self._tiles):
            if not tiles:
                continue
            while (
                not self._q_empty[use % 2].passes((use // 2 & 1) ^ 1) and self._mutation != "no wait for empty queries"
            ):
                yield
            self._q_full[use % 2].expect(2)
            for me in range(2):
                self._copies.append(((f"queries {me}", use % 2), (item, 0), self._q_full[use % 2]))
                yield
            use += 1
            for unit in range(tiles + 1):
                stage, turn = number % self._stages, number // self._stages
                while not self._empty[stage].passes((turn & 1) ^ 1) and self._mutation != "no wait for empty stages":
                    yield
                parts = [("keys", unit)] * (unit < tiles) + [("values", unit - 1)] * (unit > 0)
                self._full[stage].expect(len(parts))
                yield
                for kind, tile in parts:
                    self._copies.append(((kind, stage), (item, tile), self._full[stage]))
                    yield
                number += 1

    def _land(self) -> None:
        if self._copies:
            place, part, barrier = self._copies.pop(self._random.randrange(len(self._copies)))
            assert place not in self._reads, "overwritten while it is read"
            self._held[place] = part
            barrier.land()

    def _consumer(self, me: int) -> Iterator[None]:
        number, use = 0, 0
        for item, tiles in enumerate(self._tiles):
            if not tiles:
                continue
            queries: Place = (f"queries {me}", use % 2)
            while not self._q_full[use % 2].passes(use // 2 & 1):
                yield
            yield from self._issue(me, queries, (item, 0))
            if self._mutation == "queries freed early":
                self._q_empty[use % 2].arrive()
            for unit in range(tiles + 1):
                stage = number % self._stages
                while not self._full[stage].passes(number // self._stages & 1):
                    yield
                parts = [("keys", unit)] * (unit < tiles) + [("values", unit - 1)] * (unit > 0)
                for kind, tile in parts:
                    yield from self._issue(me, (kind, stage), (item, tile))
                if self._mutation == "freed when issued":
                    self._empty[stage].arrive()
                yield
                for kind, tile in parts:
                    self._finish((kind, stage), (item, tile))
                if self._mutation != "freed when issued":
                    self._empty[stage].arrive()
                yield
                number += 1
            for _ in range(self._random.choice((0, 3, 40))):  # the epilogue, which writes where the queries were
                yield
            self._finish(queries, (item, 0))
            if self._mutation != "queries freed early":
                self._q_empty[use % 2].arrive()
            use += 1

    def _issue(self, me: int, place: Place, part: Part) -> Iterator[None]:
        assert self._held.get(place) == part, "not what is to be multiplied"
        self._reads.append(place)
        self.multiplied[me].append((place[0].split()[0], part))
        yield

    def _finish(self, place: Place, part: Part) -> None:
        assert self._held.get(place) == part, "not what is to be multiplied"
        self._reads.remove(place)


def program(seed: int, mutation: Mutation = "") -> Program:
    drawn = random.Random(seed)
    tiles = [drawn.choice((0, 1, 1, 2, 3, 5, 9, 17)) for _ in range(drawn.randrange(1, 8))]
    return Program(tiles, drawn.choice((2, 3, 4)), mutation, seed)


def test_every_interleaving_ends_with_all_tiles_multiplied_once() -> None:
    for seed in range(200):
        drawn = program(seed)
        drawn.run()
        wanted = []
        for item, tiles in enumerate(drawn._tiles):
            if tiles:
                wanted += [("queries", (item, 0)), ("keys", (item, 0))]
                for tile in range(1, tiles):
                    wanted += [("keys", (item, tile)), ("values", (item, tile - 1))]
                wanted.append(("values", (item, tiles - 1)))
        assert drawn.multiplied == {0: wanted, 1: wanted}


@pytest.mark.parametrize(
    ("mutation", "told"),
    [
        ("no wait for empty stages", "overwritten|not what|arrivals"),
        ("no wait for empty queries", "overwritten|not what|arrivals"),
        ("freed when issued", "overwritten|not what"),
        ("freed by one", "overwritten|not what|arrivals|stuck"),
        ("queries freed early", "overwritten|not what"),
    ],
)
def test_a_wrong_protocol_is_found(mutation: Mutation, told: str) -> None:
    with pytest.raises(AssertionError, match=told):  # noqa: PT012 (any of the interleavings)
        for seed in range(40):
            program(seed, mutation).run()
