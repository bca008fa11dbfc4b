"""How many tokens a step may have: fewer, when workers die in the largest ones. A request's bits do not depend on its steps."""

from __future__ import annotations

DEATHS = 2
"""In steps that large, one after the other, before steps are halved."""
LEAST = 64
"""Tokens below which steps are not halved: hardly anybody would get on."""
SMALLER = 8
"""How many times smaller than a deadly step one is that tells a request that kills from steps that do. Of smaller ones a request has
many, and may die in one by chance."""


class StepSizes:
    """Halves the largest step once workers have died in such steps, and none as large has given a result since.

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
        self._least_deadly = 0
        """The same of those alone that may halve steps."""
        self._deaths = 0
        """How many those are."""
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

    def on_death(self, tokens: int, *, counts: bool) -> int:
        """A worker died from inside, the largest of whose steps had so many tokens, and none was made small.

        Args:
            counts: against the budget of restarts.

        Returns:
            0, or, where steps have fewer tokens from now on, how many of the deaths that count are explained.
        """
        self._doubted = min(self._doubted, tokens)
        if 2 * tokens <= self.most or self.most < 2 * LEAST:
            return 0
        self._least_deadly = min(tokens, self._least_deadly) if self._deaths else tokens
        self._deaths += 1
        self._spent += counts
        if self._deaths < DEATHS:
            return 0
        explained = self._spent
        self._forget()
        self.most //= 2
        return explained

    def on_life_in_small_steps(self) -> None:
        """Who killed in whole steps has lived in small ones, so that nobody is blamed: these steps must not come again."""
        if self._doubted > self.small:
            self.most = max(self.small, min(self.most, self._doubted) // 2)

    def on_verdict(self, *, found: bool) -> None:
        """It is known whether requests were to blame for the deaths: then their steps were not."""
        if found:
            self.most = self._known
            self._forget()
        self._known = self._doubted = self.most

    def _forget(self) -> None:
        self._deaths = self._spent = self._least_deadly = 0
