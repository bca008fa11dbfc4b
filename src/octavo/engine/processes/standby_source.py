"""Workers that start on weights already in memory, in a process that already waits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

import msgspec

from octavo.engine.processes.channel import LOOK_S, ProcessChannel
from octavo.engine.processes.keeper_process import Keeper, late
from octavo.engine.processes.reserve import DescriptorReserve
from octavo.engine.processes.standbys import Standby, Standbys
from octavo.engine.processes.worker_process import WORKER, ProcessWorker, Starting
from octavo.errors import ChangedWeightsError, WorkerDiedError
from octavo.messages import STANDBY_BYTES, KeptWeights, WorkerConfig

Answer = TypeVar("Answer")

KEEPER = "octavo.worker.keeper"
MAX_START_FAILURES = 2
"""Workers in a row that may fail to start before the kept weights are thought to be the reason."""

RESTART_FLOOR_S = 60.0
RESTART_FACTOR = 10.0
"""A worker that starts as one before it did may take as many times as long, or RESTART_FLOOR_S if that is longer."""


class StandbySource:
    """A `WorkerSource` of a keeper of the weights, a worker that maps them, and standbys for the workers after it.

    The keeper loads the weights once. The weights of a keeper that died are loaded again, and must be the same. Used by
    one thread at a time, but for `abandon`.

    Args:
        config: what keeper and workers are told.
        start_timeout_s: how long it may take until a worker is ready, loading included; see also RESTART_FACTOR.
        keeper: module that the keeper runs.
        worker: module that workers run.
    """

    def __init__(
        self, config: WorkerConfig, start_timeout_s: float, *, keeper: str = KEEPER, worker: str = WORKER
    ) -> None:
        self._config = config
        self._start_timeout_s = start_timeout_s
        self._keeper_module = keeper
        self._reserve = DescriptorReserve()
        self._standbys = Standbys(worker, config.device, self._reserve)
        self._keeper: Keeper | None = None
        self._worker: ProcessWorker | None = None
        self._first: KeptWeights | None = None
        self._failures = 0
        self._usual_s = 0.0
        self._free_bytes = 0
        """Of the device's memory when the first worker was ready, and there were no standbys."""
        self._starting = Starting()
        self._closed = False

    @property
    def standbys(self) -> list[Standby]:
        """The processes that wait to become workers, the next one first."""
        return self._standbys.alive()

    def ensure_keeper(self) -> ProcessChannel:
        """The process that holds the weights, a new one if there is none alive."""
        if self._keeper is not None and self._keeper.channel.death() is not None:
            self._drop_keeper()
        if self._keeper is None:
            with self._reserve.lent():
                self._keeper = Keeper(self._config, self._keeper_module)
        return self._keeper.channel

    def start(self, num_blocks: int | None) -> ProcessWorker:
        """See `WorkerSource`.

        Raises:
            WorkerDiedError: the keeper or the worker could not start, or the source is closed.
            ChangedWeightsError: the weights are no longer those of the first start.
            OSError, RuntimeError, MemoryError: the system has no room for another process.
        """
        if self._closed:
            raise WorkerDiedError("no more workers are started: the engine is closed")
        deadline_s = time.monotonic() + self._start_timeout_s
        if self._worker is not None:
            self._worker.close()
        if self._failures >= MAX_START_FAILURES:
            self._drop_keeper()
        # Both before either is waited for: they import at the same time.
        keeper, standby = self.ensure_keeper(), self._standbys.take()
        try:
            with self._starting.of(keeper, standby.channel):
                config = msgspec.structs.replace(
                    self._config,
                    num_blocks=num_blocks,
                    weights=self._ask_keeper(lambda keeper: keeper.place(deadline_s)),
                    has_predecessor=self._worker is not None and num_blocks == self._worker.ready.num_blocks,
                )
                standby.channel.need(keeper)
                if not standby.configured:  # it prepares while the weights are loaded
                    standby.channel.send(config)
                weights, load_s = self._await_weights(standby.channel, deadline_s)
                self._require_first(weights)
                config = msgspec.structs.replace(config, weights=weights)
                self._worker = self._begin(standby.channel, config, deadline_s, load_s)
        except BaseException:
            standby.channel.close()
            raise
        self._free_bytes = self._free_bytes or self._worker.ready.free_bytes
        return self._worker

    def tend(self) -> None:
        """See `WorkerSource`: sees to the standbys, before the first start to its processes."""
        if self._closed:
            return
        if self._worker is None:
            self._open()
            return
        if self._keeper is None or self._keeper.weights is None:
            return
        config = msgspec.structs.replace(
            self._config, num_blocks=self._worker.ready.num_blocks, weights=self._keeper.weights, has_predecessor=True
        )
        self._standbys.tend(config, self._keeper.channel, self._free_bytes // STANDBY_BYTES)

    def abandon(self) -> None:
        """See `WorkerSource`."""
        self._starting.abandon()

    def close(self) -> None:
        """End them all; safe to call twice."""
        self._closed = True
        keeper = None if self._keeper is None else self._keeper.channel
        idle = [*self._standbys.forget(), *([] if keeper is None else [keeper])]
        for channel in idle:
            channel.kill()
        if self._worker is not None:
            self._worker.close()
        for channel in idle:
            channel.close()
        self._reserve.close()

    def _open(self) -> None:
        """Start a keeper and the process of the first worker, which import what they need; what keeps them from it `start` will tell."""
        with contextlib.suppress(OSError, RuntimeError, MemoryError):
            self._standbys.tend(self._config, self.ensure_keeper(), most_configured=0)

    def _begin(self, standby: ProcessChannel, config: WorkerConfig, deadline_s: float, load_s: float) -> ProcessWorker:
        """The worker that `standby` becomes; a hang of one that has little to do shows before `deadline_s`."""
        began_s = time.monotonic()
        timeout_s = deadline_s - began_s
        if config.has_predecessor:
            timeout_s = min(timeout_s, max(RESTART_FLOOR_S, RESTART_FACTOR * self._usual_s))
        try:
            worker = ProcessWorker(config, timeout_s, standby, load_s, configured=True)
        except WorkerDiedError as death:
            self._failures += death.killer is None
            raise
        # one that begins where nothing else is waited for has all of it still to do
        self._failures, self._usual_s = 0, max(self._usual_s, time.monotonic() - began_s + worker.ready.ahead_s)
        return worker

    def _await_weights(self, worker: ProcessChannel, deadline_s: float) -> tuple[KeptWeights, float]:
        """Where the weights are, and the seconds that loading them took; a worker that ends while it waits for them ends the start, and not the loading."""
        while (
            loaded := self._ask_keeper(lambda keeper: keeper.load(min(deadline_s, time.monotonic() + LOOK_S)))
        ) is None:
            worker.check()
            if time.monotonic() >= deadline_s:
                self._drop_keeper()
                raise late()
        return loaded

    def _ask_keeper(self, ask: Callable[[Keeper], Answer]) -> Answer:
        """What it answers; one that does not do so in time is given up."""
        assert self._keeper is not None
        try:
            return ask(self._keeper)
        except WorkerDiedError:
            self._drop_keeper()
            raise

    def _require_first(self, weights: KeptWeights) -> None:
        """Refuse weights that are not those of the first start."""
        self._first = self._first or weights
        if _identity(weights) != _identity(self._first):
            raise ChangedWeightsError("holds other weights than when the first worker started", file=self._config.model)

    def _drop_keeper(self) -> None:
        keeper, self._keeper, self._failures = self._keeper, None, 0
        if keeper is not None:
            keeper.channel.close()


def _identity(weights: KeptWeights) -> tuple[bytes, int, int | None]:
    return weights.model, weights.num_bytes, weights.checksum
