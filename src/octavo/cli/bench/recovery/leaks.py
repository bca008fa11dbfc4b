"""Counts what a server holds of the machine, before the kills and after them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from octavo.cli.bench.recovery.processes import Kind, family

SETTLE_S = 120.0
"""How long a server may take to end what it no longer needs and to start the standbys it wants."""
LOOK_S = 0.25
SAME_LOOKS = 8
"""After as many looks without a change it has settled."""

Census = dict[str, int]
"""What is counted -> how many."""


def take(server: int) -> Census:
    """Count what process `server` and its children hold now."""
    children = [pid for pids in family(server, None).values() for pid in pids]
    return {
        "processes": len(children),
        "descriptors": len(_links(server)),
        "memfds": len({link for pid in [server, *children] for link in _links(pid) if "memfd:" in link}),
        "/dev/shm": len(_names(Path("/dev/shm"))),
        "temporary files": sum("octavo" in name for name in _names(_temporary(server))),
    }


def more(before: Census, now: Census) -> Census:
    """Says by how much each count has grown since `before`."""
    return {name: max(0, now[name] - count) for name, count in before.items()}


async def settled(server: int) -> Census:
    """Take a census when the server has all its standbys, and connections that clients have closed are gone."""
    looks: list[Census] = []

    def same() -> bool:
        looks.append(take(server))
        return _complete(server) and looks[-SAME_LOOKS:] == [looks[-1]] * SAME_LOOKS

    await _poll(same)
    return looks[-1]


async def left(server: int, before: Census) -> Census:
    """Count by how much there is more of each than `before`, when what is about to go has gone."""
    await _poll(lambda: _complete(server) and not any(more(before, take(server)).values()))
    return more(before, take(server))


def _complete(server: int) -> bool:
    """A worker and, if there is a keeper, as many standbys as there should be."""
    from octavo.engine.processes.standbys import COUNT

    found = family(server, None)
    return len(found[Kind.STANDBY]) == (1 + COUNT if found[Kind.KEEPER] else 1)


async def _poll(done: Callable[[], bool]) -> None:
    end_s = time.monotonic() + SETTLE_S
    while not done() and time.monotonic() < end_s:
        await asyncio.sleep(LOOK_S)


def _links(pid: int) -> list[str]:
    """Where the descriptors of `pid` lead, with the inode, which tells one nameless file from another."""
    found = []
    for name in _names(Path(f"/proc/{pid}/fd")):
        with contextlib.suppress(OSError):
            path = f"/proc/{pid}/fd/{name}"
            found.append(f"{os.readlink(path)} {os.stat(path).st_ino}")
    return found


def _temporary(server: int) -> Path:
    """Where process `server` makes temporary files."""
    with contextlib.suppress(OSError):
        for setting in Path(f"/proc/{server}/environ").read_bytes().split(b"\0"):
            if setting.startswith(b"TMPDIR="):
                return Path(os.fsdecode(setting.removeprefix(b"TMPDIR=")))
    return Path(tempfile.gettempdir())


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
