"""The heap of the C library in a process that runs for weeks."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3
"""Of `mallopt`, as glibc's malloc.h numbers it."""
MAPPED_BYTES = 128 * 1024


def map_large_blocks() -> bool:
    """Have blocks of 128 KiB and more mapped for themselves, so that freeing one gives its memory back; False: not glibc.

    glibc begins so, but raises the bound up to 32 MiB with the first such block that is freed. Later bodies are then cut
    out of the heap, and what small blocks leave of their place is never free in one piece again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES) == 1
