"""The sizes of Gated DeltaNet, and what a layer of it keeps of each request."""

from __future__ import annotations

import dataclasses

from octavo.config.facts import RecurrentState

SPAN = 16
"""Positions that are computed at once, at fixed places of a request: 0 to 15, 16 to 31, and so on. What is rounded where follows from
it, so it is the same on every device and in every step."""
OPEN_ROWS = SPAN - 1
"""Most rows of a span that is not full yet."""


@dataclasses.dataclass(frozen=True)
class DeltaShape:
    """`value_heads` states of value_dim x key_dim numbers; value_heads / key_heads of them share queries and keys."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int
    """Inputs that the convolution reads: the row's own and those of the taps - 1 tokens before it."""

    @property
    def queries(self) -> int:
        """Channels of all queries, which are as many as those of all keys."""
        return self.key_heads * self.key_dim

    @property
    def channels(self) -> int:
        """C: query heads, key heads and value heads, which the convolution takes one by one."""
        return 2 * self.queries + self.value_heads * self.value_dim

    @property
    def state_numbers(self) -> int:
        """Numbers of the states of all value heads."""
        return self.value_heads * self.key_dim * self.value_dim

    @property
    def gate_numbers(self) -> int:
        """Numbers of the gates of the open rows: two for each value head."""
        return OPEN_ROWS * 2 * self.value_heads

    @property
    def history_numbers(self) -> int:
        """Numbers of the inputs that the convolution reads again."""
        return (self.taps - 1) * self.channels

    @property
    def open_numbers(self) -> int:
        """Numbers of the keys and values of the open rows."""
        return OPEN_ROWS * (self.channels - self.queries)

    @property
    def state(self) -> RecurrentState:
        """What is kept of a request, one behind the other: in float32 the state (value_dim, key_dim) of each value head behind the
        last full span, and the gates (15, 2, value heads) of the rows since then, how much each writes and what is left of a state
        before it; in bf16 the last taps - 1 inputs (C), and keys and values (15, C - queries) of the rows since then, convolved."""
        halves = self.history_numbers + self.open_numbers
        return RecurrentState(self.state_numbers + self.gate_numbers + (halves + 1) // 2)
