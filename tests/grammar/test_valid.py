"""Whatever a model would choose, an answer that comes to its end is valid: random texts along the masks of drawn schemas."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import octavo.grammar.compiler
from grammar.grammars import Forms, ids_of
from octavo.errors import RequestError
from octavo.grammar.source import MAX_SPELLED_BYTES, checked_source
from octavo.grammar.words import SchemaError
from octavo.structured_outputs import GrammarSource, StructuredOutputsParams
from server.harness import EOS

NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=4)


def _leaves() -> st.SearchStrategy[dict[str, Any]]:
    small = st.integers(0, 4)
    whole = st.builds(
        lambda low, more, step: {
            "type": "integer",
            "minimum": low,
            "maximum": low + more,
            **({"multipleOf": step} if step else {}),
        },
        st.integers(-50, 50),
        st.integers(7, 90),
        st.sampled_from([0, 0, 3, 7]),
    )
    bounded = st.builds(lambda a, b: {"type": "string", "minLength": a, "maxLength": a + b}, small, small)
    values = st.lists(st.one_of(NAMES, st.integers(-9, 99), st.none(), st.booleans()), min_size=1, max_size=3)
    return st.one_of(
        st.sampled_from(
            [
                {"type": "boolean"},
                {"type": "null"},
                {"type": "string"},
                {"type": "string", "minLength": 2},
                {"type": "string", "pattern": "^[a-c]+-\\d{2}$"},
                {"type": "string", "pattern": "^[^a]{2}$"},
                {"type": "string", "format": "date"},
                {"type": "number", "minimum": -1.5, "exclusiveMaximum": 2.25},
                {"type": ["integer", "null"], "minimum": 3},
                {"type": ["string", "boolean"], "maxLength": 2},
                {"$ref": "#/$defs/leaf"},
            ]
        ),
        whole,
        bounded,
        values.map(lambda listed: {"enum": listed}),
        NAMES.map(lambda value: {"const": value}),
    )


def _wider(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    objects = st.builds(
        lambda properties, extra, loose: {
            "type": "object",
            "properties": properties,
            "required": [*list(properties)[::2], *extra],
            **({"additionalProperties": loose} if loose is not None else {}),
        },
        st.dictionaries(NAMES, inner, max_size=3),
        st.lists(st.sampled_from(["more", "other"]), unique=True, max_size=1),
        st.one_of(st.none(), st.sampled_from([True, {"type": "integer"}])),
    )
    arrays = st.builds(
        lambda items, first, least, more: {
            "type": "array",
            "items": items,
            **({"prefixItems": [first]} if more else {}),
            "minItems": least,
            "maxItems": least + more + 1,
        },
        inner,
        inner,
        st.integers(0, 2),
        st.integers(0, 2),
    )
    unions = st.lists(inner, min_size=1, max_size=2).map(lambda branches: {"anyOf": branches, "title": "one of"})
    return st.one_of(objects, arrays, unions, inner.map(lambda only: {"allOf": [only]}))


SCHEMAS = st.recursive(_leaves(), _wider, max_leaves=5).map(
    lambda schema: {"$ref": "#/$defs/root", "$defs": {"root": schema, "leaf": {"type": "string", "maxLength": 3}}}
)


def invalid_text(forms: Forms, schema: dict[str, Any], seed: int, *, whitespace: bool) -> str | None:
    """A text that came to its end and is not valid; None if there is none among some."""
    grammar = forms.compile(StructuredOutputsParams(json=schema, disable_any_whitespace=not whitespace))
    validator = jsonschema_rs.validator_for(schema)
    for each in range(seed, seed + 4):
        made, ended = forms.walk(grammar, each)
        try:
            if ended and not validator.is_valid(json.loads(made.decode("utf-8"))):
                return made.decode()
        except ValueError:
            return repr(made)
    return None


def honoured_or_refused(forms: Forms, schema: dict[str, Any], seed: int) -> bool:
    try:
        return invalid_text(forms, schema, seed, whitespace=False) is None
    except RequestError as error:
        return "at #" in error.message


SLOWLY = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@SLOWLY
@given(schema=SCHEMAS, seed=st.integers(0, 2**20), whitespace=st.booleans())
def test_every_answer_is_valid(forms: Forms, schema: dict[str, Any], seed: int, whitespace: bool) -> None:
    assert invalid_text(forms, schema, seed, whitespace=whitespace) is None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 3},
        {"type": "object", "properties": {}, "required": ["a"]},
        {"type": "array", "uniqueItems": True, "items": {"type": "boolean"}, "minItems": 2},
        {"anyOf": [{"type": "integer"}, {"type": "number"}], "maximum": -3},
        {"type": "integer", "enum": ["a"]},
        {"type": "string", "pattern": '^"x\\\\$'},
        {"not": {"type": "string"}},
    ],
    ids=repr,
)
def test_without_the_look_at_schemas_answers_are_not_valid(
    forms: Forms, schema: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The twin: xgrammar alone makes what is not valid; with us the schema is honoured, or refused with its place."""
    assert all(honoured_or_refused(forms, schema, seed) for seed in range(0, 20, 4))

    def unchecked(source: GrammarSource) -> GrammarSource:
        return source

    monkeypatch.setattr(octavo.grammar.compiler, "checked_source", unchecked)
    twin = {**schema, "description": "a source of its own"}
    assert any(invalid_text(forms, twin, seed, whitespace=False) for seed in range(0, 40, 4))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^a", "maxLength": 3},
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"type": "number", "multipleOf": 0.5},
        {"type": "string", "format": "shoe size"},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"properties": {"a": {"if": {}, "then": {}}}},
        {"minimum": 3},
        {"type": "array", "contains": {}},
        {"enum": []},
        {"type": "strng"},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "string", "maxLength": -1},
        {"type": "string", "maxLength": True},
        {"properties": []},
        {"items": [{}]},
        {"$ref": "#/$defs/none"},
        {"$ref": "#"},
        {"$ref": "file:///etc/passwd"},
        {"type": "integer", "minimum": 5, "maximum": 2},
    ],
    ids=repr,
)
def test_what_cannot_be_held_to_is_refused(forms: Forms, schema: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as error:
        forms.compile(StructuredOutputsParams(json=schema, asked_as="guided_json"))
    assert error.value.param == "guided_json"


@pytest.mark.parametrize(
    ("form", "fits"),
    [
        (StructuredOutputsParams(regex=r"[a-z]{2,5}@(x|yy)\.org"), r"[a-z]{2,5}@(x|yy)\.org"),
        (StructuredOutputsParams(regex="[^a]{3}"), "[^a]{3}"),
        (StructuredOutputsParams(regex="[🦀-🦊]{1,3}é"), "[🦀-🦊]{1,3}é"),
        (StructuredOutputsParams(choice=[f"x{number}" for number in range(5000)]), r"x\d{1,4}"),
        (StructuredOutputsParams(choice=['a\tb\\c"d', "\x07", "\u2028", "𝄞"]), 'a\tb\\\\c"d|\x07|\u2028|𝄞'),
        (StructuredOutputsParams(grammar='root ::= "(" root ")" | "x"'), r"\(*x\)*"),
        (StructuredOutputsParams(grammar='root ::= root "a" | "b"'), "ba*"),
    ],
    ids=["regex", "negated", "astral", "5000 choices", "odd choices", "recursive", "left recursive"],
)
def test_other_forms(forms: Forms, form: StructuredOutputsParams, fits: str) -> None:
    grammar = forms.compile(form)
    ended = 0
    for seed in range(12):
        made, whole = forms.walk(grammar, seed, most=60)
        if whole:
            ended += 1
            assert re.fullmatch(fits, made.decode(), re.DOTALL)
    assert ended


def test_half_a_surrogate_pair_is_no_character(forms: Forms) -> None:
    """xgrammar lets its bytes come; they are no text."""
    grammar = forms.compile(StructuredOutputsParams(regex="[^a]{1,9}"))
    for seed in range(40):
        made, ended = forms.walk(grammar, seed, most=40)
        assert not ended or made.decode()


def test_only_the_end_is_left_at_the_end(forms: Forms) -> None:
    grammar = forms.compile(StructuredOutputsParams(choice=["é"]))
    assert ids_of(grammar.first) == ["é".encode()[0]]
    assert EOS not in ids_of(grammar.first)


TEXTS = [f"{number:05} " + "x" * 244 for number in range(1400)]
"""Of 250 bytes each, 350,000 together: more than a grammar may spell."""
LONG = "x" * 350_000
CALL = {"begin": "<", "end": ">"}
SPELLING: dict[str, dict[str, Any]] = {
    "enum": {"json": {"properties": {"a": {"enum": TEXTS}}}},
    "const": {"json": {"const": {"a": TEXTS}}},
    "several": {"json": {"anyOf": [{"enum": TEXTS[:700]}, {"enum": TEXTS[700:]}]}},
    "a pattern": {"json": {"type": "string", "pattern": LONG}},
    "choice": {"choice": TEXTS},
    "regex": {"regex": "|".join(TEXTS)},
    "EBNF": {"grammar": f'root ::= "{LONG}"'},
    "a literal without an end": {"grammar": 'root ::= "' + r"\"" * 400_000},
    "Lark": {"grammar": f'start: "{LONG}"'},
    "a tag": {
        "structural_tag": {
            "format": {"type": "tag", **CALL, "content": {"type": "json_schema", "json_schema": {"enum": TEXTS}}}
        }
    },
    "an older tag": {"structural_tag": {"structures": [{**CALL, "schema": {"enum": TEXTS}}], "triggers": ["<"]}},
    "a regex in a tag": {"structural_tag": {"format": {"type": "regex", "pattern": LONG}}},
    "choices in a tag": {"structural_tag": {"format": {"type": "grammar", "grammar": f'root ::= "{LONG}"'}}},
    "text of a tag": {"structural_tag": {"format": {"type": "const_string", "value": LONG}}},
}


@pytest.mark.parametrize("name", SPELLING)
def test_more_than_a_grammar_may_spell_is_refused_before_it_is_compiled(name: str) -> None:
    source = StructuredOutputsParams(**SPELLING[name]).source()
    with pytest.raises(SchemaError) as error:
        checked_source(source)
    assert re.search(rf"have [348]\d\d\d\d\d bytes together, at most {MAX_SPELLED_BYTES}$", error.value.why)
    assert error.value.place is None


def test_as_much_as_a_grammar_may_spell_is_served(forms: Forms) -> None:
    """What it becomes is not too large, nor does it take too long."""
    texts = [text[: MAX_SPELLED_BYTES // len(TEXTS) - len('", ""')] for text in TEXTS]
    grammar = forms.compile(StructuredOutputsParams(json={"enum": texts}))
    assert forms.fits(grammar, json.dumps(texts[-1]))
    assert not forms.fits(grammar, json.dumps(texts[-1][:-1]))


def test_what_is_noted_is_not_spelled(forms: Forms) -> None:
    forms.compile(StructuredOutputsParams(json={"type": "integer", "description": LONG}))


def test_equal_sources_are_compiled_once(forms: Forms) -> None:
    first = forms.compile(StructuredOutputsParams(json={"type": "null"}))
    assert forms.compile(StructuredOutputsParams(json='{"type":"null"}', asked_as="guided_json")) is first
    assert forms.compiler.kept(StructuredOutputsParams(json={"type": "null"})) is first
    assert forms.compiler.kept(StructuredOutputsParams(json={"type": "boolean"})) is None
