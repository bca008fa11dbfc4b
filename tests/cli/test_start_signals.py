"""SIGTERM and SIGINT while `octavo serve` starts: the exit code of a later stop, one line, and no process left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from warm.client import WarmPopen

SCRIPT = Path(__file__).with_name("signalled_start.py")
PLACES = {
    "files are read": "octavo.startup.runtime.load_model",
    "a process was started and nobody knows it yet": "octavo.engine.processes.channel._channels.add",
    "weights are loaded": "octavo.engine.processes.keeper_process.Keeper.load",
    "the worker warms up": "octavo.engine.processes.worker_process.ProcessWorker._start",
    "workers are there": "octavo.startup.server_context",
    "the application is made": "octavo.server.run.create_app",
}


def ended(place: str, number: signal.Signals) -> tuple[int, str, str]:
    """Exit code, output and log of a start in which the signal comes there."""
    command = [sys.executable, str(SCRIPT), place, str(int(number))]
    with WarmPopen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            output, log = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, output, log


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_start(place: str, number: signal.Signals) -> None:
    code, output, log = ended(place, number)
    assert (code, output) == (0, "left: []\n")
    assert len(log.splitlines()) == 1, log
    assert f"stopped by {number.name} during the start" in log


def test_a_signal_just_before_uvicorn_takes_signals_is_not_lost() -> None:
    code, output, log = ended("octavo.server.run.listen", signal.SIGTERM)
    assert (code, output.splitlines()[-1]) == (0, "left: []")
    assert "shutting down" in log


DOWNLOADS = """
import signal, time
from concurrent.futures import ThreadPoolExecutor
from octavo.cli import start_signals

start_signals.END_S = 0.1
with start_signals.StartSignals(), ThreadPoolExecutor() as pool:
    pool.submit(time.sleep, 60)
    signal.raise_signal(signal.SIGTERM)
"""


def test_threads_that_download_are_not_waited_for() -> None:
    assert subprocess.run([sys.executable, "-c", DOWNLOADS], timeout=30, check=False).returncode == 0
