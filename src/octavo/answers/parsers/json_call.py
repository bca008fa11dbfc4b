"""A call as a JSON object with a name and arguments, as many families write it, each within its own marks."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from octavo.answers.parsers.call_form import Call
from octavo.answers.parsers.json_scanner import as_json


class _Call(msgspec.Struct):
    name: str
    arguments: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def read_calls(text: str) -> list[Call] | None:
    """The calls in the text of an array of objects; None if it holds anything else."""
    clean = _clean(text)
    items = _decode(clean, list[msgspec.Raw]) if clean is not None else None
    if not items:
        return None
    calls = [_read(bytes(item).decode()) for item in items]
    return [call for call in calls if call is not None] if None not in calls else None


def read_call(text: str) -> Call | None:
    """The call in the text of an object; None if it is none.

    Arguments stay as the model wrote them. They may be missing, or a text that holds the object.
    """
    clean = _clean(text)
    return _read(clean) if clean is not None else None


def _clean(text: str) -> str | None:
    """`text` as JSON that any client can read: escapes of half a character become U+FFFD."""
    clean = as_json(text)
    if clean is None or "\\u" not in clean or _decode(clean, msgspec.Raw) is not None:
        return clean
    try:
        written = json.dumps(json.loads(clean), ensure_ascii=False, allow_nan=False)
    except ValueError:  # a number without bounds beside it
        return None
    return written.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read(text: str) -> Call | None:
    found: _Call | None = _decode(text, _Call)
    if found is None or not found.name:
        return None
    arguments = found.parameters if found.arguments is msgspec.UNSET else found.arguments
    if isinstance(arguments, msgspec.UnsetType):
        return Call(found.name, "{}")
    written = bytes(arguments).decode()
    if written.startswith('"'):
        written = as_json((_decode(written, str) or "").strip()) or ""
    if written == "null":
        written = "{}"
    return Call(found.name, written) if written.startswith("{") else None


def _decode(text: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
