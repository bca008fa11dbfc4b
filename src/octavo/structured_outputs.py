"""The form that an answer must have: what clients say of it, and the one source text that a grammar is compiled from."""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from octavo.errors import RequestError

CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
"""Fields of which a request sets one."""
ANY_WHITESPACE = frozenset([r"[\n\t ]*", r"[ \n\t]*", r"[ \t\n\r]*", r"[\n\t\r ]*", r"\s*", "[\n\t ]*"])
"""Values of `whitespace_pattern` that say what holds anyway."""


CHOICES_TOGETHER = 256
"""In one rule: xgrammar's stack overflows with very many."""


NO_DOUBLE = f"must be a number of double precision, at most {sys.float_info.max:.2g}"
"""What is wrong with a `far_number`."""


class GrammarKind(enum.Enum):
    """What a source text is written in."""

    JSON_SCHEMA = "JSON schema"
    REGEX = "regular expression"
    EBNF = "EBNF grammar"
    LARK = "Lark grammar"
    STRUCTURAL_TAG = "structural tag"


class GrammarSource(msgspec.Struct, frozen=True):
    """What a grammar is compiled from; equal sources have one grammar."""

    kind: GrammarKind
    text: str
    any_whitespace: bool = True
    """JSON may have whitespace between its tokens."""


class Origin(msgspec.Struct, frozen=True):
    """What a part of a structural tag was made of, for errors."""

    part: str
    """JSON pointer of the part."""
    field: str
    """Of the request."""
    told: str
    """How an error about the part begins, up to the place within it."""
    dotted: bool = False
    """Places go on as `.properties.a`, not as `/properties/a`."""

    def beginning(self, pointer: str) -> str | None:
        """How an error about what is at `pointer` begins; None if that is not within the part."""
        rest = pointer.removeprefix(self.part)
        if not pointer.startswith(self.part) or rest[:1] not in ("", "/"):
            return None
        names = rest.split("/")
        return self.told + (".".join(map(unescaped, names)) if self.dotted else rest)

    def within(self, path: str) -> Origin:
        """The same where the part, which was the whole before, is at `path` of another one."""
        return msgspec.structs.replace(self, part=f"#{path}{self.part.removeprefix('#')}")


class StructuredOutputsParams(msgspec.Struct, frozen=True, omit_defaults=True, repr_omit_defaults=True):
    """The form of an answer; names, order and defaults are those of vLLM's `StructuredOutputsParams`.

    Raises:
        RequestError: not exactly one of json, regex, choice, grammar, json_object and structural_tag is set, or a value
            cannot be; `param` is `asked_as`.
    """

    json: Any = None
    """A JSON schema: as a dict, as JSON, or as a class with `model_json_schema`, such as pydantic's models."""
    regex: str | None = None
    """Of the whole answer."""
    choice: list[str] | None = None
    """The answer is one of these."""
    grammar: str | None = None
    """EBNF as llama.cpp writes it, with the rule `root`; or Lark, with the rule `start`."""
    json_object: bool | None = None
    """Any JSON object."""
    disable_any_whitespace: bool = False
    """JSON comes on one line, with `, ` and `: `."""
    disable_additional_properties: bool = False
    """Holds always: properties that a schema does not name are never made, unless it asks for them."""
    whitespace_pattern: str | None = None
    """Only with values that say what holds anyway: any whitespace."""
    structural_tag: Any = None
    """Text with parts that have a form: `{"format": ...}`, or the older `{"structures": ..., "triggers": ...}`."""
    asked_as: str = "structured_outputs"
    """The field of the request that errors name."""
    origins: tuple[Origin, ...] | None = None
    """Of a structural tag that the server made; None: the client wrote it."""

    def __post_init__(self) -> None:
        if self.json_object is False:
            msgspec.structs.force_setattr(self, "json_object", None)
        if hasattr(self.json, "model_json_schema"):
            msgspec.structs.force_setattr(self, "json", self.json.model_json_schema())
        given = [name for name in CONSTRAINTS if getattr(self, name) is not None]
        if len(given) != 1:
            told = "none is" if not given else " and ".join(given) + " are"
            raise self._wrong(f"needs exactly one of {', '.join(CONSTRAINTS)}, but {told} given")
        pattern = self.whitespace_pattern
        if pattern is not None and pattern not in ANY_WHITESPACE:
            raise self._wrong(
                f"has the whitespace_pattern {pattern!r:.100}, which cannot be served: leave it out for any whitespace, or "
                "set disable_any_whitespace"
            )
        self._read()

    def source(self) -> GrammarSource:
        """What the grammar is compiled from.

        Raises:
            RequestError: as the class.
        """
        text = self._read()
        return GrammarSource(self._kind, text, not self.disable_any_whitespace)

    def refused(self, reason: str, place: str | None = None) -> RequestError:
        """The error that its grammar cannot be had; `place`: JSON pointer of what is to blame, in the source."""
        for origin in self.origins or ():
            if place is not None and (begun := origin.beginning(place)) is not None:
                return RequestError(f"{begun}: {reason}", param=origin.field)
        at = "" if place is None or self.origins is not None else f"at {place}: "  # the client knows its own places
        return RequestError(f"{self.refusal}{at}{reason}", param=self.asked_as)

    @property
    def refusal(self) -> str:
        """How errors about its grammar begin."""
        what = f"this {self._kind.value}" if self.origins is None else "what is asked for"
        return f"{self.asked_as}: {what} cannot be served: "

    @property
    def _kind(self) -> GrammarKind:
        if self.json is not None or self.json_object is not None:
            return GrammarKind.JSON_SCHEMA
        if self.regex is not None:
            return GrammarKind.REGEX
        if self.choice is not None:
            return GrammarKind.EBNF
        if self.grammar is not None:
            return GrammarKind.EBNF if "::=" in self.grammar else GrammarKind.LARK
        return GrammarKind.STRUCTURAL_TAG

    def _read(self) -> str:
        if self.json is not None:
            return self._as_json("json", self.json)
        if self.json_object is not None:
            return '{"type": "object"}'
        if self.regex is not None:
            return self._as_text("regex", self.regex)
        if self.choice is not None:
            return self._choices(self.choice)
        if self.grammar is not None:
            return self._as_text("grammar", self.grammar)
        tag = self._as_json("structural_tag", self.structural_tag)
        self._check_tag(json.loads(tag))
        return tag

    def _check_tag(self, tag: Mapping[str, Any]) -> None:
        """Look at what a structural tag is made of; what its `format` may be, whoever compiles it knows."""
        if "structures" not in tag:
            if not isinstance(tag.get("format"), dict):
                raise self._wrong('has structural_tag without its "format", a JSON object')
            return
        structures, triggers = tag["structures"], tag.get("triggers", [])
        if not isinstance(structures, list) or not all(map(_is_structure, structures)):
            raise self._wrong(
                'has structural_tag whose "structures" are no list of {"begin": text, "schema": JSON schema, "end": text}'
            )
        if not isinstance(triggers, list) or not all(isinstance(trigger, str) for trigger in triggers):
            raise self._wrong('has structural_tag whose "triggers" are no list of texts')

    def _as_json(self, name: str, value: Any) -> str:
        """`value` as one line of JSON, its keys in their order."""
        try:
            if isinstance(value, str):
                value = json.loads(value, parse_constant=_no_number, parse_int=_integer)
            if not isinstance(value, dict):
                raise self._wrong(f"has {name} {value!r:.100}, which is no JSON object")
            return self._as_text(name, json.dumps(value, ensure_ascii=False, allow_nan=False))
        except RecursionError:
            raise self._wrong(f"has {name} that is nested too deeply to be read") from None
        except (ValueError, TypeError) as exc:
            if (place := far_number(value)) is not None:
                raise self.refused(NO_DOUBLE, place) from None
            raise self._wrong(f"has {name} that is no JSON: {exc!s:.200}") from exc

    def _as_text(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise self._wrong(f"has {name} {value!r:.100}, must be a text that is not empty")
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise self._wrong(f"has {name} that is not valid Unicode (a lone surrogate?)") from exc
        return value

    def _choices(self, choices: Sequence[str]) -> str:
        if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
            raise self._wrong(f"has choice {choices!r:.100}, must be a list of texts that is not empty")
        texts = dict.fromkeys(self._as_text(f"choice[{index}]", text) for index, text in enumerate(choices))
        quoted = [_quoted(text) for text in texts]
        if len(quoted) <= CHOICES_TOGETHER:
            return "root ::= " + " | ".join(quoted)
        some = [" | ".join(quoted[at : at + CHOICES_TOGETHER]) for at in range(0, len(quoted), CHOICES_TOGETHER)]
        root = "root ::= " + " | ".join(f"some{number}" for number in range(len(some)))
        return "\n".join([root, *(f"some{number} ::= {each}" for number, each in enumerate(some))])

    def _wrong(self, what: str) -> RequestError:
        return RequestError(f"{self.asked_as} {what}", param=self.asked_as)


def numbers_within(value: Any, place: str = "#") -> Iterator[tuple[str, int | float]]:
    """Yield the numbers of a JSON value, each behind its JSON pointer; `place`: that of the value, which may even hold itself."""
    left, seen = [(value, place)], set[int]()
    while left:
        each, where = left.pop()
        if isinstance(each, dict | list | tuple) and id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            left += [(inner, f"{where}/{escaped(str(name))}") for name, inner in each.items()]
        elif isinstance(each, list | tuple):
            left += [(inner, f"{where}/{index}") for index, inner in enumerate(each)]
        elif isinstance(each, int | float) and not isinstance(each, bool):
            yield where, each


def far_number(value: Any) -> str | None:
    """JSON pointer of a number within `value` that double precision does not reach; None if there is none."""
    most = sys.float_info.max
    return next((place for place, number in numbers_within(value) if not -most <= number <= most), None)


def escaped(name: str) -> str:
    """`name` in a JSON pointer, cut to what can be read."""
    return name.replace("~", "~0").replace("/", "~1")[:60]


def unescaped(name: str) -> str:
    """`name` of a JSON pointer as it is in the object."""
    return name.replace("~1", "/").replace("~0", "~")


def _is_structure(given: Any) -> bool:
    """Whether it is a part of a structural tag in its older form."""
    kinds = {"begin": str, "schema": dict, "end": str}
    return isinstance(given, dict) and all(isinstance(given.get(name), kind) for name, kind in kinds.items())


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _integer(digits: str) -> int | float:
    """The integer; infinite if it has more digits than Python reads."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def _quoted(text: str) -> str:
    """`text` as a literal of EBNF."""
    escaped = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return (
        '"' + "".join(escaped.get(char, char if char.isprintable() else f"\\U{ord(char):08x}") for char in text) + '"'
    )


def read_structure(given: Any, asked_as: str) -> StructuredOutputsParams:
    """The form that is `given` whole, or as a dict of its fields, of which errors then name `asked_as`.

    Raises:
        RequestError: it is none.
    """
    if isinstance(given, StructuredOutputsParams):
        return given
    if not isinstance(given, dict):
        raise RequestError(f"{asked_as} must be StructuredOutputsParams or a dict, got {given!r:.100}", param=asked_as)
    known = [name for name in StructuredOutputsParams.__struct_fields__ if name not in ("asked_as", "origins")]
    for name in given:
        if name not in known:
            raise RequestError(f"{asked_as} has {name!r:.60}, must have {', '.join(known)}", param=asked_as)
    return StructuredOutputsParams(**given, asked_as=asked_as)
