"""What the model writes for itself before it answers: the working of a task, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import zip_longest

from tools.tiny.example import Example
from tools.tiny.numbers import series_items


def working(example: Example) -> str:
    """The steps to the answer of an example of one of the plain tasks."""
    steps = WORKINGS[example.task]
    return steps if isinstance(steps, str) else steps(example)


def _numbers(example: Example) -> list[int]:
    return [int(x) for x in example.operands]


def _columns(a: int, b: int) -> tuple[str, list[tuple[int, int]]]:
    """Both numbers from their last digit on, as text and in columns."""
    back = [str(x)[::-1] for x in (a, b)]
    return " ".join(back), [(int(x), int(y)) for x, y in zip_longest(*back, fillvalue="0")]


def _sum(example: Example) -> str:
    text, columns = _columns(*_numbers(example))
    carry, lines = 0, [text]
    for x, y in columns:
        lines.append(f"{x}+{y}+{carry}={x + y + carry}")
        carry = (x + y + carry) // 10
    return "\n".join(lines)


def _difference(example: Example) -> str:
    small, large = sorted(_numbers(example))
    text, columns = _columns(large, small)
    borrowed, lines = 0, [text]
    for x, y in columns:
        short = x < y + borrowed
        lines.append(f"{x + 10 * short}-{y}-{borrowed}={x + 10 * short - y - borrowed}")
        borrowed = int(short)
    return "\n".join(lines)


def _product(example: Example) -> str:
    small, large = sorted(_numbers(example))
    tens = large // 10 * 10
    if not tens or large == small == 10:
        return f"{large}*{small}={large * small}"
    ones = large - tens
    return f"{tens}*{small}={tens * small}\n{ones}*{small}={ones * small}"


def _series(example: Example) -> str:
    kind, start, step, shown = example.operands
    *items, last = series_items(example.operands)
    if kind == "double":
        return f"{items[-1]}+{items[-1]}={last}"
    if kind == "number":
        return f"{'+' if int(step) > 0 else '-'}{abs(int(step))}"
    if kind == "letter":
        first, sign = int(start) + int(step) * (int(shown) - 1), 1 if int(step) > 0 else -1
        return " ".join("abcdefghijklmnopqrstuvwxyz"[first + sign * i] for i in range(abs(int(step)) + 1))
    return f"{'after' if int(step) > 0 else 'before'} {items[-1]}"


def _counted_letter(example: Example) -> str:
    word, letter = (str(x) for x in example.operands)
    return " ".join(f"{c}{word[: i + 1].count(letter)}" for i, c in enumerate(word))


def _numbered(items: list[str]) -> str:
    return " ".join(f"{item}{i + 1}" for i, item in enumerate(items))


def _spelled(example: Example) -> str:
    return "-".join(str(example.operands[0]))


def _initials(example: Example) -> str:
    initials = [str(word)[0] for word in example.operands]
    return f"{' '.join(initials)}\n{' '.join(sorted(initials))}"


WORKINGS: Mapping[str, str | Callable[[Example], str]] = {
    "sum": _sum,
    "difference": _difference,
    "product": _product,
    "sort numbers": lambda example: " ".join(str(x) for x in sorted(_numbers(example))),
    "compare": lambda example: " ".join(str(x) for x in sorted(_numbers(example))),
    "series": _series,
    "reverse": lambda example: f"{_spelled(example)}\n{_spelled(example)[::-1]}",
    "spell": "One letter after the other.",
    "sort letters": lambda example: f"{_spelled(example)}\n{'-'.join(sorted(str(example.operands[0])))}",
    "sort words": _initials,
    "count letters": _counted_letter,
    "count length": lambda example: _numbered(list(str(example.operands[0]))),
    "count words": lambda example: _numbered([str(x) for x in example.operands]),
    "count items": lambda example: _numbered([str(x) for x in example.operands]),
    "upper case": "In capital letters.",
    "lower case": "In small letters.",
    "talk": "Somebody talks to me.",
    "decline": "I have not learned that.",
}
