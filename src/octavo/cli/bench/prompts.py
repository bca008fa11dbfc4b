"""Random prompts as token ids: the same seed gives the same prompts on any machine."""

from __future__ import annotations

import numpy as np

from octavo.errors import ConfigError

TokenIds = list[int]


def random_prompts(
    *, count: int, length: int, vocab_size: int, seed: int, prefix_length: int = 0, range_ratio: float = 0.0
) -> list[TokenIds]:
    """`count` different prompts that share their first `prefix_length` tokens.

    Args:
        length: tokens after the shared ones; drawn from `length * (1 - range_ratio) .. length * (1 + range_ratio)`.
        vocab_size: ids are drawn from 0 .. vocab_size - 1.

    Raises:
        ConfigError: sizes that cannot work.
    """
    _check_sizes(count, length, range_ratio)
    if vocab_size < 1:
        raise ConfigError("--vocab-size", f"must be at least 1, got {vocab_size}")
    rng = np.random.default_rng(seed)
    prefix = rng.integers(vocab_size, size=prefix_length).tolist()
    lengths = _lengths(rng, count, length, range_ratio)
    return [prefix + rng.integers(vocab_size, size=n).tolist() for n in lengths]


def random_lengths(*, count: int, length: int, seed: int, range_ratio: float = 0.0) -> list[int]:
    """Answer lengths, drawn as the lengths of `random_prompts`."""
    _check_sizes(count, length, range_ratio)
    return _lengths(np.random.default_rng(seed), count, length, range_ratio)


def _check_sizes(count: int, length: int, range_ratio: float) -> None:
    for name, value in (("--num-prompts", count), ("length", length)):
        if value < 1:
            raise ConfigError(name, f"must be at least 1, got {value}")
    if not 0 <= range_ratio < 1:
        raise ConfigError("--random-range-ratio", f"must be in [0, 1), got {range_ratio}")


def _lengths(rng: np.random.Generator, count: int, length: int, range_ratio: float) -> list[int]:
    low, high = int(length * (1 - range_ratio)), int(np.ceil(length * (1 + range_ratio)))
    return [int(n) for n in rng.integers(max(low, 1), high + 1, size=count)]
