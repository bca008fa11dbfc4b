"""Sends each injected fault with its step; the worker does what the fault says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from octavo.errors import ConfigError
from octavo.messages import Fault, FaultKind

FORM = "KIND@step:N, KIND@tokens:N, KIND@request:ID or KIND@request:ID+ID"


@dataclasses.dataclass(frozen=True)
class AtStep:
    """Once, at the engine's step `number`, counted from 1 over all workers."""

    number: int


@dataclasses.dataclass(frozen=True)
class WithRequests:
    """Whenever requests with all of these ids are in one step; an HTTP request is meant by its X-Request-Id."""

    ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class OfTokens:
    """Whenever a step has so many tokens, or more."""

    number: int


@dataclasses.dataclass(frozen=True)
class InjectedFault:
    kind: FaultKind
    when: AtStep | WithRequests | OfTokens


def parse_fault(text: str) -> InjectedFault:
    """`kill@step:7`, `exit@tokens:8192`, `nan@request:some-id`, `exit@request:one+other`.

    Raises:
        ConfigError: it has another form, or the kind is unknown.
    """
    kind, _at, when = text.partition("@")
    kinds = [known.value for known in FaultKind]
    if kind not in kinds:
        raise ConfigError("inject_fault", f"{text!r}: the kind must be one of {', '.join(kinds)}; the form is {FORM}")
    where, _, what = when.partition(":")
    if where in ("step", "tokens") and what.isdecimal() and int(what) > 0:
        return InjectedFault(FaultKind(kind), AtStep(int(what)) if where == "step" else OfTokens(int(what)))
    if where == "request" and all(what.split("+")):
        return InjectedFault(FaultKind(kind), WithRequests(tuple(what.split("+"))))
    raise ConfigError("inject_fault", f"{text!r} has not the form {FORM}")


class FaultInjector:
    """Hands out faults; each one for a step is committed once."""

    def __init__(self, faults: Iterable[InjectedFault]) -> None:
        self._faults = list(faults)
        self._handed_out: list[tuple[int, InjectedFault]] = []
        """Those for steps, by step."""

    def faults_of(self, number: int, slots: Mapping[str, int], tokens: int) -> list[Fault]:
        """The faults of the engine's step `number` of so many tokens, in which requests, by id, have these slots."""
        found = []
        for fault in list(self._faults):
            match fault.when:
                case AtStep(at):
                    if at == number:
                        self._faults.remove(fault)
                        self._handed_out.append((at, fault))
                        found.append(Fault(fault.kind, list(slots.values())[:1]))
                case OfTokens(least):
                    if tokens >= least:
                        found.append(Fault(fault.kind, list(slots.values())))
                case WithRequests(ids):
                    hit = [[slot for name, slot in slots.items() if _is(name, asked)] for asked in ids]
                    if all(hit):
                        found.append(Fault(fault.kind, [slot for some in hit for slot in some]))
        return found

    def on_death(self, completed: int) -> None:
        """The worker died after the engine's step `completed`: of what was handed out for later steps, only the first
        was committed."""
        later = [fault for at, fault in self._handed_out if at > completed]
        self._faults += later[1:]
        self._handed_out.clear()


def _is(request_id: str, asked: str) -> bool:
    """The server names the engine's requests `<X-Request-Id>.<number>` and so on."""
    return request_id == asked or request_id.startswith(f"{asked}.")
