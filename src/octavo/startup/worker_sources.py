"""The ways to have workers: in processes, with a keeper of the weights, or in this process."""

from __future__ import annotations

from collections.abc import Callable

from octavo.config import Settings
from octavo.engine.processes.worker_source import WorkerSource
from octavo.messages import WorkerConfig

OpenWorkers = Callable[[WorkerConfig, Settings], WorkerSource]
"""Opens what workers come from; starts none yet."""


def in_processes(config: WorkerConfig, settings: Settings) -> WorkerSource:
    """Workers in processes of their own: the death of one is an error here, not the end."""
    from octavo.engine.processes.worker_process import ProcessSource

    return ProcessSource(config, settings.worker_start_timeout)


def with_keeper(config: WorkerConfig, settings: Settings) -> WorkerSource:
    """Opens workers as `in_processes` does, with a process that holds the weights and standbys that wait to be the next worker."""
    from octavo.engine.processes.standby_source import StandbySource

    return StandbySource(config, settings.worker_start_timeout)


def in_this_process(config: WorkerConfig, settings: Settings) -> WorkerSource:
    """Workers in this process: they start sooner, but what ends one of them ends us."""
    from octavo.worker.inprocess import InProcessSource

    return InProcessSource(config)
