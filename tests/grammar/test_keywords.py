"""Each word of JSON schemas by itself: held to, or refused with its place."""

from __future__ import annotations

import copy
import enum
import json
import math
import sys
from typing import Annotated, Any, Literal

import jsonschema_rs
import pydantic
import pytest

from grammar.grammars import Forms
from octavo.errors import RequestError
from octavo.grammar.schema import checked_schema
from octavo.grammar.words import SchemaError
from octavo.structured_outputs import StructuredOutputsParams

Schema = dict[str, Any]

INTEGER: Schema = {"type": "integer"}
RECORD: Schema = {"type": "object", "additionalProperties": INTEGER}
KINDS = [
    {"type": "object", "properties": {"kind": {"const": kind}, kind: INTEGER}, "required": ["kind", kind]}
    for kind in ("cat", "dog")
]

HELD: list[tuple[Schema, list[Any], list[Any]]] = [
    ({"type": "object"}, [{}, {"a": [1]}], [1, []]),
    ({"type": ["array", "null"]}, [None, [], [1, "a"]], [1, {}]),
    ({"enum": ["a", 2, None]}, ["a", 2, None], ["b", 3]),
    ({"const": {"a": [1]}}, [{"a": [1]}], [{"a": [2]}]),
    ({"type": "integer", "minimum": 3, "exclusiveMaximum": 9}, [3, 8], [2, 9, 3.5]),
    ({"type": "number", "exclusiveMinimum": -1.5, "maximum": 2}, [-1.25, 2], [-1.5, 2.5, -3]),
    ({"type": "integer", "multipleOf": 3}, [3, 12], [4]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "abc"], ["a", "abcd"]),
    ({"type": "string", "pattern": "^[ab]+$"}, ["ab"], ["c", ""]),
    ({"type": "string", "pattern": "^[ab]+$", "format": "email"}, ["ab"], ["c"]),
    ({"type": "string", "format": "date"}, ["2026-11-29"], ["2026-13-29", "today"]),
    ({"type": "string", "format": "password"}, ["x"], [1]),
    ({"type": "array", "items": INTEGER}, [[], [1, 2]], [["a"]]),
    ({"minItems": 1}, [[1], [[]]], [[]]),
    ({"type": "array", "maxItems": 1}, [[], ["a"]], [[1, 2]]),
    ({"type": "array", "prefixItems": [INTEGER, True], "minItems": 2}, [[1, "a"]], [["a", 1], [1]]),
    ({"type": "array", "prefixItems": [INTEGER], "unevaluatedItems": INTEGER}, [[1, 2]], [[1, "a"]]),
    ({"properties": {"a": INTEGER}}, [{}, {"a": 1}], [{"a": "x"}, {"a": 1.5}]),
    ({"required": ["a"]}, [{"a": 1}], [{}]),
    ({"type": "object", "properties": {"a": INTEGER}, "additionalProperties": False}, [{"a": 1}], [{"b": 1}]),
    (RECORD, [{"a": 1, "b": 2}], [{"a": "x"}]),
    ({"type": "object", "unevaluatedProperties": INTEGER}, [{"a": 1}], [{"a": "x"}]),
    ({"type": "object", "properties": {"a": {}, "b": {}}, "minProperties": 1}, [{"b": 1}], [{}]),
    ({"maxProperties": 1}, [{}, {"a": 1}], [{"a": 1, "b": 2}]),
    ({"patternProperties": {"^x+$": INTEGER}}, [{}, {"xx": 1}], [{"x": "a"}]),
    ({**RECORD, "propertyNames": {"pattern": "^x+$"}}, [{"xx": 1}], [{"a": 1}, {"x": "a"}]),
    ({**RECORD, "propertyNames": {"enum": ["a", "b"]}, "required": ["b"]}, [{"a": 1, "b": 2}], [{"a": 1}, {"c": 1}]),
    ({**RECORD, "propertyNames": {"$ref": "#/$defs/n"}, "$defs": {"n": {"const": "a"}}}, [{"a": 1}], [{"b": 1}]),
    ({"type": "object", "propertyNames": False}, [{}], [{"a": 1}]),
    ({"type": "object", "propertyNames": True}, [{"a": 1}], [1]),
    ({"$ref": "#/$defs/a", "$defs": {"a": INTEGER}}, [1], ["a"]),
    ({"anyOf": [INTEGER, {"type": "null"}]}, [1, None], ["a"]),
    ({"allOf": [INTEGER]}, [1], ["a"]),
    ({"oneOf": [INTEGER, {"type": "string"}, {"const": None}]}, [1, "a", None], [[]]),
    ({"oneOf": KINDS}, [{"kind": "cat", "cat": 1}, {"kind": "dog", "dog": 1}], [{"kind": "cat", "dog": 1}]),
    ({"type": "string", "uniqueItems": False, "title": "t", "x-note": {"not": {}}}, ["a"], [1]),
]

REFUSED: list[tuple[Schema, str]] = [
    ({"properties": {"a": {"not": {}}}}, "#/properties/a"),
    ({"items": {"if": {}, "then": {}}}, "#/items"),
    ({"type": "array", "contains": {}}, "#"),
    ({"type": "array", "uniqueItems": True}, "#"),
    ({"type": "object", "dependentRequired": {}}, "#"),
    ({"type": "object", "dependentSchemas": {}}, "#"),
    ({"type": "object", "dependencies": {}}, "#"),
    ({"$dynamicRef": "#a"}, "#"),
    ({"type": "number", "multipleOf": 2}, "#"),
    ({"type": "integer", "multipleOf": 0}, "#/multipleOf"),
    ({"type": "integer", "minimum": 1.5}, "#/minimum"),
    ({"type": "number", "exclusiveMinimum": True}, "#/exclusiveMinimum"),
    ({"type": "string", "pattern": "^(?=a)"}, "#/pattern"),
    ({"type": "string", "pattern": "\\bword"}, "#/pattern"),
    ({"type": "array", "prefixItems": [INTEGER], "unevaluatedItems": {"not": {}}}, "#/unevaluatedItems"),
    ({"patternProperties": {'a"': INTEGER}}, '#/patternProperties/a"'),
    ({"patternProperties": {"^a": INTEGER, "a$": {"type": "string"}}}, "#/patternProperties"),
    ({"properties": {"ab": INTEGER}, "patternProperties": {"^a": {"type": "string"}}}, "#"),
    ({"properties": {"ab": INTEGER}, "propertyNames": {"pattern": "^b+$"}}, "#"),
    ({"propertyNames": {"const": 1}}, "#/propertyNames"),
    ({"propertyNames": {"anyOf": [INTEGER]}}, "#/propertyNames"),
    ({"propertyNames": {"$ref": "#/$defs/n"}, "$defs": {"n": INTEGER}}, "#/propertyNames"),
    ({"$ref": "#/elsewhere", "elsewhere": {"type": "string", "not": {}}}, "#/$ref"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$id": "b", "$ref": "#/$defs/c", "$defs": {"c": {}}}}}, "#/$defs/a/$ref"),
    ({"oneOf": [INTEGER, {"type": "number"}]}, "#/oneOf"),
    ({"oneOf": [{"const": [1]}, {"const": [1.0]}]}, "#/oneOf"),
    ({"oneOf": [{"type": "object", "required": ["a"]}, {"type": "object", "required": ["b"]}]}, "#/oneOf"),
    ({"anyOf": [INTEGER, False]}, "#/anyOf/1"),
    ({"properties": {"a": False}}, "#/properties/a"),
    ({"$ref": "#/$defs/a", "$defs": {"a": False}}, "#/$ref"),
    ({"items": {"any_of": [INTEGER]}}, "#/items"),
    ({"type": "string", "maxLenght": 3}, "#"),
    (
        {"properties": {"a": {"type": "string", "pattern": "a+"}, "b": {"type": "string", "pattern": "("}}},
        "#/properties/b/pattern",
    ),
    ({"properties": {"pattern": {"type": "string", "pattern": "a{2,1}"}}}, "#/properties/pattern/pattern"),
    ({"patternProperties": {"[/": INTEGER}}, "#/patternProperties/[~1"),
    *[
        ({"properties": {"a": {"type": kind, word: value}}}, f"#/properties/a/{word}")
        for kind in ("integer", "number")
        for word in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        for value in (10**400, -(10**400))
    ],
    ({"type": "integer", "minimum": 2**63}, "#/minimum"),
    ({"type": "integer", "maximum": -(2**63) - 1}, "#/maximum"),
    ({"type": "integer", "exclusiveMinimum": 2**63 - 1}, "#/exclusiveMinimum"),
    ({"type": "integer", "exclusiveMaximum": -(2**63)}, "#/exclusiveMaximum"),
    ({"type": "integer", "minimum": 1e300}, "#/minimum"),
    ({"type": "integer", "multipleOf": 1025}, "#/multipleOf"),
    ({"type": "integer", "multipleOf": 10**400}, "#/multipleOf"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "#"),
    ({"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 6}, "#"),
    ({"type": "number", "minimum": 5, "exclusiveMaximum": 5}, "#"),
    ({"type": "number", "exclusiveMinimum": 5.5, "maximum": 5.25}, "#"),
    ({"enum": ["a", {"b": [1, 10**400]}]}, "#/enum/1/b/1"),
    ({"const": 2**63 + 1}, "#/const"),
    ({"type": "integer", "default": 10**400}, "#/default"),
    ({"type": "boolean", "a/b": [{"c": -(10**400)}]}, "#/a~1b/0/c"),
    *[({word: 2**32 + 1}, f"#/{word}") for word in ("minItems", "maxItems", "maxProperties")],
    ({"properties": {"a": {}}, "minProperties": 2**32}, "#/minProperties"),
    *[({"type": "string", word: 10**12}, f"#/{word}") for word in ("minLength", "maxLength")],
    ({"minItems": 5, "maxItems": 3}, "#"),
    ({"minProperties": 5, "maxProperties": 3}, "#"),
]


def text_of(value: Any) -> str:
    """Its JSON, without whitespace, which values of a list do not have."""
    return json.dumps(value, separators=(",", ":"))


def drawn(forms: Forms, schema: Schema, count: int = 6) -> list[Any]:
    """Values of random answers that came to their end."""
    grammar = forms.compile(StructuredOutputsParams(json=schema))
    texts = [text for seed in range(count) for text, ended in [forms.walk(grammar, seed, most=80)] if ended]
    return [json.loads(text.decode()) for text in texts]


@pytest.mark.parametrize(("schema", "fitting", "others"), HELD, ids=repr)
def test_a_word_is_held_to(forms: Forms, schema: Schema, fitting: list[Any], others: list[Any]) -> None:
    validator = jsonschema_rs.validator_for(schema)
    assert all(map(validator.is_valid, fitting))
    assert "format" in schema or not any(map(validator.is_valid, others))
    grammar = forms.compile(StructuredOutputsParams(json=schema))
    assert [value for value in fitting if not forms.fits(grammar, text_of(value))] == []
    assert [value for value in others if forms.fits(grammar, text_of(value))] == []
    assert [value for value in drawn(forms, schema) if not validator.is_valid(value)] == []


@pytest.mark.parametrize(("schema", "place"), REFUSED, ids=repr)
def test_what_cannot_be_held_to_is_refused_with_its_place(forms: Forms, schema: Schema, place: str) -> None:
    with pytest.raises(RequestError) as error:
        forms.compile(StructuredOutputsParams(json=schema))
    assert f"at {place}: " in error.value.message


FAR = [math.inf, -math.inf, math.nan, 10**400, -(10**5000)]


@pytest.mark.parametrize("number", FAR, ids=["infinite", "below all", "none", "400 digits", "5000 digits"])
def test_a_number_that_is_none_of_double_precision_is_refused_with_its_place(forms: Forms, number: float) -> None:
    """In schemas and in structural tags, of Python and of JSON."""
    schema = {"type": "integer", "minimum": number}
    tag = {"format": {"type": "json_schema", "json_schema": schema}}
    bounded = {"format": {"type": "any_text", "max_tokens": number}}
    for place, fields in (
        ("#/minimum", {"json": schema}),
        ("#/format/json_schema/minimum", {"structural_tag": tag}),
        ("#/format/max_tokens", {"structural_tag": bounded}),
    ):
        with pytest.raises(RequestError) as error:
            forms.compile(StructuredOutputsParams(**fields))
        assert f"at {place}: must be a number of double precision" in error.value.message


@pytest.mark.parametrize("written", ["1e999", "-1e999", "1" + "0" * 400, "1" + "0" * 5000])
def test_a_number_in_a_text_that_is_none_of_double_precision_too(forms: Forms, written: str) -> None:
    with pytest.raises(RequestError) as error:
        forms.compile(StructuredOutputsParams(json=f'{{"items": {{"type": "number", "minimum": {written}}}}}'))
    assert "at #/items/minimum: must be a number of double precision" in error.value.message


def test_the_largest_numbers_are_held_to(forms: Forms) -> None:
    for number in (2**63 - 1, -(2**63)):
        for word in ("minimum", "maximum"):
            grammar = forms.compile(StructuredOutputsParams(json={"type": "integer", word: number}))
            assert forms.fits(grammar, str(number))
            assert not forms.fits(grammar, str(number + (1 if word == "maximum" else -1)))
    for listed in (2**63 - 1, -(2**63), 2**64, 10**22, sys.float_info.max, 5e-324):
        text, ended = forms.walk(forms.compile(StructuredOutputsParams(json={"enum": [listed]})), 0)
        assert (json.loads(text), ended) == (listed, True)


def of_words(number: int, required: int, *, each: Schema = INTEGER) -> Schema:
    """An object of so many properties, of which so many are required."""
    properties = {f"p{n}": each for n in range(number)}
    return {"type": "object", "properties": properties, "required": list(properties)[:required]}


@pytest.mark.parametrize(
    "schema",
    [
        of_words(512, 0),
        of_words(4096, 4096),
        of_words(4096, 3584),
        {"prefixItems": [of_words(512, 0)] * 8},
        {**of_words(90, 0), "minProperties": 1},
        {**of_words(512, 0), "maxProperties": 16},
        {**of_words(512, 412), "minProperties": 9, "maxProperties": 81},
        {"type": "string", "properties": {}, "required": [[]]},
    ],
    ids=["optional", "required", "both", "eight objects", "minProperties", "maxProperties", "both bounds", "no object"],
)
def test_as_many_properties_as_can_be_compiled_are_taken(schema: Schema) -> None:
    checked_schema(copy.deepcopy(schema))


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (of_words(513, 0), "#/properties"),
        (of_words(1400, 800), "#/properties"),
        (of_words(4097, 4097), "#/properties"),
        ({"items": of_words(1, 0, each=of_words(1400, 0))}, "#/items/properties/p0/properties"),
        ({"prefixItems": [*[of_words(512, 0)] * 8, of_words(1, 0)]}, "#/prefixItems/0/properties"),
        ({**RECORD, "propertyNames": {"enum": [f"p{n}" for n in range(513)]}}, "#/properties"),
        ({**of_words(91, 0), "minProperties": 1}, "#/minProperties"),
        ({**of_words(512, 0), "maxProperties": 17}, "#/maxProperties"),
    ],
    ids=["optional", "both", "required", "within", "nine objects", "listed names", "minProperties", "maxProperties"],
)
def test_more_properties_are_refused_with_their_place_before_anything_is_compiled(schema: Schema, place: str) -> None:
    """Over a vocabulary of 151,936 ids they may take xgrammar longer than the 10 seconds of a processor that it has."""
    with pytest.raises(SchemaError) as error:
        checked_schema(copy.deepcopy(schema))
    assert error.value.place == place


@pytest.mark.parametrize(
    "names", [{"required": list("abcdefghi")}, {"propertyNames": {"enum": list("abcdefghi")}}], ids=repr
)
def test_a_schema_does_not_grow_with_the_places_that_it_stands_for(names: Schema) -> None:
    schema: Schema = {"type": "integer"}
    for _ in range(20):
        schema = {"type": "object", **names, "additionalProperties": schema}
    assert len(json.dumps(checked_schema(schema))) < 20_000


class Colour(enum.Enum):
    """Names of a mapping."""

    RED = "red"
    BLUE = "blue"


class Cat(pydantic.BaseModel):
    """One of two that a word tells apart."""

    kind: Literal["cat"]
    lives: int = 9


class Dog(pydantic.BaseModel):
    """The other one."""

    kind: Literal["dog"]
    tricks: list[str]


class Home(pydantic.BaseModel):
    """What pydantic makes schemas of."""

    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]
    walls: dict[Colour, int]
    rooms: dict[str, float]
    owner: str | None = None
    size: tuple[int, int]
    key: pydantic.SecretStr


def test_what_pydantic_writes_is_served(forms: Forms) -> None:
    grammar = forms.compile(StructuredOutputsParams(json=Home))
    home = {"pet": {"kind": "cat"}, "walls": {"red": 1}, "rooms": {"a": 1.5}, "owner": None, "size": [1, 2], "key": "k"}
    assert forms.fits(grammar, text_of(home))
    for broken in ({"pet": {"kind": "cow"}}, {"walls": {"green": 1}}, {"size": [1]}, {"rooms": {"a": "b"}}):
        assert not forms.fits(grammar, text_of({**home, **broken}))


@pytest.mark.parametrize("head", [0xE0, 0xED, 0xF0, 0xF4])
@pytest.mark.parametrize(
    "schema", [{"type": "string", "minLength": 1}, {"type": "string", "pattern": "^\\W$"}], ids=repr
)
def test_no_byte_comes_that_makes_no_utf_8(forms: Forms, schema: Schema, head: int) -> None:
    """xgrammar takes characters that are written too long, and halves of surrogate pairs."""
    ids = forms.after(forms.compile(StructuredOutputsParams(json=schema)), b'"' + bytes([head]))
    assert ids
    tails = bytes([0x80] * (2 if head >= 0xF0 else 1))
    for id_ in ids:
        assert (bytes([head, id_]) + tails).decode()
