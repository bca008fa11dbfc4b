"""Tasks on numbers: sums, differences, products, order, series."""

from __future__ import annotations

from random import Random

from tools.tiny.wording import listed, phrase

Operands = tuple[str | int, ...]

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def _number(rng: Random) -> int:
    return rng.randrange(10 ** rng.choice((1, 2, 2, 3, 3)))


def draw_pair(rng: Random) -> Operands:
    """Two numbers below 1000."""
    return _number(rng), _number(rng)


def unordered_pair(operands: Operands) -> Operands | None:
    """The pair in order; one-digit facts are taught whole."""
    low, high = sorted(int(x) for x in operands)
    return None if high < 10 else (low, high)


def ordered_pair(operands: Operands) -> Operands | None:
    """Which two numbers, whichever is taken away; one-digit facts are taught whole."""
    return unordered_pair(operands)


def one_order(operands: Operands) -> Operands | None:
    """The pair in one of its two orders: a held-out product is seen in training in the other order only."""
    a, b = (int(x) for x in operands)
    if a == b or max(a, b) < 10:
        return None
    bigger_first = (a * 31 + b * 31) % 2 == 0
    return (min(a, b), max(a, b)) if (a > b) == bigger_first else None


def ask_sum(rng: Random, operands: Operands) -> tuple[str, str]:
    a, b = operands
    question = phrase(
        rng,
        ask=("What is {a} + {b}", "What is {a} plus {b}", "What's {a} + {b}", "How much is {a} + {b}",
             "How much is {a} plus {b}", "What is the sum of {a} and {b}", "What do {a} and {b} make together",
             "What do you get when you add {a} and {b}", "{a} plus {b} is what"),
        tell=("Add {a} and {b}", "Add {a} to {b}", "Calculate {a} + {b}", "Compute {a} plus {b}",
              "Give me the sum of {a} and {b}", "Sum {a} and {b}"),
        bare=("{a} + {b}", "{a}+{b}", "{a} + {b} =", "{a}+{b}=", "{a} plus {b}", "{a} + {b} = ?"),
        a=a, b=b,
    )  # fmt: skip
    return question, str(int(a) + int(b))


def ask_difference(rng: Random, operands: Operands) -> tuple[str, str]:
    a, b = (int(x) for x in operands)
    if a < b and rng.random() < 0.75:
        a, b = b, a
    ask = ["What is {a} - {b}", "What is {a} minus {b}", "What's {a} - {b}", "How much is {a} - {b}",
           "How much is {a} minus {b}", "What is {a} take away {b}", "{a} minus {b} is what"]  # fmt: skip
    if a >= b:
        ask += ["What is the difference between {a} and {b}", "What is left when you take {b} from {a}"]
    question = phrase(
        rng,
        ask=tuple(ask),
        tell=("Subtract {b} from {a}", "Take {b} away from {a}", "Calculate {a} - {b}", "Compute {a} minus {b}"),
        bare=("{a} - {b}", "{a}-{b}", "{a} - {b} =", "{a}-{b}=", "{a} minus {b}", "{a} - {b} = ?"),
        a=a, b=b,
    )  # fmt: skip
    return question, str(a - b)


def draw_factors(rng: Random) -> Operands:
    """Two numbers up to 12, or one digit and a number up to 99; either order."""
    pair = (rng.randint(0, 12), rng.randint(0, 12)) if rng.random() < 0.4 else (rng.randint(0, 99), rng.randint(0, 9))
    return pair if rng.random() < 0.5 else pair[::-1]


def ask_product(rng: Random, operands: Operands) -> tuple[str, str]:
    a, b = operands
    question = phrase(
        rng,
        ask=("What is {a} times {b}", "What is {a} * {b}", "What is {a} x {b}", "What is {a} × {b}", "What's {a} times {b}",
             "How much is {a} times {b}", "How much is {a} * {b}", "What is the product of {a} and {b}",
             "What is {a} multiplied by {b}", "What do you get when you multiply {a} by {b}"),
        tell=("Multiply {a} by {b}", "Multiply {a} and {b}", "Calculate {a} * {b}", "Calculate {a} x {b}",
              "Compute {a} times {b}", "Give me the product of {a} and {b}"),
        bare=("{a} * {b}", "{a}*{b}", "{a} x {b}", "{a} × {b}", "{a} * {b} =", "{a} times {b}", "{a}x{b}="),
        a=a, b=b,
    )  # fmt: skip
    return question, str(int(a) * int(b))


def draw_list(rng: Random) -> Operands:
    """Three to five different numbers below 100."""
    return tuple(rng.sample(range(rng.choice((10, 100, 100, 100))), rng.randint(3, 5)))


def sorted_list(operands: Operands) -> Operands | None:
    """Which numbers, in whatever order; lists of two one-digit numbers are taught whole."""
    ordered = tuple(sorted(int(x) for x in operands))
    return None if len(ordered) == 2 and ordered[1] < 10 else ordered


def ask_sort(rng: Random, operands: Operands) -> tuple[str, str]:
    items = listed(rng, [str(x) for x in operands])
    if rng.random() < 0.65:
        question = phrase(
            rng,
            ask=("What is the order of these numbers from smallest to largest: {items}",),
            tell=("Sort {items}", "Sort these numbers: {items}", "Put these numbers in order: {items}",
                  "Sort the numbers {items}", "Order these numbers: {items}", "Sort {items} from smallest to largest",
                  "Sort {items} in ascending order", "Arrange these numbers from small to large: {items}"),
            bare=("sort: {items}", "Sorted: {items}"),
            items=items,
        )  # fmt: skip
        return question, ", ".join(str(x) for x in sorted(int(x) for x in operands))
    question = phrase(
        rng,
        ask=("What is the order of these numbers from largest to smallest: {items}",),
        tell=("Sort {items} from largest to smallest", "Sort {items} in descending order",
              "Sort these numbers from largest to smallest: {items}", "Sort these numbers in descending order: {items}",
              "Arrange these numbers from large to small: {items}", "Put {items} in descending order"),
        items=items,
    )  # fmt: skip
    return question, ", ".join(str(x) for x in sorted((int(x) for x in operands), reverse=True))


def draw_compared(rng: Random) -> Operands:
    """Two to five different numbers below 1000."""
    top = rng.choice((10, 100, 1000, 1000))
    return tuple(rng.sample(range(top), rng.choice((2, 2, 2, 3, 4, 5))))


def ask_compare(rng: Random, operands: Operands) -> tuple[str, str]:
    values = [int(x) for x in operands]
    big = rng.random() < 0.5
    pick = str(max(values) if big else min(values))
    if len(values) > 2:
        question = phrase(
            rng,
            ask=("What is the {most} of {items}", "Which is the {most}: {items}", "Which of these is the {most}: {items}",
                 "Which of these numbers is the {most}: {items}", "What is the {most} number in {items}"),
            tell=("Find the {most} of {items}", "Give me the {most} of these numbers: {items}"),
            bare=(("max of {items}", "maximum: {items}") if big else ("min of {items}", "minimum: {items}")),
            most=rng.choice(("largest", "biggest", "greatest") if big else ("smallest", "lowest")),
            items=listed(rng, [str(x) for x in values]),
        )  # fmt: skip
        return question, pick
    a, b = values
    more = rng.choice(("larger", "bigger", "greater", "more") if big else ("smaller", "less"))
    if rng.random() < 0.45:
        asks = ("Is {a} {more} than {b}", "Is {a} {more} than {b}, yes or no")
        bare = ("{a} > {b}", "is {a} > {b}") if big else ("{a} < {b}", "is {a} < {b}")
        return phrase(rng, ask=asks, bare=bare, a=a, b=b, more=more), "Yes." if (a > b) == big else "No."
    question = phrase(
        rng,
        ask=("Which is {more}, {a} or {b}", "What is {more}, {a} or {b}", "Which is {more}: {a} or {b}",
             "Which number is {more}, {a} or {b}", "{a} or {b}, which is {more}"),
        tell=(("Give me the larger of {a} and {b}", "Compare {a} and {b} and give me the larger one") if big
              else ("Give me the smaller of {a} and {b}", "Compare {a} and {b} and give me the smaller one")),
        a=a, b=b, more=more,
    )  # fmt: skip
    return question, pick


def draw_series(rng: Random) -> Operands:
    """(kind, start, step, shown): what the items are, where they begin, how they go on, how many are shown."""
    kind = rng.choice(("number", "number", "number", "double", "letter", "day", "month"))
    shown = rng.randint(3, 5)
    if kind == "number":
        step = rng.choice((-1, 1, 1)) * rng.randint(1, 12)
        low = max(0, -step * shown)
        return kind, rng.randint(low, low + 60), step, shown
    if kind == "double":
        return kind, rng.randint(1, 9), 2, rng.randint(3, 4)
    if kind == "letter":
        step = rng.choice((-1, 1, 1)) * rng.randint(1, 3)
        reach = abs(step) * shown
        start = rng.randint(0, 25 - reach) if step > 0 else rng.randint(reach, 25)
        return kind, start, step, shown
    step = rng.choice((-1, 1, 1))
    return kind, rng.randrange(7 if kind == "day" else 12), step, rng.choice((1, 1, 2, 3, 4))


def series_identity(operands: Operands) -> Operands | None:
    """Kind, start and step, whatever the number shown; days, months and doubling are taught whole."""
    kind, start, step, _ = operands
    return (kind, start, step) if kind in ("number", "letter") else None


def series_items(operands: Operands) -> list[str]:
    """The shown items and, last, the next one."""
    kind, start, step, shown = operands[0], int(operands[1]), int(operands[2]), int(operands[3])
    if kind == "double":
        return [str(start * 2**i) for i in range(shown + 1)]
    places = [start + i * step for i in range(shown + 1)]
    if kind == "number":
        return [str(place) for place in places]
    if kind == "letter":
        return ["abcdefghijklmnopqrstuvwxyz"[place] for place in places]
    names = DAYS if kind == "day" else MONTHS
    return [names[place % len(names)] for place in places]


def ask_series(rng: Random, operands: Operands) -> tuple[str, str]:
    *items, answer = series_items(operands)
    if operands[0] == "letter" and rng.random() < 0.3:
        items, answer = [x.upper() for x in items], answer.upper()
    if len(items) == 1:
        side = ("after", "follows") if int(operands[2]) > 0 else ("before", "precedes")
        question = phrase(
            rng,
            ask=(f"What comes {side[0]} {{x}}", f"What {operands[0]} comes {side[0]} {{x}}",
                 f"Which {operands[0]} comes {side[0]} {{x}}", f"Which {operands[0]} is {side[0]} {{x}}",
                 f"Which {operands[0]} {side[1]} {{x}}", f"What {operands[0]} is {side[0]} {{x}}"),
            x=items[0],
        )  # fmt: skip
        return question, answer
    question = phrase(
        rng,
        ask=("What comes next: {items}", "What comes next in this series: {items}", "What is next: {items}",
             "What comes after {items}", "Which comes next: {items}", "What is the next item of the series {items}",
             "{items}, what comes next"),
        tell=("Continue the series: {items}", "Continue: {items}", "Give me the next item: {items}",
              "Complete the series: {items}", "Continue the sequence {items}"),
        bare=("{items}, ?", "{items}, ...", "next: {items}", "{items}, what is next"),
        items=", ".join(items),
    )  # fmt: skip
    return question, answer
