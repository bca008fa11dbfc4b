"""Processes that wait to become the next workers."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable

from octavo.engine.processes.channel import ProcessChannel
from octavo.engine.processes.reserve import DescriptorReserve
from octavo.errors import OctavoError
from octavo.messages import Waiting, WorkerConfig

logger = logging.getLogger(__name__)

COUNT = 3
"""A second and a third death can come before a new standby has imported what a worker needs, which takes seconds."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""After a standby that could not be started, or died unused, the next is tried after a pause that doubles."""


@dataclasses.dataclass
class Standby:
    """A process that waits for what it needs to become a worker."""

    channel: ProcessChannel
    configured: bool
    """It has been told all but when to begin, and prepares what it can."""
    prepared: bool = False
    """It has done all that it can do before."""

    def look(self) -> OctavoError | None:
        """Note how far it has come; why it has ended, if it has."""
        try:
            while (message := self.channel.receive(0)) is not None:
                self.prepared = isinstance(message, Waiting) and message.configured == self.configured
        except OctavoError as error:
            return error
        return self.channel.death()


class Standbys:
    """Keeps `COUNT` processes, started one at a time and only when asked to.

    Each has imported what a worker needs. On a GPU it has also opened the device, mapped the weights and loaded its
    kernels, once there is a worker after whose settings it can do so.

    Args:
        module: what they run.
        device: what they prepare for.
        reserve: lends the descriptors that a new one needs.
        clock: seconds.
    """

    def __init__(
        self, module: str, device: str, reserve: DescriptorReserve, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._module = module
        self._device = device
        self._reserve = reserve
        self._clock = clock
        self._waiting: list[Standby] = []
        self._pause_s = 0.0
        self._not_before_s = 0.0

    def alive(self) -> list[Standby]:
        """Lists the standbys that wait, the oldest first; closes the dead."""
        for standby in [*self._waiting]:
            if (death := standby.look()) is not None:
                logger.warning("a standby is lost: %s", death.message.partition("\n")[0])
                self._waiting.remove(standby)
                standby.channel.close()
        return [*self._waiting]

    def take(self) -> Standby:
        """The oldest that is alive and that nobody has stopped, or a new one.

        Raises:
            OSError, RuntimeError, MemoryError: there is none, and the system has no room for another process.
        """
        for standby in self.alive():
            if not standby.channel.stopped:
                self._pause_s = 0.0
                self._waiting.remove(standby)
                return standby
        return Standby(self._new(), configured=False)

    def tend(self, config: WorkerConfig, keeper: ProcessChannel, most_configured: int) -> None:
        """Start one more if some are missing.

        Args:
            config: with it a standby begins to prepare.
            keeper: with whose end that standby ends too.
            most_configured: as many may have `config`; the others only import.
        """
        before = len(self._waiting)
        living = self.alive()
        if len(living) < before:
            self._postpone()
        if len(living) >= COUNT or self._clock() < self._not_before_s:
            return
        try:
            channel = self._new()
            configured = sum(standby.configured for standby in living) < most_configured
            if configured:
                channel.need(keeper)
                channel.send(config)
        # The worker that runs is well, and whatever ails the system may pass: no request is to end for it.
        except Exception as exc:
            self._postpone()
            logger.warning("no standby could be started, the next try is in %g s: %r", self._pause_s, exc)
            return
        self._waiting.append(Standby(channel, configured=configured))

    def forget(self) -> list[ProcessChannel]:
        """Give up all of them, and return them to be closed."""
        waiting, self._waiting = self._waiting, []
        return [standby.channel for standby in waiting]

    def _new(self) -> ProcessChannel:
        with self._reserve.lent():
            return ProcessChannel(self._module, "--device", self._device)

    def _postpone(self) -> None:
        self._pause_s = min(max(FIRST_PAUSE_S, 2 * self._pause_s), LONGEST_PAUSE_S)
        self._not_before_s = self._clock() + self._pause_s
