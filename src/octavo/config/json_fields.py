"""Typed access to the fields of a JSON object that describes a model."""

from __future__ import annotations

import dataclasses
from typing import Any

from octavo.errors import CheckpointError

MOST = 2**20
"""No size of a model is larger, but those of `LARGEST`."""
MOST_POSITIONS = MOST
"""Four times those of Qwen3.6, as far as its scaling goes. A table of sines and cosines has a row for each, 512 bytes with heads of 128
numbers that are turned whole, made in 2.5 s of one core; one of 2^22 takes 10 s, and four times the memory."""
LARGEST = {
    "vocab_size": 2**24,
    "max_position_embeddings": MOST_POSITIONS,
    "original_max_position_embeddings": MOST_POSITIONS,
    "sliding_window": 2**24,
    "num_hidden_layers": 2**10,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 2**12),
    "n_shared_experts": 2**8,
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 2**12),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2**12),
    **dict.fromkeys(("head_dim", "linear_value_head_dim"), 2**12),
}
"""Field to its bound: beyond what models have, and small enough that the bytes of all weights are counted at once, before memory is taken."""
FLOAT_LIMIT = 1e300
"""Numbers below it are floats, however they are written."""


def read_fields(raw: dict[str, Any], file: str) -> JsonFields:
    """The fields of a parsed JSON object, without nulls.

    Raises:
        CheckpointError: it is nested deeper than any config.
    """
    try:
        return JsonFields(without_nulls(raw), file)
    except RecursionError:
        raise CheckpointError("is nested too deep", file=file) from None


def _shown(value: object) -> str:
    """`value` in a message, of bounded length: an integer of thousands of digits cannot even be written."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    return repr(value)[:200]


def without_nulls(raw: dict[str, Any]) -> dict[str, Any]:
    """`raw` without what is null, in objects within it too: writers of configs write null for what is not set."""
    return {
        name: without_nulls(value) if isinstance(value, dict) else value
        for name, value in raw.items()
        if value is not None
    }


@dataclasses.dataclass(frozen=True)
class JsonFields:
    """The fields of `raw`, which has no nulls; a missing field or a wrong type is a CheckpointError that names it."""

    raw: dict[str, Any]
    file: str
    """Where `raw` was read, for messages."""

    def refuse(self, message: str) -> CheckpointError:
        """The error that names the file; raise it."""
        return CheckpointError(message, file=self.file)

    def count(self, name: str, default: Any = None, *, least: int = 1) -> int:
        """The integer `name`, at least `least`."""
        value = self.raw.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.refuse(f"{name} must be an integer of at least {least}, is {_shown(value)}")
        if value > (most := LARGEST.get(name, MOST)):
            raise self.refuse(f"{name} must be at most {most}, is {_shown(value)}")
        return value

    def number(self, name: str, default: float) -> float:
        """The positive finite number `name`."""
        value = self.raw.get(name, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < FLOAT_LIMIT:
            raise self.refuse(f"{name} must be a positive number, is {_shown(value)}")
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """The boolean `name`."""
        value = self.raw.get(name, default)
        if not isinstance(value, bool):
            raise self.refuse(f"{name} must be true or false, is {value!r}")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """The list of integers `name`, empty if it is missing."""
        value = self.raw.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
            raise self.refuse(f"{name} must be a list of integers, is {value!r}")
        return tuple(value)

    def token_ids(self, name: str, vocab_size: int) -> tuple[int, ...]:
        """One id, a list of ids or nothing; ids outside the vocabulary are refused."""
        value = self.raw.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        for token in ids:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab_size:
                raise self.refuse(f"{name} must hold token ids below vocab_size {vocab_size}, holds {token!r}")
        return tuple(ids)

    def require(self, name: str, served: object, default: object) -> None:
        """Refuse another value of `name` than the one that is served."""
        if (value := self.raw.get(name, default)) != served:
            raise self.refuse(f"{name} {value!r} is not served; {served!r} is")
