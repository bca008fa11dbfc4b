"""`octavo serve` on stand-ins for its workers, with a signal that comes when a function is called:
`python signalled_start.py octavo.startup.runtime.load_model 15`. At the end it prints which children are left."""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil

from octavo.cli.serve import serve
from octavo.config import Settings
from octavo.engine.processes.standby_source import StandbySource
from octavo.logs import log_as_server
from octavo.messages import WorkerConfig

TESTS = Path(__file__).parents[1]
STAND_IN = "recovery.children"


def workers(config: WorkerConfig, settings: Settings) -> StandbySource:
    return StandbySource(msgspec.structs.replace(config, model="well"), 60.0, keeper=STAND_IN, worker=STAND_IN)


def signal_at(place: str, number: int) -> None:
    """Have the signal come each time before the function called `place` runs."""
    owner_name, _, name = place.rpartition(".")
    owner: Any = pkgutil.resolve_name(owner_name)
    real = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(number)
        return real(*args, **kwargs)

    setattr(owner, name, call)


def main() -> None:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    log_as_server()
    signal_at(sys.argv[1], int(sys.argv[2]))
    try:
        sys.exit(serve(Settings(host="127.0.0.1", port=0, crash_dir="none"), workers))
    finally:
        children = psutil.Process().children(recursive=True)
        print("left:", [child.pid for child in children if STAND_IN in child.cmdline()])


if __name__ == "__main__":
    main()
