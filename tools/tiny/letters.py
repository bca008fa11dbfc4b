"""Tasks on words: reversing, spelling, sorting, counting, case."""

from __future__ import annotations

from random import Random

from tools.tiny import words
from tools.tiny.wording import listed, marked, phrase, quoted

Operands = tuple[str | int, ...]


def draw_word(rng: Random) -> Operands:
    return (words.word(rng, longest=10),)


def draw_short_word(rng: Random) -> Operands:
    """A word of up to eight letters, to turn around."""
    return (words.word(rng, longest=8),)


def draw_few_letters(rng: Random) -> Operands:
    """A word of up to six letters, to sort."""
    return (words.word(rng, longest=6),)


def draw_words(rng: Random) -> Operands:
    """Three to five words that differ in the first letter."""
    return tuple(words.distinct_initials(rng, rng.randint(3, 5), longest=7))


def draw_letter_in_word(rng: Random) -> Operands:
    """A word of up to eight letters and a letter, mostly one of the word's."""
    word = words.word(rng, longest=8)
    return word, rng.choice(word if rng.random() < 0.8 else "abcdefghijklmnopqrstuvwxyz")


def draw_sentence(rng: Random) -> Operands:
    return tuple(words.words(rng, rng.randint(1, 8), longest=6))


def draw_items(rng: Random) -> Operands:
    return tuple(words.words(rng, rng.randint(2, 8), longest=6))


def draw_phrase(rng: Random) -> Operands:
    return tuple(words.words(rng, rng.choice((1, 1, 2, 3)), longest=10))


def first_word(operands: Operands) -> Operands | None:
    return operands[:1]


def all_words(operands: Operands) -> Operands | None:
    """The words, in whatever order."""
    return tuple(sorted(str(x) for x in operands))


def _dressed(rng: Random, word: str) -> str:
    return word.capitalize() if rng.random() < 0.1 else word


def ask_reverse(rng: Random, operands: Operands) -> tuple[str, str]:
    word = _dressed(rng, str(operands[0]))
    question = phrase(
        rng,
        ask=("What is {w} backwards", "What is {w} spelled backwards", "What is {w} reversed",
             "What is the reverse of {w}", "How do you write {w} backwards"),
        tell=("Reverse {w}", "Reverse the word {w}", "Reverse the letters of {w}", "Write {w} backwards",
              "Spell {w} backwards", "Turn {w} around", "Reverse this word: {w}"),
        bare=("reverse: {w}", "{w} backwards", "{w} reversed"),
        w=quoted(rng, word),
    )  # fmt: skip
    return question, word[::-1]


def ask_spell(rng: Random, operands: Operands) -> tuple[str, str]:
    word = _dressed(rng, str(operands[0]))
    question = phrase(
        rng,
        ask=("How do you spell {w}", "How is {w} spelled", "What are the letters of {w}"),
        tell=("Spell {w}", "Spell the word {w}", "Spell out {w}", "Spell {w} letter by letter",
              "Give me the letters of {w}", "Spell this word: {w}"),
        bare=("spell: {w}",),
        w=quoted(rng, word),
    )  # fmt: skip
    return question, "-".join(word)


def ask_sort_letters(rng: Random, operands: Operands) -> tuple[str, str]:
    word = str(operands[0])
    question = phrase(
        rng,
        ask=("What are the letters of {w} in alphabetical order",),
        tell=("Sort the letters of {w}", "Sort the letters in {w}", "Put the letters of {w} in alphabetical order",
              "Sort the letters of the word {w}", "Alphabetize the letters of {w}", "Order the letters of {w}"),
        w=quoted(rng, word),
    )  # fmt: skip
    return question, "".join(sorted(word))


def ask_sort_words(rng: Random, operands: Operands) -> tuple[str, str]:
    items = [str(x) for x in operands]
    question = phrase(
        rng,
        ask=("What is the alphabetical order of {items}",),
        tell=("Sort {items}", "Sort these words: {items}", "Sort these words alphabetically: {items}",
              "Put these words in alphabetical order: {items}", "Sort the words {items}", "Order these words: {items}",
              "Alphabetize {items}", "Sort {items} alphabetically"),
        bare=("sort: {items}",),
        items=listed(rng, items),
    )  # fmt: skip
    return question, ", ".join(sorted(items))


def ask_count_letter(rng: Random, operands: Operands) -> tuple[str, str]:
    word, letter = str(operands[0]), str(operands[1])
    question = phrase(
        rng,
        ask=("How many {c}'s are in {w}", "How many {c}s are in {w}", "How many {c}'s are there in the word {w}",
             "How many times does {c} occur in {w}", "How often does the letter {c} appear in {w}",
             "How many letters {c} are in {w}", "How many {c} are in {w}", "How many times does the letter {c} appear in {w}"),
        tell=("Count the letter {c} in {w}", "Count the {c}'s in {w}", "Count how often {c} occurs in {w}"),
        c=rng.choice(("{}", "{}", "'{}'")).format(letter),
        w=quoted(rng, word),
    )  # fmt: skip
    return question, str(word.count(letter))


def ask_length(rng: Random, operands: Operands) -> tuple[str, str]:
    word = str(operands[0])
    question = phrase(
        rng,
        ask=("How many letters are in {w}", "How many letters does {w} have", "How long is the word {w}",
             "How many letters are there in the word {w}", "How many letters has {w}", "What is the length of {w}"),
        tell=("Count the letters in {w}", "Count the letters of {w}", "Count the letters in the word {w}"),
        w=quoted(rng, word),
    )  # fmt: skip
    return question, str(len(word))


def ask_count_words(rng: Random, operands: Operands) -> tuple[str, str]:
    text = " ".join(str(x) for x in operands)
    text = text[0].upper() + text[1:] + "." if rng.random() < 0.3 else text
    question = phrase(
        rng,
        ask=("How many words are in {t}", "How many words are there in {t}", "How many words does {t} have",
             "How many words are in this sentence: {t}", "How many words does this sentence have: {t}"),
        tell=("Count the words in {t}", "Count the words: {t}", "Count the words in this sentence: {t}"),
        t=marked(rng, text),
    )  # fmt: skip
    return question, str(len(operands))


def ask_count_items(rng: Random, operands: Operands) -> tuple[str, str]:
    question = phrase(
        rng,
        ask=("How many items are in this list: {t}", "How many items are here: {t}", "How many things are listed: {t}",
             "How many items does this list have: {t}", "How many items are in the list {t}"),
        tell=("Count these items: {t}", "Count the items: {t}", "Count the items in this list: {t}"),
        t=", ".join(str(x) for x in operands),
    )  # fmt: skip
    return question, str(len(operands))


def _ask_case(rng: Random, operands: Operands, names: tuple[str, ...], given: str) -> str:
    text = marked(rng, given) if len(operands) > 1 else quoted(rng, given)
    return phrase(
        rng,
        ask=("What is {t} in {case}", "How do you write {t} in {case}"),
        tell=("Write {t} in {case}", "Convert {t} to {case}", "Change {t} to {case}", "Put {t} in {case}",
              "Make {t} {case}", "Turn {t} into {case}", "Give me {t} in {case}"),
        bare=("{t} in {case}", "{case}: {t}", "{t} to {case}"),
        t=text,
        case=rng.choice(names),
    )  # fmt: skip


def ask_upper(rng: Random, operands: Operands) -> tuple[str, str]:
    text = " ".join(str(x) for x in operands)
    names = ("upper case", "uppercase", "capital letters", "upper case letters", "capitals")
    return _ask_case(rng, operands, names, rng.choice((text, text, text.title()))), text.upper()


def ask_lower(rng: Random, operands: Operands) -> tuple[str, str]:
    text = " ".join(str(x) for x in operands)
    names = ("lower case", "lowercase", "small letters", "lower case letters")
    return _ask_case(rng, operands, names, rng.choice((text.upper(), text.upper(), text.title()))), text
