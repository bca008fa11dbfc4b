"""The processes of a server: found, killed, and their memory watched."""

from __future__ import annotations

import dataclasses
import math
import os
import random
import signal
import time
from collections import Counter, defaultdict
from pathlib import Path

import psutil

WARM_UP_S = 600.0
"""What comes before counts for no slope: pools and caches fill."""
MIB = 2**20


def processes(server: int) -> dict[str, list[int]]:
    """Kind of process -> pids: `server`, `keeper`, `body` (reads large bodies), and `worker`, which is one or waits to be one."""
    found: dict[str, list[int]] = defaultdict(list, server=[server])
    for child in psutil.Process(server).children():
        try:
            command = child.cmdline()
        except psutil.Error:
            continue
        if "octavo.worker.keeper" in command:
            found["keeper"].append(child.pid)
        elif "octavo.server.body_process" in command:
            found["body"].append(child.pid)
        elif "octavo.worker" in command:
            found["worker"].append(child.pid)
    return found


class Killer:
    """Kills workers, standbys and keepers of a server from outside."""

    def __init__(self, server: int, dice: random.Random) -> None:
        self._server, self._dice = server, dice
        self.kills: Counter[str] = Counter()

    def kill(self, worker: int | None) -> None:
        """Kill the worker most of the time, else a standby, the keeper, or all at once."""
        found = processes(self._server)
        standbys = [pid for pid in found["worker"] if pid != worker]
        workers = [worker] if worker in found["worker"] else []
        groups = {
            "worker": workers,
            "standby": standbys,
            "keeper": found["keeper"],
            "all": [*workers, *standbys, *found["keeper"]],
        }
        kind = self._dice.choices(list(groups), [6, 2, 1, 1])[0]
        number = self._dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        for pid in groups[kind]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        self.kills[kind] += bool(groups[kind])


@dataclasses.dataclass(frozen=True)
class Slope:
    """A line through samples by least squares."""

    per_hour: float
    error: float
    """Standard error of `per_hour`."""
    samples: int

    @property
    def flat(self) -> bool:
        """Nothing grows: 0 is within three standard errors, or the growth is under 1 MiB an hour."""
        return self.per_hour <= max(3 * self.error, 1.0)


def slope(samples: list[tuple[float, float]]) -> Slope:
    """The slope of (seconds, MiB) samples, per hour."""
    count = len(samples)
    if count < 3:
        return Slope(math.nan, math.nan, count)
    mean_t = sum(t for t, _ in samples) / count
    mean_m = sum(m for _, m in samples) / count
    spread = sum((t - mean_t) ** 2 for t, _ in samples)
    rate = sum((t - mean_t) * (m - mean_m) for t, m in samples) / spread
    left = sum((m - mean_m - rate * (t - mean_t)) ** 2 for t, m in samples)
    # Neighbouring samples are nearly the same one: every sixth, a minute apart, counts as an independent one.
    free = max(1.0, count / 6 - 2)
    return Slope(3600 * rate, 3600 * math.sqrt(left / 6 / free / spread * 6), count)


def resident(pid: int) -> int:
    """Bytes of anonymous and shared memory that a process holds.

    Raises:
        OSError: it has ended.
    """
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    kept = [line.split()[1] for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]
    if not kept:
        raise ProcessLookupError(f"process {pid} has ended")
    return 1024 * sum(map(int, kept))


class Memory:
    """Samples of resident memory by kind of process.

    Pages of files are left out: the kernel takes and brings them back as it likes, and they cannot leak.
    """

    def __init__(self, server: int) -> None:
        self._server = server
        self._began_s = time.monotonic()
        self.samples: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def look(self, worker: int | None) -> None:
        """Take one sample of each kind."""
        now_s = time.monotonic() - self._began_s
        for kind, pids in processes(self._server).items():
            for pid in pids:
                if kind == "worker" and pid != worker:
                    continue
                try:
                    self.samples[kind].append((now_s, resident(pid) / MIB))
                except OSError:
                    continue

    def slopes(self, warm_up_s: float = WARM_UP_S) -> dict[str, Slope]:
        """Kind of process -> growth after the warm-up."""
        return {kind: slope([each for each in kept if each[0] >= warm_up_s]) for kind, kept in self.samples.items()}
