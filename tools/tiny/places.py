"""Places to ask about: known ones, and invented ones so that the model learns to copy."""

from __future__ import annotations

from random import Random

from tools.tiny import words

CITIES = ["London", "Paris", "Berlin", "Rome", "Tokyo", "Madrid", "Oslo", "Cairo", "Lima", "New York", "Vienna", "Zurich", "Athens", "Dublin",
          "Lisbon", "Prague", "Warsaw", "Sydney", "Moscow", "Delhi", "Seoul", "Boston", "Chicago", "Toronto", "Helsinki", "Bern", "Hong Kong",
          "San Francisco", "Stockholm", "Nairobi", "Singapore", "Los Angeles", "Munich", "Hamburg", "Beijing", "Dubai"]  # fmt: skip


def place(rng: Random) -> str:
    """A place with a capital letter."""
    return rng.choice(CITIES) if rng.random() < 0.6 else words.word(rng, longest=9).capitalize()
