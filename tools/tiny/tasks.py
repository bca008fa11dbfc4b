"""The tasks: what is drawn, how it is asked, what the right answer is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from random import Random

from tools.tiny import calls, letters, numbers, objects, talk, thoughts
from tools.tiny.example import Example, Operands
from tools.tiny.split import is_held_out

Identity = Callable[[Operands], Operands | None]


@dataclasses.dataclass(frozen=True)
class Task:
    """A family of examples."""

    name: str
    draw: Callable[[Random], Operands]
    """Draw operands."""
    make: Callable[[Random, Operands, bool], Example]
    """The example of these operands, in one of its wordings; True: in words that are held out where there are such."""
    identity: Identity
    """What decides between training and held-out, the same for all orders of the same operands; None: always taught."""
    share: float = 1.0
    """Of the training set, relative to the others."""
    split: str = ""
    """The task whose operands are held out here too; empty: its own."""
    wording: Identity | None = None
    """Where the wording is held out, too: what decides."""
    wide: bool = False
    """Its examples are long."""

    def is_held_out(self, operands: Operands) -> bool:
        """Whether these operands never occur in training: one in ten, by a hash of the task and their identity."""
        identity = self.identity(operands)
        return identity is not None and is_held_out(self.split or self.name, identity)

    def lies(self, operands: Operands, *, held_out: bool) -> bool:
        """Whether operands and wording lie on the asked side of the split."""
        if self.wording is not None and is_held_out("wording", self.wording(operands)) != held_out:
            return False
        return self.is_held_out(operands) == held_out

    def example(self, rng: Random, *, held_out: bool) -> Example:
        """Draw until the operands lie on the asked side of the split."""
        while True:
            operands = self.draw(rng)
            if self.lies(operands, held_out=held_out):
                return self.make(rng, operands, held_out)


def plain(name: str, draw: Callable[[Random], Operands], ask: Callable[[Random, Operands], tuple[str, str]],
          identity: Identity, share: float) -> Task:  # fmt: skip
    """A task of a question and an answer."""
    return Task(name, draw, lambda rng, operands, _: Example(name, operands, *ask(rng, operands)), identity, share)


PLAIN = (
    plain("sum", numbers.draw_pair, numbers.ask_sum, numbers.unordered_pair, 1.6),
    plain("difference", numbers.draw_pair, numbers.ask_difference, numbers.ordered_pair, 1.6),
    plain("product", numbers.draw_factors, numbers.ask_product, numbers.one_order, 1.4),
    plain("sort numbers", numbers.draw_list, numbers.ask_sort, numbers.sorted_list, 1.2),
    plain("compare", numbers.draw_compared, numbers.ask_compare, numbers.sorted_list, 1.0),
    plain("series", numbers.draw_series, numbers.ask_series, numbers.series_identity, 1.4),
    plain("reverse", letters.draw_short_word, letters.ask_reverse, letters.first_word, 1.2),
    plain("spell", letters.draw_word, letters.ask_spell, letters.first_word, 0.8),
    plain("sort letters", letters.draw_few_letters, letters.ask_sort_letters, letters.first_word, 1.0),
    plain("sort words", letters.draw_words, letters.ask_sort_words, letters.all_words, 1.0),
    plain("count letters", letters.draw_letter_in_word, letters.ask_count_letter, letters.first_word, 1.2),
    plain("count length", letters.draw_word, letters.ask_length, letters.first_word, 0.8),
    plain("count words", letters.draw_sentence, letters.ask_count_words, letters.all_words, 0.8),
    plain("count items", letters.draw_items, letters.ask_count_items, letters.all_words, 0.8),
    plain("upper case", letters.draw_phrase, letters.ask_upper, letters.all_words, 0.6),
    plain("lower case", letters.draw_phrase, letters.ask_lower, letters.all_words, 0.6),
    plain("talk", talk.draw_talk, talk.ask_talk, talk.text, 0.8),
    plain("decline", talk.draw_decline, talk.ask_decline, talk.text, 0.6),
)
"""Answered at once."""


def _think(task: Task, rng: Random, operands: Operands, held_out: bool) -> Example:
    """The example with its working, now and then after another question."""
    example = task.make(rng, operands, held_out)
    earlier = (rng.choice(PLAIN).example(rng, held_out=False).exchange,) if rng.random() < 0.15 else ()
    return dataclasses.replace(example, task=f"think {task.name}", thoughts=thoughts.working(example), earlier=earlier)


THINKING = tuple(
    Task(f"think {task.name}", task.draw, functools.partial(_think, task), task.identity, 0.5 * task.share, task.name)
    for task in PLAIN
)
"""The same with thoughts before the answer."""


def _object(rng: Random, operands: Operands, held_out: bool) -> Example:
    thought = "The members come from the text." if rng.random() < 0.1 else None
    return Example("json", operands, *objects.ask(rng, operands), thoughts=thought)


def _kind_of_call(make: Callable[..., Example], kind: str, rng: Random, operands: Operands, held_out: bool) -> Example:
    return make(rng, kind, operands, held_out=held_out)


BY_NAME = {task.name: task for task in PLAIN}


@dataclasses.dataclass(frozen=True)
class Unneeded(Task):
    """Any plain task beside tools that do not help. Its operands are the task's name and operands."""

    def is_held_out(self, operands: Operands) -> bool:
        return BY_NAME[str(operands[0])].is_held_out(operands[1:])


def _draw_plain(rng: Random) -> Operands:
    task = rng.choice(PLAIN)
    return (task.name, *task.draw(rng))


def _plain_identity(operands: Operands) -> Operands | None:
    identity = BY_NAME[str(operands[0])].identity(operands[1:])
    return None if identity is None else (operands[0], *identity)


def _with_tools(rng: Random, operands: Operands, held_out: bool) -> Example:
    example = BY_NAME[str(operands[0])].make(rng, operands[1:], held_out)
    thought = thoughts.working(example) if rng.random() < 0.1 else None
    beside = calls.unneeded(rng, dataclasses.replace(example, thoughts=thought), held_out=held_out)
    return dataclasses.replace(beside, operands=operands)


WIDE = (
    *(
        Task(f"{word} {kind}", draw, functools.partial(_kind_of_call, make, kind), calls.argument, share, "argument", calls.wording, wide=True)
        for kind, draw in calls.DRAWS.items()
        for word, make, share in (("call", calls.call, 1.0), ("result", calls.result, 0.7))
    ),
    Unneeded("no tool", _draw_plain, _with_tools, _plain_identity, 1.2, wide=True),
    Task("json", objects.draw, _object, objects.values, 2.0, "argument", objects.wording, wide=True),
)  # fmt: skip
"""With tools, and objects out of sentences."""

TASKS = (*PLAIN, *THINKING, *WIDE)
