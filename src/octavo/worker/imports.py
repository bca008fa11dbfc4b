"""Imports without garbage collections: modules keep nearly all that they make, and torch makes so much that looking for what nobody keeps
is a seventh of the time of its import."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """For imports: nothing is collected meanwhile, and later collections leave out what there is by then."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
