"""Answers names of vLLM's that Octavo knows and has no setting for: in silence, with a line in the log, or with an error."""

from __future__ import annotations

import abc
import dataclasses
import logging
from collections.abc import Sequence
from typing import ClassVar

from octavo.errors import ConfigError

log = logging.getLogger(__name__)

UNSET = ("none", "null", "")
"""Values that ask for nothing, whatever the name."""


@dataclasses.dataclass(frozen=True)
class VllmName(abc.ABC):
    """Takes values in silence if they ask for what Octavo does anyway, and answers all others."""

    else_: ClassVar[str]
    """What the configuration page says of other values."""
    reason: str
    """Why it sets nothing, and what to do instead."""
    same: tuple[str, ...] = ()
    """Values, in small letters, that ask for what is so anyway."""

    def take(self, said: str, words: Sequence[str]) -> None:
        """Take `words`, the values; `said` is what the user wrote, such as `--dtype half`.

        Raises:
            ConfigError: they ask for what cannot be had, and silence would harm.
        """
        if not {word.lower() for word in words} <= {*self.same, *UNSET}:
            self._answer(said)

    @abc.abstractmethod
    def _answer(self, said: str) -> None: ...


class Explained(VllmName):
    """Costs one line in the log: nothing that the user would miss is lost, or the line says what to do."""

    else_ = "a line in the log"

    def _answer(self, said: str) -> None:
        log.warning("%s has no effect: %s", said, self.reason)


class Refused(VllmName):
    """Stops the start: the user would not get what was asked for."""

    else_ = "refused"

    def _answer(self, said: str) -> None:
        raise ConfigError(said, self.reason)
