"""Which KV blocks hold the keys and values of which tokens: a chain over full blocks."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Iterator

from octavo.engine.snapshots import SnapshotPool

ROOT = 0


class Entry:
    """A full block in the index: the tokens of one block behind the tokens of its parent."""

    __slots__ = ("block", "key", "number", "snapshot")

    def __init__(self, number: int, key: bytes, block: int) -> None:
        self.number = number
        """Unique over the life of the index: a child of an evicted entry can never be taken for another's."""
        self.key = key
        self.block = block
        self.snapshot: int | None = None
        """Of the recurrent states behind the block, if one is kept."""


def _key(parent: int, tokens: bytes, root: bytes = b"") -> bytes:
    """Parent and token ids, whole: Python hashes the key, and compares it when hashes are equal."""
    return (root if parent == ROOT else b"") + parent.to_bytes(8, "little") + tokens


def root_of(cache_salt: str | None) -> bytes:
    """Where the chains of requests with this salt begin: 32 bytes that no other salt has; empty without one."""
    return b"" if cache_salt is None else hashlib.sha256(cache_salt.encode("utf-8", "surrogatepass")).digest()


class PrefixIndex:
    """(parent, token ids of a full block) -> the block that holds their keys and values."""

    def __init__(self, block_size: int, num_snapshots: int | None = None) -> None:
        self.block_size = block_size
        self.snapshots = SnapshotPool(num_snapshots or 0)
        self._needs_snapshots = num_snapshots is not None
        self._numbers = itertools.count(ROOT + 1)
        self._by_key: dict[bytes, Entry] = {}
        self._by_block: dict[int, Entry] = {}

    def __len__(self) -> int:
        return len(self._by_block)

    def __contains__(self, block: int) -> bool:
        return block in self._by_block

    def blocks(self) -> Iterator[int]:
        return iter(self._by_block)

    def match(self, tokens: array[int], root: bytes = b"") -> list[Entry]:
        """The longest chain of entries from `root` that is a prefix of `tokens` and leaves at least one token to compute.

        Of a model with recurrent layers it ends where a snapshot is kept.
        """
        num_blocks = (len(tokens) - 1) // self.block_size
        data = tokens[: num_blocks * self.block_size].tobytes()
        width = tokens.itemsize * self.block_size
        found: list[Entry] = []
        parent = ROOT
        for start in range(0, num_blocks * width, width):
            entry = self._by_key.get(_key(parent, data[start : start + width], root))
            if entry is None:
                break
            found.append(entry)
            parent = entry.number
        while self._needs_snapshots and found and found[-1].snapshot is None:
            found.pop()
        return found

    def register(self, parent: Entry | None, tokens: array[int], block: int, root: bytes = b"") -> Entry | None:
        """Enter `block`, which holds `tokens` behind `parent` (None: at position 0, of the chain from `root`).

        Returns:
            The entry for these tokens, which keeps an earlier block if there is one; None if `parent` has been
            evicted: nothing behind it could be found.
        """
        assert len(tokens) == self.block_size
        assert block not in self._by_block
        if parent is not None and self._by_block.get(parent.block) is not parent:
            return None
        key = _key(ROOT if parent is None else parent.number, tokens.tobytes(), root)
        entry = self._by_key.get(key)
        if entry is None:
            entry = Entry(next(self._numbers), key, block)
            self._by_key[key] = entry
            self._by_block[block] = entry
        return entry

    def forget(self, block: int) -> None:
        """Take `block` out, if it is in."""
        entry = self._by_block.pop(block, None)
        if entry is not None:
            del self._by_key[entry.key]
            self.snapshots.forget(entry)

    def reset(self) -> None:
        """Take every block out."""
        for entry in self._by_block.values():
            self.snapshots.forget(entry)
        self._by_key.clear()
        self._by_block.clear()

    def check_invariants(self) -> None:
        """Assert that both maps hold the same entries."""
        assert len(self._by_key) == len(self._by_block)
        for block, entry in self._by_block.items():
            assert entry.block == block
            assert self._by_key[entry.key] is entry
