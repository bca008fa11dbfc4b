"""What is never taught: one in ten, by a hash."""

from __future__ import annotations

import hashlib


def is_held_out(kind: str, identity: object) -> bool:
    """Whether `identity` belongs to the held-out side of the things of its kind."""
    digest = hashlib.blake2b(f"{kind}:{identity!r}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % 10 == 0
