"""How many tokens a step may have: fewer, when workers die in large ones. A request's bits do not depend on its steps."""

from __future__ import annotations

from collections.abc import Sequence

DEATHS = 2
"""In steps as large, one after the other, before steps are halved."""
LEAST = 64
"""Tokens that steps are left at least: with fewer hardly anybody would get on."""
SMALLER = 8
"""How many times smaller than a deadly step one is that tells a request that kills from steps that do. Of smaller ones a request has
many, and may die in one by chance."""


class StepSizes:
    """Has steps be half as large as those that workers have died in, once none as large has given a result in between.

    Args:
        most: tokens of a step, at first.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        """Tokens of a step."""
        self._known = most
        """The same without what deaths that a request may yet be blamed for have changed."""
        self._doubted = most
        """Tokens of the least of the steps that workers died in since the last verdict, those apart that were made small."""
        self._suspected = most
        """Of the largest in flight at each of those deaths, tokens of the least. Whoever has got past all that was in flight, in small steps, has shown that
        the largest was deadly."""
        self._forgiven = 0
        """Deaths that were explained since then."""
        self._deaths = 0
        """In large steps, none as large having lived since."""
        self._least_deadly = 0
        """Tokens of the least of those."""
        self._spent = 0
        """How many of these deaths count against the budget of restarts."""

    @property
    def small(self) -> int:
        """Tokens of a step that is small beside each deadly one."""
        return min(max(LEAST, self._doubted // SMALLER), self.most)

    @property
    def needs_steps(self) -> bool:
        """`on_step` has something to learn."""
        return bool(self._deaths)

    def on_step(self, tokens: int) -> None:
        """A step of so many tokens gave its result."""
        if tokens >= self._least_deadly:
            self._forget()

    def on_death(self, sizes: Sequence[int], *, counts: bool) -> int:
        """A worker died from inside in one of the steps of so many tokens, none of which was made small.

        Args:
            sizes: at least one.
            counts: against the budget of restarts.

        Returns:
            How many deaths that count are explained, as steps are smaller from now on. There may be none that counts.
        """
        self._doubted = min(self._doubted, *sizes)
        largest = max(sizes)
        self._suspected = min(self._suspected, largest)
        if largest <= LEAST or largest < 2 * LEAST <= self.most:
            return 0
        self._least_deadly = min(largest, self._least_deadly) if self._deaths else largest
        self._deaths += 1
        self._spent += counts
        if self._deaths < DEATHS:
            return 0
        explained = self._spent
        self._forgiven += explained
        self.most = max(LEAST, min(self.most, self._least_deadly // 2))
        self._forget()
        return explained

    def on_life_in_small_steps(self) -> None:
        """Who killed in whole steps has lived in small ones, so that nobody is blamed: these steps must not come again."""
        if self._suspected > self.small:
            self.most = max(self.small, min(self.most, self._suspected) // 2)

    def on_verdict(self, *, found: bool) -> int:
        """It is known whether requests were to blame for the deaths: then their steps were not. Returns the deaths that were explained."""
        if found:
            self.most = self._known
        self._known = self._doubted = self._suspected = self.most
        self._forget()
        explained, self._forgiven = self._forgiven, 0
        return explained

    def _forget(self) -> None:
        self._deaths = self._spent = self._least_deadly = 0
