"""Names of fields in errors: protocols whose requests become those of chat call the same things otherwise."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence

import pydantic

from octavo.errors import RequestError
from octavo.server.errors import from_validation

_NEVER = r"(?!)"
_NO_NAME = r"(?<![\w./'])"
"""Behind a dot, a slash or a quote stands what the client calls so, as a property of a schema."""


class FieldNames:
    """What a protocol calls the fields of chat; without arguments as chat does.

    Args:
        leading: field of chat -> field here, where an error begins with it; elsewhere the word may be one of a sentence.
        anywhere: field or phrase of chat -> what it is here, wherever an error has it; longer ones before those in them.
        places: pattern of a place in a request of chat -> that place here.
        message: pattern of one of chat's messages, with its number as a group, and how that is written here: {} is what the
            message was made of.
    """

    def __init__(
        self,
        *,
        leading: Mapping[str, str] | None = None,
        anywhere: Mapping[str, str] | None = None,
        places: Mapping[str, str] | None = None,
        message: tuple[str, str] = (_NEVER, ""),
    ) -> None:
        self._leading, self._anywhere = leading or {}, anywhere or {}
        self._places = {re.compile(pattern): place for pattern, place in (places or {}).items()}
        self._message, self._written = re.compile(message[0]), message[1]
        self._field = re.compile(rf"^(?:{_any_of(self._leading)})\b|{_NO_NAME}(?:{_any_of(self._anywhere)})\b")

    @contextlib.contextmanager
    def renaming(self, origins: Sequence[str] = ()) -> Iterator[None]:
        """Meanwhile, errors about a request of chat name what this protocol has; `origins`: what each of its messages was
        made of.

        Raises:
            RequestError: the one of chat, or what pydantic says of a field, by the name that it has here.
        """
        try:
            yield
        except pydantic.ValidationError as invalid:
            raise self._renamed(from_validation(invalid), origins) from None
        except RequestError as error:
            self._renamed(error, origins)
            raise

    def _renamed(self, error: RequestError, origins: Sequence[str]) -> RequestError:
        error.message = self._rename(error.message, origins)
        if error.param is not None:
            error.param = self._rename(error.param, origins)
        return error

    def _rename(self, text: str, origins: Sequence[str]) -> str:
        text = self._message.sub(lambda found: self._written.format(self._origin(origins, int(found[1]))), text)
        for pattern, place in self._places.items():
            text = pattern.sub(place, text)
        return self._field.sub(lambda found: self._anywhere.get(found[0]) or self._leading[found[0]], text)

    def _origin(self, origins: Sequence[str], number: int) -> str:
        return origins[number] if number < len(origins) else self._leading.get("messages", "messages")


def _any_of(names: Mapping[str, str]) -> str:
    return "|".join(map(re.escape, names)) or _NEVER
