"""How log lines look: one form on standard error, in the server and in the processes that it starts."""

from __future__ import annotations

import logging
import os

FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CHILD_FORM = "%(asctime)s %(levelname)s {process}[{pid}] %(name)s: %(message)s"


def log_as_server() -> None:
    """Write this process's log to standard error; each logger's level says how much."""
    logging.basicConfig(format=FORM)


def log_as_child(process: str, level: str) -> None:
    """Write the log of this process, a child of the server, to standard error, with its name and number in every line.

    Args:
        process: what a person would call it.
        level: of what Octavo says, such as `debug`; libraries are heard from `warning` on.
    """
    logging.basicConfig(format=CHILD_FORM.format(process=process, pid=os.getpid()), force=True)
    logging.getLogger("octavo").setLevel(level.upper())
