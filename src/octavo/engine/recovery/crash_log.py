"""Writes a folder for every crash, as many as are kept; a disk that takes none is no reason to stop."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import platform
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from octavo.engine.processes.link import WorkerLink
from octavo.engine.recovery.crash import FILE, Crash, crashed_plans, crashed_requests
from octavo.engine.step import Step
from octavo.errors import DeathCause, WorkerDiedError
from octavo.messages import WorkerConfig
from octavo.version import __version__

logger = logging.getLogger(__name__)

MAX_BYTES = 64 * 2**20
"""Of one folder: beyond them tokens are left out."""
MAX_TRACEBACK = 100_000
"""Characters, from its end."""
PACKAGES = ("torch", "triton", "numpy")
DRIVER = Path("/proc/driver/nvidia/version")
PARTIAL = ".partial-"
PATTERN = "[0-9]*T[0-9]*Z-*-step[0-9]*"


class CrashLog:
    """Writes a folder for each death of a worker; used by the engine's thread.

    Folders can be read by this user alone.

    Args:
        folder: holds the crash folders; made when the first is written.
        worker: what workers are told.
        most: crash folders kept; the oldest are removed.
        keep_prompts: token ids are written too.
    """

    def __init__(self, folder: Path, worker: WorkerConfig, *, most: int = 20, keep_prompts: bool = False) -> None:
        self.folder = folder
        self._worker = worker
        self._most = most
        self._keep_prompts = keep_prompts
        self._versions = versions()

    def write(
        self, death: WorkerDiedError, link: WorkerLink, steps: Sequence[Step], *, number: int, restarts: int
    ) -> Path | None:
        """Write what is known of `death`, and return the folder; None, with one line in the log, if that failed.

        Args:
            link: the worker that died, not yet closed; of one that could not start, the last that could.
            steps: in flight, oldest first.
            number: the engine's number of the oldest.
            restarts: so far.
        """
        try:
            now = datetime.datetime.now(datetime.UTC)
            crash = self._crash(death, link, steps, now.isoformat(), number, restarts)
            path = self.folder / f"{now:%Y%m%dT%H%M%S.%fZ}-{death.cause.value}-step{number}"
            self._save(path, self._encode(crash))
            self._remove_old()
        # Anything at all that goes wrong here would end the requests that the recovery is for.
        except Exception as exc:
            logger.warning("no crash file could be written in %s: %s", self.folder, exc)
            return None
        logger.warning("crash file: %s", path)
        return path

    def _crash(
        self,
        death: WorkerDiedError,
        link: WorkerLink,
        steps: Sequence[Step],
        time: str,
        number: int,
        restarts: int,
    ) -> Crash:
        ready = link.ready
        return Crash(
            time=time,
            cause=death.cause,
            message=death.headline,
            exit_code=death.exit_code,
            traceback=death.traceback[-MAX_TRACEBACK:],
            output=_printed(death, link),
            step=number,
            restarts=restarts,
            plans=crashed_plans(steps),
            requests=crashed_requests(steps, keep_prompts=self._keep_prompts),
            # The weights of a keeper are gone with it, and the next worker must have as many blocks.
            worker=msgspec.structs.replace(self._worker, weights=None, num_blocks=ready.num_blocks),
            ready=ready,
            versions=self._versions,
        )

    def _encode(self, crash: Crash) -> bytes:
        data = msgspec.json.encode(crash)
        if len(data) > MAX_BYTES and self._keep_prompts:
            logger.warning("the crash file leaves out tokens: with them it has %d bytes", len(data))
            bare = [msgspec.structs.replace(request, token_ids=None) for request in crash.requests]
            data = msgspec.json.encode(msgspec.structs.replace(crash, requests=bare))
        if len(data) > MAX_BYTES:
            raise ValueError(f"it would have {len(data)} bytes, more than {MAX_BYTES}")
        return data

    def _save(self, path: Path, data: bytes) -> None:
        """All of it or nothing: whoever sees the folder sees it whole."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(PARTIAL + path.name)
        partial.mkdir(mode=0o700)
        try:
            with open(os.open(partial / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _remove_old(self) -> None:
        for old in sorted(self.folder.glob(PATTERN))[: -self._most]:
            shutil.rmtree(old, ignore_errors=True)


def _printed(death: WorkerDiedError, link: WorkerLink) -> list[str]:
    """The last lines of the worker that died; one that could not start has no link, but an error with all it printed."""
    return death.message.splitlines()[1:] if death.cause is DeathCause.START else link.last_output()


def versions() -> dict[str, str]:
    """Name to version of what a step depends on; what is not installed is left out."""
    found = {"octavo": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    with contextlib.suppress(OSError):
        found["driver"] = DRIVER.read_text().partition("\n")[0]
    return found
