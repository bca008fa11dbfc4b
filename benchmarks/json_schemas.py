"""Every schema of the JSON Schema Test Suite as the form of an answer: held to, or refused with its place?

    git clone https://github.com/json-schema-org/JSON-Schema-Test-Suite suite
    python -m benchmarks.json_schemas --suite suite

Octavo's way to a grammar stands beside xgrammar's own. Of each schema that compiles, answers are drawn over octavo-tiny's tokens,
each token being one that may come, and those that come to their end are validated. Then the suite's own instances are followed
token by token: no invalid one may come to its end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import random
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jsonschema_rs

from benchmarks.provenance import commit_of, write_result
from octavo.config import Settings
from octavo.errors import RequestError
from octavo.grammar import Compiler, ForkServer, Vocabulary
from octavo.grammar.following import Following
from octavo.grammar.process import read_form
from octavo.grammar.vocabularies import Vocabularies
from octavo.startup.model import Model, load_model
from octavo.structured_outputs import StructuredOutputsParams

DRAFTS = {"draft2020-12": jsonschema_rs.Draft202012Validator, "draft7": jsonschema_rs.Draft7Validator}
REMOTE = "http://localhost:1234/"
"""Where the suite says that its other schemas lie."""
BARE_S = 20.0
"""How long xgrammar alone may take for a schema: with some it never comes to an end."""
COLUMNS = [
    "",
    "schemas",
    "compiled",
    "refused with a place",
    "refused without",
    "answers drawn",
    "not valid",
    "invalid instances let through",
    "valid ones let through",
]

Compile = Callable[[Any], Any]
"""From a schema to xgrammar's compiled grammar, or a text: why there is none."""


@dataclasses.dataclass
class Case:
    """One schema of the suite, with its instances."""

    draft: str
    file: str
    schema: Any
    description: str
    tests: list[dict[str, Any]]


@dataclasses.dataclass
class Outcome:
    """What became of one schema."""

    case: Case
    refused: str | None = None
    drawn: int = 0
    invalid: list[str] = dataclasses.field(default_factory=list)
    """Of what was drawn."""
    fits: list[str] = dataclasses.field(default_factory=list)
    """Invalid instances that are texts of the grammar."""
    valid: int = 0
    valid_fits: int = 0

    def wrong(self) -> dict[str, object] | None:
        """What must not be, as plain data."""
        if not self.invalid and not self.fits:
            return None
        return {
            "file": self.case.file,
            "schema": self.case.description,
            "drawn": self.invalid[:2],
            "fits": self.fits[:2],
        }


class Suite:
    """The files of a checkout."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def cases(self, draft: str) -> Iterator[Case]:
        """All schemas of what a draft requires."""
        for path in sorted((self._folder / "tests" / draft).glob("*.json")):
            for group in json.loads(path.read_text()):
                yield Case(draft, path.stem, group["schema"], group["description"], group["tests"])

    def remote(self, uri: str) -> Any:
        """The schema at `uri`, which the suite brings along."""
        return json.loads((self._folder / "remotes" / uri.removeprefix(REMOTE)).read_text())


class Texts:
    """What a compiled grammar lets come, over one vocabulary."""

    def __init__(self, vocabularies: Vocabularies, model: Model) -> None:
        self._vocabularies = vocabularies
        self._tokenizer = model.tokenizer
        self._ends = frozenset(model.facts.eos_token_ids)
        closing = (id_ for id_ in range(vocabularies.size) if self._tokenizer.piece(id_)[-1:] in (b'"', b"]", b"}"))
        self._closing = self._ends | frozenset(closing)

    def draw(self, grammar: Any, seed: int, most: int) -> bytes | None:
        """A text of random tokens, each one that may come; it prefers what closes. None if it comes to no end."""
        dice = random.Random(seed)
        following, made = Following(self._vocabularies, grammar), bytearray()
        for _ in range(most):
            ids = ids_of(following.bits())
            if not ids:
                return bytes(made)
            closing = [id_ for id_ in ids if id_ in self._closing]
            token = dice.choice(closing if closing and dice.random() < 0.4 else ids)
            if token in self._ends:
                return bytes(made)
            made += self._tokenizer.piece(token)
            assert following.accept(token)
        return None

    def fits(self, grammar: Any, value: Any) -> bool:
        """Whether the tokens of `value` may come, and then the end."""
        following = Following(self._vocabularies, grammar)
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        for id_ in self._tokenizer.encode(text, add_special_tokens=False):
            if id_ not in ids_of(following.bits()) or not following.accept(id_):
                return False
        ids = ids_of(following.bits())
        return not ids or not self._ends.isdisjoint(ids)


def ids_of(bits: bytes) -> list[int]:
    """The ids that `bits` allow."""
    return [8 * at + bit for at, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1]


def outcome(case: Case, compile_: Compile, texts: Texts, suite: Suite, answers: int) -> Outcome:
    """What becomes of the schema of `case`."""
    result = Outcome(case)
    grammar = compile_(case.schema)
    if isinstance(grammar, str):
        result.refused = grammar
        return result
    validator = DRAFTS[case.draft](case.schema, retriever=suite.remote)
    for seed in range(answers):
        text = texts.draw(grammar, seed, most=120)
        if text is not None:
            result.drawn += 1
            if not is_valid(validator, text):
                result.invalid.append(text.decode("utf-8", "backslashreplace"))
    for test in case.tests:
        fits = texts.fits(grammar, test["data"])
        result.valid += test["valid"]
        result.valid_fits += test["valid"] and fits
        if fits and not test["valid"]:
            result.fits.append(json.dumps(test["data"], ensure_ascii=False))
    return result


def is_valid(validator: Any, text: bytes) -> bool:
    """Whether `text` is JSON that `validator` lets pass."""
    try:
        return bool(validator.is_valid(json.loads(text.decode())))
    except ValueError:
        return False


def octavo_way(compiler: Compiler, vocabularies: Vocabularies) -> Compile:
    """As a request goes."""

    def compile_(schema: Any) -> Any:
        try:
            made = compiler.compile(StructuredOutputsParams(json=schema))
        except RequestError as error:
            return error.message
        return read_form(vocabularies.info, made.form)

    return compile_


def bare_way(vocabularies: Vocabularies) -> Compile:
    """xgrammar alone, in a process of its own, as it may never end."""
    import xgrammar

    def work(schema: Any, line: Connection) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            made = xgrammar.GrammarCompiler(vocabularies.info, max_threads=1, cache_enabled=False)
            line.send((True, made.compile_json_schema(json.dumps(schema), max_whitespace_cnt=24).serialize_json()))
        except Exception as error:
            line.send((False, str(error)))

    def compile_(schema: Any) -> Any:
        mine, other = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=work, args=(schema, other))
        child.start()
        other.close()
        try:
            made, told = mine.recv() if mine.poll(BARE_S) else (False, "it came to no end")
        except EOFError:
            made, told = False, "its process died"
        finally:
            child.kill()
            child.join()
        return xgrammar.CompiledGrammar.deserialize_json(told, vocabularies.info) if made else told

    return compile_


def row(name: str, outcomes: Sequence[Outcome]) -> list[object]:
    """A line of the table."""
    compiled = [each for each in outcomes if each.refused is None]
    valid = sum(each.valid for each in compiled)
    placed = [each for each in outcomes if each.refused is not None and "at #" in each.refused]
    return [
        name,
        len(outcomes),
        len(compiled),
        len(placed),
        len(outcomes) - len(compiled) - len(placed),
        sum(each.drawn for each in compiled),
        sum(len(each.invalid) for each in compiled),
        sum(len(each.fits) for each in compiled),
        f"{sum(each.valid_fits for each in compiled)} of {valid}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, required=True, help="a checkout of the suite")
    parser.add_argument("--answers", type=int, default=20, help="drawn for each schema that compiles")
    parser.add_argument("--file", help="only this file of each draft, told on the screen and not written down")
    args = parser.parse_args()
    model = load_model(Settings(model="octavo-tiny"))
    vocabulary = Vocabulary(model.tokenizer, model.facts.vocab_size, tuple(model.facts.eos_token_ids))
    vocabularies = Vocabularies(vocabulary)
    suite, texts, compiler = Suite(args.suite), Texts(vocabularies, model), Compiler(ForkServer(vocabulary))
    rows: list[list[object]] = []
    raw: dict[str, Any] = {"commit of the suite": commit_of(args.suite)}
    for way, compile_ in (("Octavo", octavo_way(compiler, vocabularies)), ("xgrammar alone", bare_way(vocabularies))):
        for draft in DRAFTS:
            cases = [case for case in suite.cases(draft) if args.file in (None, case.file)]
            outcomes = [outcome(case, compile_, texts, suite, args.answers) for case in cases]
            rows.append(row(f"{way}, {draft}", outcomes))
            refusals = [[each.case.file, each.case.description, each.refused] for each in outcomes if each.refused]
            wrong = [told for each in outcomes if (told := each.wrong())]
            raw[f"{way}, {draft}"] = {"refused": refusals, "wrong": wrong}
    compiler.close()
    if args.file is not None:
        print(json.dumps({"rows": rows, **raw}, indent=1, ensure_ascii=False))
        return
    write_result(
        "json_schemas",
        title="Schemas of the JSON Schema Test Suite",
        conditions=(
            "What the two drafts require of validators, each schema as the form of an answer: compiled, or refused (a 400; the two "
            f"without a place of each draft are `true` and `false` themselves). Of each schema that compiles, {args.answers} answers "
            "were drawn over octavo-tiny's tokens, of which those that came to an end are counted and validated; and the suite's own "
            "instances were followed. xgrammar alone leaves out what it does not know, as servers do that hand it a schema as it "
            "came. Valid instances that do not get through have their properties in another order than the schema, or ones that it "
            "does not name, or match a pattern with a part only."
        ),
        columns=COLUMNS,
        rows=rows,
        raw=raw,
    )


if __name__ == "__main__":
    main()
