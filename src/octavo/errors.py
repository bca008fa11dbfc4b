"""Errors Octavo raises, and the HTTP answer each becomes.

    OctavoError
    ├── ConfigError            a setting is wrong                 the process does not start (exit code 2)
    ├── CheckpointError        a model folder is wrong            the process does not start (exit code 2)
    │   └── ChangedWeightsError    no longer what it was at the start
    ├── KernelContractError    a tensor breaks a kernel contract  a bug in the caller: 500
    ├── RequestError           a request is wrong                 400
    │   ├── PromptTooLongError no model here reads so much        400
    │   ├── AuthenticationError                                   401
    │   └── NotFoundError      unknown model or route             404
    ├── OverloadedError        the queue is full or recovering    503 with Retry-After
    ├── RequestFailedError     this one request failed            500
    ├── ClosedError            an LLM is used after its end       a bug in the caller: 500
    └── WorkerDiedError        the worker process is gone         500 (503 for requests not yet accepted)

Each class says its status and OpenAI type once; `server/errors.py` turns them into bodies.
"""

from __future__ import annotations

import enum
import signal
from typing import ClassVar


class OctavoError(Exception):
    """Root of all errors raised on purpose. `message` says what is wrong and what to do."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "InternalServerError"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(OctavoError):
    """A setting has a value that cannot work; names the setting and the remedy."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(f"{setting}: {message}")
        self.setting = setting
        self.reason = message


class CheckpointError(OctavoError):
    """A model folder lacks something or holds something unexpected; names file and tensor."""

    def __init__(self, message: str, *, file: str | None = None, tensor: str | None = None) -> None:
        self.reason = message
        where = " ".join(
            part for part in (f"file {file}" if file else "", f"tensor {tensor}" if tensor else "") if part
        )
        super().__init__(f"{where}: {message}" if where else message)
        self.file = file
        self.tensor = tensor


class ChangedWeightsError(CheckpointError):
    """The weights are no longer those of the first start, so answers would change in their middle."""


class KernelContractError(OctavoError):
    """An argument breaks a kernel's contract; names the argument, what was expected and what came."""

    def __init__(self, argument: str, expected: str, got: str) -> None:
        super().__init__(f"{argument}: expected {expected}, got {got}")
        self.argument = argument


class RequestError(OctavoError):
    """A request can never be served as it is; `param` names the field."""

    status = 400
    kind = "BadRequestError"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PromptTooLongError(RequestError):
    """The prompt has `num_tokens` tokens or more, of which a request may have `most`."""

    def __init__(self, message: str, *, param: str | None = None, num_tokens: int = 0, most: int = 0) -> None:
        super().__init__(message, param=param)
        self.num_tokens = num_tokens
        self.most = most


class AuthenticationError(RequestError):
    """The API key is missing or wrong."""

    status = 401
    kind = "AuthenticationError"


class NotFoundError(RequestError):
    """The model or the route does not exist."""

    status = 404
    kind = "NotFoundError"


class OverloadedError(OctavoError):
    """No room now; the client may try again after `retry_after_s` seconds."""

    status = 503
    kind = "ServiceUnavailableError"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RequestFailedError(OctavoError):
    """This request failed inside the engine; no other request is touched."""


class ClosedError(OctavoError):
    """An `LLM` or `AsyncLLM` is used that was closed, or that belongs to another process."""


class DeathCause(enum.Enum):
    """How a worker was lost; the values are metric labels."""

    EXIT = "exit"
    """The process ended by itself."""
    SIGNAL = "signal"
    """The process was killed."""
    FAULT = "fault"
    """It reported an error that it cannot go on from, or answered what was not asked."""
    HANG = "hang"
    """A step took too long."""
    START = "start"
    """It did not become ready."""


FROM_INSIDE = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGABRT,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGSYS,
    }
)
"""Signals that a process brings upon itself; all others are sent to it."""


class WorkerDiedError(OctavoError):
    """The worker process ended; `exit_code` is what the system says (negative: the signal)."""

    def __init__(
        self, message: str, *, exit_code: int | None = None, cause: DeathCause | None = None, traceback: str = ""
    ) -> None:
        """`cause`: as `exit_code` says if None; FAULT where the process has not ended. `traceback`: the worker's."""
        super().__init__(message)
        self.exit_code = exit_code
        self.traceback = traceback
        self.cause = cause or _cause(exit_code)

    @property
    def killer(self) -> signal.Signals | None:
        """The signal by which somebody outside ended the process, such as the kernel for want of memory.

        None if the worker ended from inside: by itself, by an error, or by a signal that only its own code raises.
        """
        if self.exit_code is None or self.exit_code >= 0 or self.cause not in (DeathCause.SIGNAL, DeathCause.START):
            return None
        try:
            killer = signal.Signals(-self.exit_code)
        except ValueError:  # a real-time signal: nothing in a worker raises one
            return signal.SIGKILL
        return None if killer in FROM_INSIDE else killer

    @property
    def headline(self) -> str:
        """The first line, without what the worker printed."""
        return self.message.partition("\n")[0].removesuffix("; its last output:")


def _cause(exit_code: int | None) -> DeathCause:
    if exit_code is None:
        return DeathCause.FAULT
    return DeathCause.SIGNAL if exit_code < 0 else DeathCause.EXIT
