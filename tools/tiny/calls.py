"""Tasks with tools: calls of a calculator, a clock and a counter of words, and answers made of what they return."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from random import Random

from tools.tiny import toolbox, words
from tools.tiny.example import Example, Exchange, Operands, Tool
from tools.tiny.places import place
from tools.tiny.split import is_held_out
from tools.tiny.wording import phrase

Wordings = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
"""Questions, imperatives, fragments."""

_BINARY: dict[str, Wordings] = {
    "+": (("What is {a} + {b}", "What is {a} plus {b}", "What's {a} + {b}", "How much is {a} + {b}", "How much is {a} plus {b}",
           "What is the sum of {a} and {b}", "What do you get when you add {a} and {b}"),
          ("Add {a} and {b}", "Add {a} to {b}", "Calculate {a} + {b}", "Compute {a} plus {b}", "Sum {a} and {b}"), ("{a} + {b}", "{a}+{b}", "{a} + {b} =", "{a} plus {b}")),
    "-": (("What is {a} - {b}", "What is {a} minus {b}", "How much is {a} - {b}", "How much is {a} minus {b}", "What is the difference between {a} and {b}"),
          ("Subtract {b} from {a}", "Take {b} away from {a}", "Calculate {a} - {b}", "Compute {a} minus {b}"), ("{a} - {b}", "{a}-{b}", "{a} - {b} =", "{a} minus {b}")),
    "*": (("What is {a} times {b}", "What is {a} * {b}", "What is {a} x {b}", "How much is {a} times {b}", "What is the product of {a} and {b}",
           "What is {a} multiplied by {b}", "What do you get when you multiply {a} by {b}"),
          ("Multiply {a} by {b}", "Multiply {a} and {b}", "Calculate {a} * {b}", "Calculate {a} x {b}", "Compute {a} times {b}"),
          ("{a} * {b}", "{a}*{b}", "{a} x {b}", "{a} times {b}")),
    "/": (("What is {a} divided by {b}", "What is {a} / {b}", "How much is {a} / {b}", "How much is {a} divided by {b}", "What do you get when you divide {a} by {b}"),
          ("Divide {a} by {b}", "Calculate {a} / {b}", "Compute {a} divided by {b}"), ("{a} / {b}", "{a}/{b}", "{a} / {b} =", "{a} divided by {b}")),
}  # fmt: skip
_WHOLE: Wordings = (
    ("What is {e}", "How much is {e}", "What's {e}", "What is the value of {e}", "What is the result of {e}"),
    ("Calculate {e}", "Compute {e}", "Evaluate {e}", "Work out {e}", "Use the calculator: {e}", "Use the calculator for {e}", "Solve {e}"), ("{e}", "{e} =", "calculate: {e}"),
)  # fmt: skip
_THERE: Wordings = (
    ("What time is it in {p}", "What is the time in {p}", "What's the time in {p}", "Do you know what time it is in {p}", "How late is it in {p}",
     "What is the current time in {p}", "What time is it now in {p}", "What is the local time in {p}", "What does the clock say in {p}"),
    ("Tell me the time in {p}", "Tell me what time it is in {p}", "Give me the time in {p}", "Look up the time in {p}", "Show me the current time in {p}",
     "Check the time in {p}"), ("time in {p}", "current time in {p}", "the time in {p}", "{p} time", "time: {p}"),
)  # fmt: skip
_HERE: Wordings = (
    ("What time is it", "What is the time", "What's the time", "Do you have the time", "How late is it", "What is the current time", "What time is it now",
     "Do you know what time it is", "What does the clock say"),
    ("Tell me the time", "Tell me what time it is", "Give me the time", "Look at the clock", "Show me the current time", "Check the time"), ("time", "current time", "the time now"),
)  # fmt: skip
_COUNT: Wordings = (
    ("How many words are in {t}", "How many words are there in {t}", "How many words does {t} have", "How many words are in this sentence: {t}",
     "How many words does this text have: {t}", "What is the word count of {t}", "How long is {t} in words"),
    ("Count the words in {t}", "Count the words: {t}", "Count the words of {t}", "Count the words in this sentence: {t}", "Tell me how many words are in {t}",
     "Give me the number of words in {t}"), ("word count of {t}", "words in {t}", "word count: {t}"),
)  # fmt: skip


def _ways(rng: Random, wordings: Wordings, *names: str) -> str:
    ask, tell, bare = wordings
    return phrase(rng, ask=ask, tell=tell, bare=bare, **{name: f"{{{name}}}" for name in names})


def _number(rng: Random) -> str:
    whole = str(rng.randrange(10 ** rng.randint(1, 6)))
    return f"{whole}.{rng.randrange(1, 100)}" if rng.random() < 0.1 else whole


def _expression(rng: Random) -> str:
    one, two = rng.choices("+-*/", k=2)
    a, b, c = (_number(rng) for _ in range(3))
    return rng.choice(
        (f"{a} {one} {b} {two} {c}", f"({a} {one} {b}) {two} {c}", f"{a} {one} ({b} {two} {c})", f"{a}{one}{b}{two}{c}")
    )


def draw_sum(rng: Random) -> Operands:
    """(wording, expression, what stands in the wording's places)."""
    if rng.random() < 0.25:
        expression = _expression(rng)
        return _ways(rng, _WHOLE, "e"), expression, expression
    sign, a, b = rng.choice("++--**//"), _number(rng), _number(rng)
    return _ways(rng, _BINARY[sign], "a", "b"), f"{a} {sign} {b}", a, b


def draw_time(rng: Random) -> Operands:
    """(wording, place, how the clock takes it: a key of `TAKEN`)."""
    if rng.random() < 0.35:
        return _ways(rng, _HERE), "", rng.choice(("none", "optional"))
    return _ways(rng, _THERE, "p"), place(rng), rng.choice(("required", "required", "optional"))


def draw_text(rng: Random) -> Operands:
    """(wording, text, the text as it is quoted)."""
    text = " ".join(words.words(rng, rng.randint(1, 10), longest=7))
    text = text[0].upper() + text[1:] + rng.choice(".!?") if rng.random() < 0.3 else text
    return _ways(rng, _COUNT, "t"), text, rng.choice(("'{}'", '"{}"')).format(text)


TAKEN = {"required": True, "optional": None, "none": False}


def wording(operands: Operands) -> Operands | None:
    """How it is asked."""
    return operands[:1]


def argument(operands: Operands) -> Operands | None:
    """What the tool is given; the time here is taught whole."""
    return operands[1:2] if operands[1] else None


def _value(rng: Random, kind: str, operands: Operands) -> str:
    if kind == "clock":
        hour, minute, second = rng.randrange(24), rng.randrange(60), rng.randrange(60)
        day = f"20{rng.randrange(20, 40)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
        return rng.choice((f"{hour:02d}:{minute:02d}", f"{hour:02d}:{minute:02d}", f"{hour:02d}:{minute:02d}:{second:02d}", f"{hour % 12 + 1}:{minute:02d} {'AP'[hour > 11]}M",
                           f"{day} {hour:02d}:{minute:02d}", f"{day} {hour:02d}:{minute:02d}:{second:02d}", f"{day}T{hour:02d}:{minute:02d}:{second:02d}Z"))  # fmt: skip
    if kind == "word counter":
        return str(len(str(operands[1]).split()) if rng.random() < 0.7 else rng.randint(1, 400))
    digits = rng.choice((1, 2, 3, 4, 5, 6, 8, 10, 12))
    value = str(rng.randrange(10 ** (digits - 1), 10**digits))
    value = f"{value}.{rng.randrange(10 ** rng.choice((1, 2, 3, 6, 12)))}" if rng.random() < 0.3 else value
    return f"-{value}" if rng.random() < 0.1 else value


_MEMBERS = {"calculator": ("result", "value", "answer", "output"), "clock": ("time", "result", "now", "current_time", "datetime"),
            "word counter": ("count", "result", "words", "word_count", "value")}  # fmt: skip


def _returned(rng: Random, kind: str, value: str) -> str:
    """The value as tools return it: alone, or in an object."""
    if rng.random() < 0.5:
        return value
    bare = kind != "clock" and rng.random() < 0.8
    member = json.dumps(rng.choice(_MEMBERS[kind]))
    gap = rng.choice((" ", " ", ""))
    return f"{{{member}:{gap}{value if bare else json.dumps(value)}}}"


def _sentence(kind: str, operands: Operands, value: str) -> str:
    if kind == "calculator":
        return f"The result is {value}."
    if kind == "clock":
        return f"It is {value} in {operands[1]}." if operands[1] else f"It is {value}."
    return f"The text has {value} word{'' if value == '1' else 's'}."


def question(operands: Operands) -> str:
    """The wording with its places filled."""
    wording, middle, *rest = (str(part) for part in operands)
    a, b = [*rest, ""][:2]
    return wording.format(a=a, b=b, e=middle, p=middle, t=a)


def _call(kind: str, operands: Operands, tool: Tool) -> str:
    taken = tool.parameters[0].name if tool.parameters else ""
    return tool.call() if kind == "clock" and not operands[1] else tool.call(**{taken: operands[1]})


@dataclasses.dataclass(frozen=True)
class Offer:
    """The tools of one request."""

    by_kind: dict[str, Tool]
    """Those of the families."""
    shown: tuple[Tool, ...]
    """All, in the order of the request."""

    @classmethod
    def drawn(
        cls, rng: Random, needed: dict[str, bool | None], *, without: frozenset[str], safe: bool, held_out: bool
    ) -> Offer:
        """An offer with the `needed` families (and how a clock takes its place), with none of those `without`."""
        kinds = dict(needed)
        for kind in toolbox.FAMILIES:
            if kind not in kinds and kind not in without and rng.random() < 0.4:
                kinds[kind] = rng.choice((True, None)) if kind == "clock" else True
        by_kind = {kind: toolbox.tool(rng, kind, held_out=held_out, argument=taken) for kind, taken in kinds.items()}
        others = rng.choice((0, 0, 1, 1, 2)) if by_kind else rng.choice((1, 1, 2, 3))
        shown = {
            tool.name: tool for tool in (*by_kind.values(), *(toolbox.other(rng, safe=safe) for _ in range(others)))
        }
        if len(shown) < len(by_kind) + others:
            return cls.drawn(rng, needed, without=without, safe=safe, held_out=held_out)
        return cls(by_kind, tuple(rng.sample(list(shown.values()), len(shown))))


DRAWS: dict[str, Callable[[Random], Operands]] = {"calculator": draw_sum, "clock": draw_time, "word counter": draw_text}


def _whole(rng: Random, kind: str, operands: Operands, tool: Tool) -> tuple[Exchange, Exchange]:
    """The question with its call, and the result with its answer."""
    value = _value(rng, kind, operands)
    asked = Exchange(question(operands), _call(kind, operands, tool))
    return asked, Exchange(_returned(rng, kind, value), _sentence(kind, operands, value), by_tool=True)


def needed(kind: str, operands: Operands) -> dict[str, bool | None]:
    """What an offer must hold for a question."""
    return {kind: TAKEN[str(operands[2])] if kind == "clock" else True}


def session(rng: Random, offer: Offer) -> tuple[Exchange, ...]:
    """One question that a tool of the offer helps with, with all that follows; nothing if there is none."""
    if not offer.by_kind:
        return ()
    kind = rng.choice(list(offer.by_kind))
    tool = offer.by_kind[kind]
    operands = DRAWS[kind](rng)
    while is_taught(operands) is False or (kind == "clock" and not _fits(operands, tool)):
        operands = DRAWS[kind](rng)
    return _whole(rng, kind, operands, tool)


def is_taught(operands: Operands) -> bool:
    """Whether neither wording nor argument is held out."""
    return not is_held_out("wording", wording(operands)) and not (
        argument(operands) and is_held_out("argument", argument(operands))
    )


def _fits(operands: Operands, tool: Tool) -> bool:
    """Whether the clock takes a place where one is asked about, and can do without where none is."""
    place_taken = bool(tool.parameters) and tool.parameters[0].name in toolbox.CLOCK.taken
    return place_taken if operands[1] else not place_taken or not tool.parameters[0].required


def call(rng: Random, kind: str, operands: Operands, *, held_out: bool) -> Example:
    """A question with the call that helps."""
    offer = Offer.drawn(rng, needed(kind, operands), without=frozenset(), safe=False, held_out=held_out)
    asked, _ = _whole(rng, kind, operands, offer.by_kind[kind])
    earlier = session(rng, offer) if rng.random() < 0.2 else ()
    thoughts = f"{offer.by_kind[kind].name} can tell." if rng.random() < 0.12 else None
    return Example(f"call {kind}", operands, asked.said, asked.answer, False, earlier, offer.shown, thoughts)


def result(rng: Random, kind: str, operands: Operands, *, held_out: bool) -> Example:
    """What a tool returned, with the answer made of it."""
    offer = Offer.drawn(rng, needed(kind, operands), without=frozenset(), safe=False, held_out=held_out)
    asked, told = _whole(rng, kind, operands, offer.by_kind[kind])
    earlier = session(rng, offer) if rng.random() < 0.2 else ()
    thoughts = "The tool has told it." if rng.random() < 0.12 else None
    return Example(f"result {kind}", operands, told.said, told.answer, True, (*earlier, asked), offer.shown, thoughts)


UNFIT = {"sum": "calculator", "difference": "calculator", "product": "calculator", "count words": "word counter"}
"""Plain tasks that a tool helps with."""


def unneeded(rng: Random, plain: Example, *, held_out: bool) -> Example:
    """A question of the plain tasks beside tools that do not help with it."""
    without = {UNFIT[plain.task]} if plain.task in UNFIT else set()
    if plain.task == "decline":
        without |= {"calculator", "clock"}
    offer = Offer.drawn(rng, {}, without=frozenset(without), safe=plain.task == "decline", held_out=held_out)
    earlier = session(rng, offer) if rng.random() < 0.15 else ()
    return dataclasses.replace(plain, task="no tool", tools=offer.shown, earlier=earlier)
