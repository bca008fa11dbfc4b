"""What may be read of a model folder."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from octavo.errors import CheckpointError

OTHERS: dict[Callable[[int], bool], str] = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def require_file(path: Path) -> None:
    """Refuse what is no file: a pipe that nobody writes to would be waited for, and a device may have no end.

    Raises:
        CheckpointError: something else is at `path`, or what a link there leads to.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # who opens it says why it cannot be
    for is_kind, kind in OTHERS.items():
        if is_kind(mode):
            raise CheckpointError(f"cannot be read: it is {kind}, and no file", file=str(path))
