"""Request fields that say what form the answer must have: OpenAI's, vLLM's, and vLLM's older ones."""

from __future__ import annotations

from typing import Any

from octavo.errors import RequestError
from octavo.server.body import Body
from octavo.structured_outputs import StructuredOutputsParams, read_structure

Json = dict[str, Any]

FIELDS = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structural_tag",
)
"""Of which a request sets one."""
BACKENDS = ("auto", "xgrammar")
RESPONSE_FORMATS = "text, json_object, json_schema and structural_tag"


class StructureFields(Body):
    """Ways to say what form the answer must have; at most one is used."""

    response_format: Json | None = None
    structured_outputs: Json | None = None
    guided_json: Json | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    guided_decoding_backend: str | None = None
    structural_tag: Json | str | None = None

    def structure(self) -> StructuredOutputsParams | None:
        """The form that the answer must have; None: any text.

        Raises:
            RequestError: more than one is asked for, or one that cannot be; `param` names the field.
        """
        backend = self.guided_decoding_backend
        if backend is not None and backend not in BACKENDS:
            raise RequestError(
                f"guided_decoding_backend is {backend!r:.60}, but only {' and '.join(BACKENDS)} are served",
                param="guided_decoding_backend",
            )
        read = {
            name: self._read_form(name, value) for name in FIELDS if (value := getattr(self, name)) not in (None, [])
        }
        given = {name: form for name, form in read.items() if form is not None}
        if len(given) > 1:
            raise RequestError(f"give one of {' and '.join(given)}, not both", param=list(given)[1])
        return next(iter(given.values()), None)

    def _read_form(self, name: str, value: Any) -> StructuredOutputsParams | None:
        if name == "response_format":
            return _read_format(value)
        if name == "structured_outputs":
            return read_structure(value, name)
        more: Json = {}
        if name == "guided_json" and self.guided_whitespace_pattern is not None:
            more["whitespace_pattern"] = self.guided_whitespace_pattern
        return read_structure({name.removeprefix("guided_"): value, **more}, name)


def _read_format(value: Json) -> StructuredOutputsParams | None:
    """What OpenAI's `response_format` asks for."""
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        schema = value.get("schema")
        return _structure(json_object=True) if schema is None else _structure(json=schema)
    if kind == "json_schema":
        told = value.get("json_schema")
        if not isinstance(told, dict) or not isinstance(told.get("schema"), dict):
            raise _wrong("of type json_schema needs json_schema.schema, a JSON schema")
        return _structure(json=told["schema"])
    if kind == "structural_tag":
        return _structure(structural_tag=value)
    raise _wrong(f"has the type {kind!r:.60}, must be one of {RESPONSE_FORMATS}")


def _structure(**constraint: Any) -> StructuredOutputsParams:
    return StructuredOutputsParams(**constraint, asked_as="response_format")


def _wrong(what: str) -> RequestError:
    return RequestError(f"response_format {what}", param="response_format")
