"""The workers in reserve, as a benchmark of a running engine wants them."""

from __future__ import annotations

import time

from octavo.engine.processes.standby_source import StandbySource
from octavo.engine.processes.standbys import COUNT
from octavo.engine.processes.worker_source import WorkerSource


def await_standbys(source: WorkerSource) -> None:
    """Wait until all have prepared, as they have long done in a server that has run for a while."""
    assert isinstance(source, StandbySource)
    while len(source.standbys) < COUNT or not all(standby.prepared for standby in source.standbys):
        source.tend()
        time.sleep(0.05)
