"""The worker as a process of its own, at the other end of a `ProcessChannel`'s wire.

The child gets a `WorkerConfig` and `Begin`, and answers `WorkerReady` or `WorkerFault`; then plans go one way and results
the other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from octavo.engine.processes.channel import ProcessChannel
from octavo.errors import WorkerDiedError
from octavo.messages import Begin, StepMasks, StepPlan, StepResult, Waiting, WorkerConfig, WorkerReady

WORKER = "octavo.worker"


class ProcessWorker:
    """A `WorkerLink` to a child process; starting it waits until the model is loaded.

    Used by one thread at a time.

    Args:
        config: what it is told.
        start_timeout_s: how long it may take to become ready.
        load_s: seconds that loading weights for it took before.
        channel: a process that waits for its config, which is closed with this worker; None: start one.
        configured: `channel` was sent `config` before, but for what `Begin` says.

    Raises:
        WorkerDiedError: the child ended, reported a fault, or was not ready within `start_timeout_s` seconds.
        OSError, RuntimeError, MemoryError: the system has no room for another process.
    """

    def __init__(
        self,
        config: WorkerConfig,
        start_timeout_s: float,
        channel: ProcessChannel | None = None,
        load_s: float = 0.0,
        *,
        configured: bool = False,
    ) -> None:
        self._channel = channel or ProcessChannel(WORKER)
        try:
            if not configured:
                self._channel.send(config)
            ready = self._start(config, time.monotonic() + start_timeout_s)
        except BaseException:
            self.close()
            raise
        self._ready = msgspec.structs.replace(ready, load_s=ready.load_s + load_s)

    @property
    def ready(self) -> WorkerReady:
        return self._ready

    def send(self, plan: StepPlan) -> None:
        self._channel.send(plan)

    def tell(self, masks: StepMasks) -> None:
        self._channel.send(masks)

    def receive(self, timeout_s: float | None) -> StepResult | None:
        message = self._channel.receive(None if timeout_s is None else time.monotonic() + timeout_s)
        if message is None or isinstance(message, StepResult):
            return message
        raise WorkerDiedError(f"the worker sent {type(message).__name__} instead of a result")

    @property
    def stopped(self) -> bool:
        return self._channel.stopped

    def last_output(self) -> list[str]:
        return self._channel.last_output()

    def close(self) -> None:
        self._channel.close()

    def _start(self, config: WorkerConfig, deadline_s: float) -> WorkerReady:
        self._channel.send(Begin(config.num_blocks, config.has_predecessor, config.weights, time.monotonic()))
        message = self._channel.receive(deadline_s)
        while isinstance(message, Waiting):
            message = self._channel.receive(deadline_s)
        if message is None:
            raise WorkerDiedError(
                "the worker was not ready in time; worker_start_timeout sets how long the first may take"
            )
        if not isinstance(message, WorkerReady):
            raise WorkerDiedError(f"the worker sent {type(message).__name__} before it was ready")
        return message


class Starting:
    """The processes that a start waits for, which another thread may kill so that it fails."""

    def __init__(self) -> None:
        self._channels: tuple[ProcessChannel, ...] = ()
        self._abandoned = False

    @contextmanager
    def of(self, *channels: ProcessChannel) -> Iterator[None]:
        """While `channels` are waited for."""
        self._channels = channels
        if self._abandoned:  # before they could be seen
            self.abandon()
        try:
            yield
        finally:
            self._channels = ()

    def abandon(self) -> None:
        """Kills the processes that are waited for, now and from now on; any thread may call it."""
        self._abandoned = True
        for channel in self._channels:
            channel.kill()


class ProcessSource:
    """A `WorkerSource` of processes that each load the model for themselves.

    Args:
        config: what every worker is told.
        start_timeout_s: how long one may take to become ready.
    """

    def __init__(self, config: WorkerConfig, start_timeout_s: float, module: str = WORKER) -> None:
        self._config = config
        self._start_timeout_s = start_timeout_s
        self._module = module
        self._worker: ProcessWorker | None = None
        self._starting = Starting()

    def start(self, num_blocks: int | None) -> ProcessWorker:
        self.close()
        config = msgspec.structs.replace(self._config, num_blocks=num_blocks)
        channel = ProcessChannel(self._module)
        with self._starting.of(channel):
            self._worker = ProcessWorker(config, self._start_timeout_s, channel)
        return self._worker

    def tend(self) -> None:
        pass

    def abandon(self) -> None:
        self._starting.abandon()

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
