"""Workers in processes that need no torch, counted."""

from __future__ import annotations

import msgspec

from octavo.config import Settings
from octavo.engine.processes.worker_process import ProcessSource, ProcessWorker
from octavo.messages import WorkerConfig


class StandIns(ProcessSource):
    """See `engine/children.py` for `how`."""

    started = 0

    def __init__(self, config: WorkerConfig, how: str) -> None:
        super().__init__(msgspec.structs.replace(config, model=how), 60.0, module="engine.children")

    def start(self, num_blocks: int | None) -> ProcessWorker:
        StandIns.started += 1
        return super().start(num_blocks)


class Dying(StandIns):
    """The first dies of what it is told to do; the next, which gets ready in a minute, is waited for."""

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__(config, "segfault")

    def start(self, num_blocks: int | None) -> ProcessWorker:
        worker = super().start(num_blocks)
        self._config = msgspec.structs.replace(self._config, model="silent")
        return worker


def fine(config: WorkerConfig, settings: Settings) -> StandIns:
    """They answer at once."""
    return StandIns(config, "fine")


def hanging(config: WorkerConfig, settings: Settings) -> StandIns:
    """They never answer."""
    return StandIns(config, "hang")


def dying(config: WorkerConfig, settings: Settings) -> StandIns:
    """See `Dying`."""
    return Dying(config)
