"""Many rows a chunk at a time, on a CPU: what one operation writes, the next still finds in the cache."""

from __future__ import annotations

from collections.abc import Iterator

CHUNK_ROWS = 1024


def row_chunks(rows: int) -> Iterator[slice]:
    """Slices of at most 1024 rows, in order, at least one."""
    return (slice(begin, min(begin + CHUNK_ROWS, rows)) for begin in range(0, max(1, rows), CHUNK_ROWS))
