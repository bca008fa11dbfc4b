"""Tasks that are answered in JSON: facts of a sentence as the members of an object."""

from __future__ import annotations

import json
from random import Random

from tools.tiny import words
from tools.tiny.example import Operands
from tools.tiny.places import place
from tools.tiny.wording import phrase

_NAMES = ["Anna", "Tom", "Maria", "Peter", "Lena", "Paul", "Ida", "Max", "Nora", "Emil", "Clara", "Jan", "Rosa", "Karl", "Eva", "Leo",
          "Mia", "Otto", "Sara", "Felix", "Ella", "Hugo", "Lucy", "Oscar", "Alice", "Bob", "Carol", "David", "Erik", "Fiona", "Grace",
          "Henry", "Iris", "Jack", "Kate", "Liam", "Nina", "Olga", "Pia", "Rita", "Sam", "Tina", "Uma", "Vera", "Will", "Zoe"]  # fmt: skip
_JOBS = [
    "baker",
    "doctor",
    "teacher",
    "pilot",
    "nurse",
    "farmer",
    "painter",
    "lawyer",
    "singer",
    "cook",
    "driver",
    "writer",
    "tailor",
]
_PETS = ["cat", "dog", "bird", "fish", "horse", "rabbit", "mouse", "goat", "parrot", "turtle", "snake", "duck"]
_COLORS = ["red", "blue", "green", "yellow", "black", "white", "orange", "purple", "brown", "pink", "gray"]
_GOODS = [
    "apples",
    "pears",
    "books",
    "pens",
    "chairs",
    "lamps",
    "shirts",
    "cups",
    "eggs",
    "plums",
    "rolls",
    "keys",
    "tickets",
]

KEYS = {"name": ("name", "name", "name", "person", "who"), "age": ("age", "age", "age", "years"), "city": ("city", "city", "place", "town", "home"),
        "job": ("job", "job", "work", "profession"), "pet": ("pet", "pet", "animal"), "color": ("color", "color", "favorite_color"),
        "item": ("item", "item", "product", "thing"), "count": ("count", "count", "number", "quantity", "amount"),
        "price": ("price", "price", "cost")}  # fmt: skip
"""What members are called, the first where nobody says how."""
_CLAUSES = {"age": ("is {} years old", "is {}"), "city": ("lives in {}", "comes from {}", "is from {}"), "job": ("works as a {}", "is a {}"),
            "pet": ("has a {}", "owns a {}"), "color": ("likes {}", "loves the color {}")}  # fmt: skip

ASKED = (
    ("What is this as JSON with the keys {keys}: {facts}", "What does this say as JSON with the keys {keys}: {facts}"),
    ("Answer as JSON with the keys {keys}: {facts}", "Give me JSON with the keys {keys}: {facts}", "Extract {keys} as JSON: {facts}",
     "Extract {keys} as JSON from this text: {facts}", "Write this as JSON with the keys {keys}: {facts}",
     "Return a JSON object with the keys {keys}: {facts}", "Return {keys} as JSON: {facts}", "Give me {keys} as JSON: {facts}",
     "Find {keys} and answer in JSON: {facts}", "Convert to JSON with {keys}: {facts}"),
    ("as JSON with the keys {keys}: {facts}", "JSON with {keys}: {facts}", "{facts} Give me {keys} as JSON.", "{facts} Answer as JSON with the keys {keys}.",
     "{facts} Extract {keys} as JSON.", "{facts} Return JSON with the keys {keys}."),
)  # fmt: skip
LEFT_OPEN = (
    ("What is this as JSON: {facts}",),
    ("Answer in JSON: {facts}", "Write this as JSON: {facts}", "Turn this into JSON: {facts}", "Convert this to JSON: {facts}",
     "Extract the data as JSON: {facts}", "Return this as a JSON object: {facts}", "Extract the facts as JSON: {facts}"),
    ("as JSON: {facts}", "JSON: {facts}", "{facts} As JSON, please.", "{facts} Turn this into JSON.", "{facts} Answer in JSON."),
)  # fmt: skip


def _or_invented(rng: Random, known: list[str]) -> str:
    return rng.choice(known) if rng.random() < 0.75 else words.word(rng, longest=8)


def _value(rng: Random, fact: str) -> str | int:
    match fact:
        case "name":
            return rng.choice(_NAMES) if rng.random() < 0.7 else words.word(rng, longest=8).capitalize()
        case "age":
            return rng.randint(1, 99)
        case "city":
            return place(rng)
        case "count" | "price":
            return rng.randint(2, 10 ** rng.randint(1, 3) - 1)
    known = {"job": _JOBS, "pet": _PETS, "color": _COLORS, "item": _GOODS}[fact]
    return _or_invented(rng, known)


def _sale(rng: Random, value: dict[str, str | int]) -> str:
    verb = rng.choice(("bought", "buys", "sold", "sells"))
    priced = f" for {value['price']} {rng.choice(('euros', 'dollars'))}" if "price" in value else ""
    return f"{value['name']} {verb} {value['count']} {value['item']}{priced}."


def _person(rng: Random, value: dict[str, str | int]) -> str:
    clauses = [rng.choice(_CLAUSES[fact]).format(value[fact]) for fact in value if fact != "name"]
    if len(clauses) > 1:
        joined = f"{', '.join(clauses[:-1])} and {clauses[-1]}"
        return f"{value['name']} {joined}."
    return f"{value['name']} {clauses[0]}."


def _listed(rng: Random, keys: list[str]) -> str:
    if rng.random() < 0.1:
        keys = [f'"{key}"' for key in keys]
    if len(keys) == 1 or rng.random() < 0.25:
        return ", ".join(keys)
    return f"{', '.join(keys[:-1])} and {keys[-1]}"


def draw(rng: Random) -> Operands:
    """(wording with {facts} and {keys} in it, sentence, kind of keys, then fact and value by turns)."""
    if rng.random() < 0.35:
        facts = ["name", "count", "item"] + (["price"] if rng.random() < 0.6 else [])
    else:
        facts = ["name", *rng.sample(list(_CLAUSES), rng.randint(1, 3))]
    value = {fact: _value(rng, fact) for fact in facts}
    sentence = _sale(rng, value) if "count" in value else _person(rng, value)
    asked = rng.random() < 0.75
    ask, tell, bare = ASKED if asked else LEFT_OPEN
    wording = phrase(rng, ask=ask, tell=tell, bare=bare, keys="{keys}", facts="{facts}")
    return (wording, sentence, *(part for pair in value.items() for part in pair))


def wording(operands: Operands) -> Operands | None:
    """How it is asked."""
    return operands[:1]


def values(operands: Operands) -> Operands | None:
    """The values of the facts."""
    return operands[3::2]


def ask(rng: Random, operands: Operands) -> tuple[str, str]:
    wording, sentence = str(operands[0]), str(operands[1])
    value = dict(zip(operands[2::2], operands[3::2], strict=True))
    if "{keys}" not in wording:
        members = {str(fact): value[fact] for fact in value}
        return wording.format(facts=sentence), json.dumps(members)
    facts = [str(fact) for fact in value]
    if rng.random() < 0.4:
        facts = rng.sample(facts, rng.randint(1, len(facts)))
    keys = [rng.choice(KEYS[fact]) for fact in facts]
    members = {key: value[fact] for key, fact in zip(keys, facts, strict=True)}
    return wording.format(facts=sentence, keys=_listed(rng, keys)), json.dumps(members)
