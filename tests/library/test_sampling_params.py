"""`SamplingParams` as vLLM's users write it."""

from __future__ import annotations

import inspect
import json
import typing
from typing import Any

import msgspec
import numpy as np
import pydantic
import pytest

import octavo.sampling_params
from octavo import LLM, SamplingParams
from octavo.errors import RequestError
from octavo.sampling import _RULES, UNSERVED, RequestOutputKind, UnservedParams
from octavo.structured_outputs import GrammarKind, GrammarSource, StructuredOutputsParams
from test_llm import mock_workers


def test_the_module_that_vllms_users_import_from() -> None:
    assert octavo.sampling_params.SamplingParams is SamplingParams
    assert octavo.sampling_params.RequestOutputKind is RequestOutputKind


ENDLESS: dict[str, Any] = {"type": "object"}
ENDLESS["properties"] = {"a": ENDLESS}


@pytest.mark.parametrize(
    ("field", "given", "held"),
    [
        ("stop", "x", ["x"]),
        ("stop", None, []),
        ("stop", ("a", "b"), ["a", "b"]),
        ("stop_token_ids", None, []),
        ("stop_token_ids", {7}, [7]),
        ("logit_bias", None, {}),
        ("logprobs", True, 1),
        ("prompt_logprobs", -1, -1),
        ("best_of", 1, None),
        ("use_beam_search", False, None),
        ("length_penalty", 1.0, None),
        ("bad_words", [], []),
        ("bad_words", ("a", "b"), ["a", "b"]),
        ("allowed_token_ids", {7}, [7]),
        ("logprob_token_ids", (7, 5), [7, 5]),
        ("guided_decoding", None, None),
        ("structured_outputs", {"regex": "a+"}, StructuredOutputsParams(regex="a+")),
    ],
)
def test_a_value_that_vllm_takes(field: str, given: Any, held: Any) -> None:
    params = SamplingParams(**{field: given})
    assert getattr(params, field) == held
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params


@pytest.mark.parametrize("n", [-1, 0, 2**70])
def test_an_n_that_cannot_be_is_blamed_and_not_what_is_measured_by_it(n: int) -> None:
    with pytest.raises(RequestError) as error:
        SamplingParams(n=n, best_of=1)
    assert error.value.param == "n"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, 3) for name in UNSERVED],
        ("temperature", "hot"),
        ("top_k", 1.5),
        ("n", None),
        ("stop", 5),
        ("stop", ["a", 5]),
        ("stop", ""),
        ("stop_token_ids", 5),
        ("stop_token_ids", "12"),
        ("stop", b"x"),
        ("bad_words", "word"),
        ("detokenize", None),
        ("detokenize", "no"),
        ("logit_bias", [1]),
        ("max_tokens", 0),
        ("logprobs", -2),
        ("output_kind", "delta"),
        ("stream_interval", 0),
        ("structured_outputs", 3),
        ("structured_outputs", {}),
        ("structured_outputs", {"json": {}, "regex": "a"}),
        ("structured_outputs", {"json": "{"}),
        ("structured_outputs", {"json": '{"const": NaN}'}),
        ("structured_outputs", {"json": "[" * 100_000}),
        ("structured_outputs", {"json": ENDLESS}),
        ("structured_outputs", {"json": 7}),
        ("structured_outputs", {"regex": ""}),
        ("structured_outputs", {"regex": "\ud800"}),
        ("structured_outputs", {"choice": []}),
        ("structured_outputs", {"choice": "ab"}),
        ("structured_outputs", {"choice": ["a", 7]}),
        ("structured_outputs", {"json_object": False}),
        ("structured_outputs", {"json_object": True, "whitespace_pattern": "x*"}),
        ("structured_outputs", {"jsom": {}}),
        ("guided_decoding", {"regex": ""}),
    ],
)
def test_an_error_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(RequestError) as error:
        SamplingParams(**{field: value})
    assert error.value.param == field
    params = SamplingParams()
    setattr(params, field, value)
    with pytest.raises(RequestError) as error:
        params.clone()
    assert error.value.param == field


class Person(pydantic.BaseModel):
    """A schema as users of pydantic write it."""

    name: str


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({"json": {"b": 1, "a": 2}}, GrammarSource(GrammarKind.JSON_SCHEMA, '{"b": 1, "a": 2}')),
        ({"json": '{"b":1,"a":2}'}, GrammarSource(GrammarKind.JSON_SCHEMA, '{"b": 1, "a": 2}')),
        ({"json": {}, "disable_any_whitespace": True}, GrammarSource(GrammarKind.JSON_SCHEMA, "{}", False)),
        ({"json": Person}, GrammarSource(GrammarKind.JSON_SCHEMA, json.dumps(Person.model_json_schema()))),
        ({"json_object": True}, GrammarSource(GrammarKind.JSON_SCHEMA, '{"type": "object"}')),
        ({"regex": "a+"}, GrammarSource(GrammarKind.REGEX, "a+")),
        ({"choice": ["a", 'b"\\\n']}, GrammarSource(GrammarKind.EBNF, r'root ::= "a" | "b\"\\\n"')),
        ({"grammar": 'root ::= "a"'}, GrammarSource(GrammarKind.EBNF, 'root ::= "a"')),
        ({"grammar": 'start: "a"'}, GrammarSource(GrammarKind.LARK, 'start: "a"')),
        ({"structural_tag": {"format": {}}}, GrammarSource(GrammarKind.STRUCTURAL_TAG, '{"format": {}}')),
    ],
)
def test_what_a_grammar_is_compiled_from(given: dict[str, Any], source: GrammarSource) -> None:
    params = SamplingParams(structured_outputs=given)
    assert params.structured_outputs is not None
    assert params.structured_outputs.source() == source
    older = SamplingParams(guided_decoding=octavo.sampling_params.GuidedDecodingParams(**given))
    assert older.structured_outputs == params.structured_outputs
    assert older.guided_decoding is None
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params


def test_two_forms_are_refused() -> None:
    with pytest.raises(RequestError) as error:
        SamplingParams(structured_outputs={"regex": "a"}, guided_decoding={"regex": "b"})
    assert error.value.param == "guided_decoding"


def test_every_unserved_field_says_what_to_do() -> None:
    assert set(UNSERVED) == set(UnservedParams.__struct_fields__)
    assert set(_RULES) <= set(SamplingParams.__struct_fields__)


def test_arguments_may_be_given_by_place() -> None:
    assert SamplingParams(2, 0.1, 0.2, 1.3, 0.9) == SamplingParams(
        n=2, presence_penalty=0.1, frequency_penalty=0.2, repetition_penalty=1.3, temperature=0.9
    )


def test_what_a_type_checker_sees_is_so() -> None:
    """The signature that is written out has the fields, in their order."""
    source = inspect.getsource(SamplingParams)
    written = source.partition("def __init__(")[2].partition(") -> None")[0]
    names = [line.partition(":")[0].strip() for line in written.splitlines() if ":" in line and "**" not in line]
    assert names == [name for name in SamplingParams.__struct_fields__ if name not in UNSERVED]
    assert typing.get_type_hints(SamplingParams)["stop"] == list[str]


def test_from_optional_takes_none_as_the_default() -> None:
    made = SamplingParams.from_optional(n=None, temperature=None, top_k=5, logit_bias={"7": 300}, max_tokens=None)
    assert made == SamplingParams(top_k=5, logit_bias={7: 100.0}, max_tokens=None)


def test_a_clone_shares_nothing() -> None:
    params = SamplingParams(stop=["a"], stop_token_ids=[1], logit_bias={1: 2.0})
    clone = params.clone()
    assert clone == params
    clone.stop.append("b")
    clone.stop_token_ids.append(2)
    clone.logit_bias[2] = 1.0
    clone.max_tokens = 3
    assert params == SamplingParams(stop=["a"], stop_token_ids=[1], logit_bias={1: 2.0})


def test_a_field_that_was_set_counts_from_the_next_call() -> None:
    params = SamplingParams(temperature=0, ignore_eos=True)
    with LLM(workers=mock_workers, max_model_len=128) as llm:

        def made() -> str:
            return llm.generate("abc", params, use_tqdm=False)[0].outputs[0].text

        params.max_tokens = 40
        text = made()
        params.stop = text[20:22]  # type: ignore[assignment]
        assert made() == text[: text.index(text[20:22])]
        params.temperature = "hot"  # type: ignore[assignment]
        with pytest.raises(RequestError):
            made()
        with pytest.raises(AttributeError):
            params.max_token = 3  # type: ignore[attr-defined]


def test_all_logprobs_are_given_where_they_are_allowed() -> None:
    params = SamplingParams(temperature=0, max_tokens=2, ignore_eos=True, logprobs=-1)
    with LLM(workers=mock_workers, max_model_len=128, max_logprobs=-1) as llm:
        (answer,) = llm.generate("abc", params, use_tqdm=False)[0].outputs
        assert answer.logprobs is not None
        assert len(answer.logprobs) == 2
    with LLM(workers=mock_workers, max_model_len=128) as llm, pytest.raises(RequestError) as error:
        llm.generate("abc", params, use_tqdm=False)
    assert error.value.param == "logprobs"


def test_numbers_of_numpy_are_numbers() -> None:
    numbers: dict[str, Any] = {
        "max_tokens": np.int64(2),
        "seed": np.uint8(3),
        "temperature": np.float32(0.5),
        "top_k": np.int32(4),
    }
    given = SamplingParams(**numbers)
    assert given == SamplingParams(max_tokens=2, seed=3, temperature=0.5, top_k=4)
    assert msgspec.msgpack.encode(given)
