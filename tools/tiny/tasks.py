"""The tasks: what is drawn, how it is asked, what the right answer is."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from random import Random

from tools.tiny import letters, numbers, talk

Operands = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True)
class Example:
    """One question with its one right answer."""

    task: str
    operands: Operands
    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Task:
    """A family of examples."""

    name: str
    draw: Callable[[Random], Operands]
    """Draw operands."""
    ask: Callable[[Random, Operands], tuple[str, str]]
    """(question in one of its wordings, answer)."""
    identity: Callable[[Operands], Operands | None]
    """What decides between training and held-out, the same for all orders of the same operands; None: always taught."""
    share: float = 1.0
    """Of the training set, relative to the others."""

    def is_held_out(self, operands: Operands) -> bool:
        """Whether these operands never occur in training: one in ten, by a hash of the task and their identity."""
        identity = self.identity(operands)
        if identity is None:
            return False
        digest = hashlib.blake2b(f"{self.name}:{identity!r}".encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little") % 10 == 0

    def example(self, rng: Random, *, held_out: bool) -> Example:
        """Draw until the operands lie on the asked side of the split."""
        while True:
            operands = self.draw(rng)
            if self.is_held_out(operands) == held_out:
                question, answer = self.ask(rng, operands)
                return Example(self.name, operands, question, answer)


TASKS = (
    Task("sum", numbers.draw_pair, numbers.ask_sum, numbers.unordered_pair, 1.6),
    Task("difference", numbers.draw_pair, numbers.ask_difference, numbers.ordered_pair, 1.6),
    Task("product", numbers.draw_factors, numbers.ask_product, numbers.one_order, 1.4),
    Task("sort numbers", numbers.draw_list, numbers.ask_sort, numbers.sorted_list, 1.2),
    Task("compare", numbers.draw_compared, numbers.ask_compare, numbers.sorted_list, 1.0),
    Task("series", numbers.draw_series, numbers.ask_series, numbers.series_identity, 1.4),
    Task("reverse", letters.draw_short_word, letters.ask_reverse, letters.first_word, 1.2),
    Task("spell", letters.draw_word, letters.ask_spell, letters.first_word, 0.8),
    Task("sort letters", letters.draw_few_letters, letters.ask_sort_letters, letters.first_word, 1.0),
    Task("sort words", letters.draw_words, letters.ask_sort_words, letters.all_words, 1.0),
    Task("count letters", letters.draw_letter_in_word, letters.ask_count_letter, letters.first_word, 1.2),
    Task("count length", letters.draw_word, letters.ask_length, letters.first_word, 0.8),
    Task("count words", letters.draw_sentence, letters.ask_count_words, letters.all_words, 0.8),
    Task("count items", letters.draw_items, letters.ask_count_items, letters.all_words, 0.8),
    Task("upper case", letters.draw_phrase, letters.ask_upper, letters.all_words, 0.6),
    Task("lower case", letters.draw_phrase, letters.ask_lower, letters.all_words, 0.6),
    Task("talk", talk.draw_talk, talk.ask_talk, talk.text, 0.8),
    Task("decline", talk.draw_decline, talk.ask_decline, talk.text, 0.6),
)
