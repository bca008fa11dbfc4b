"""Each word of docs/glossary.md names a place in the code, and words that were given up do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "octavo"
ROW = re.compile(r"\| ([\w ]+) \| (.+) \| `([\w./]+)` `(\w+)` \|")
ROWS = [
    row.groups()
    for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    if (row := ROW.fullmatch(line)) is not None
]
GIVEN_UP = {
    "num_rows": "rows_in_use",
    "fan_out": "top_k",
    "halvings": "max_halvings",
    "partials": "split results",
    "Gate": "RequestMiddleware",
    "Visit": "Exchange",
    "Teller": "AnswerWriter",
    "KeptSupply": "StandbySource",
    "Ledger": "RequestTable",
    "take_in": "apply_result",
    "Hunt": "KillerSearch",
    "strikes": "deaths_at_position",
    "PoisonWatch": "SuspectWatch",
    "PATIENCE": "what is counted",
    "FAR": "WILD_OFFSET",
    "Fp8Weight": "Fp8Channel",
    "ChannelWeights": "Fp8Channel",
    "TensorWeights": "Fp8Static",
    "BlockWeights": "Fp8Block",
    "PlainWeights": "Bf16",
    "tiles_key": "the name of the weights' type",
}
"""A name that some part of this code once had, and the word that the glossary has for it."""
ELSEWHERE = {"ops/experts": ("slot", "slots", "plan")}
"""Room -> words with a meaning that the room's things do not have: there they are assignments and a permutation."""


def names_in(source: str) -> Iterator[str]:
    """Every name that `source` defines or uses."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.keyword(arg=str(name)):
                yield name


def given_up_in(source: str, room: str = "") -> set[str]:
    elsewhere = {word for path, words in ELSEWHERE.items() if room.startswith(path) for word in words}
    return {name for name in names_in(source) if name.strip("_") in GIVEN_UP.keys() | elsewhere}


def test_there_are_words_enough_and_each_is_told_once() -> None:
    words = [word for word, *_ in ROWS]
    assert 30 <= len(words) <= 60
    assert len(set(words)) == len(words)
    table_lines = re.findall(r"^\| (?!Word|---)", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(table_lines) == len(words), "a line of a table has another form"


@pytest.mark.parametrize(("word", "meaning", "path", "name"), ROWS, ids=[row[0] for row in ROWS])
def test_a_word_names_a_place_in_the_code(word: str, meaning: str, path: str, name: str) -> None:
    assert name in set(names_in((PACKAGE / path).read_text(encoding="utf-8"))), f"{word}: {path} has no {name}"


def test_words_that_were_given_up_are_no_names() -> None:
    found = {
        str(path.relative_to(ROOT)): sorted(names)
        for path in sorted(PACKAGE.rglob("*.py"))
        if (names := given_up_in(path.read_text(encoding="utf-8"), path.relative_to(PACKAGE).as_posix()))
    }
    assert found == {}, f"better words: {GIVEN_UP}"


def test_the_search_sees_a_word() -> None:
    """The twin: each form that a name can have."""
    for source in ("Hunt", "class Hunt: pass", "def Hunt(): pass", "f(Hunt=1)", "x.Hunt", "def f(Hunt): pass", "_Hunt"):
        assert given_up_in(source), source
    assert given_up_in("slots = 1", "ops/experts/moe.py") == {"slots"}
    assert not given_up_in("slots = 1", "worker/slots.py")
