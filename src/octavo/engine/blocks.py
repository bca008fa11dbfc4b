"""Who holds which KV block."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from octavo.engine.prefix import PrefixIndex


class BlockPool:
    """KV blocks 0 .. num_blocks - 1, each either referenced, free, or cached.

    A block whose last reference goes is *cached* if the prefix index knows it, else *free*. Free blocks are handed out
    first, then cached blocks, least recently used first.
    """

    def __init__(self, num_blocks: int, index: PrefixIndex) -> None:
        self.num_blocks = num_blocks
        self._index = index
        self._references = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Blocks that `allocate` can hand out: free and cached."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Blocks that nobody holds and whose keys and values are kept for whoever has the same prefix."""
        return len(self._cached)

    @property
    def usage(self) -> float:
        """Share of the blocks that sequences hold, 0..1."""
        return (self.num_blocks - self.available) / self.num_blocks

    def available_beside(self, blocks: Iterable[int]) -> int:
        """Blocks that `allocate` could hand out after `share(blocks)`."""
        return self.available - sum(1 for block in blocks if not self._references[block])

    def allocate(self, count: int) -> list[int]:
        """`count` blocks with one reference each; evicts cached blocks if too few are free."""
        assert count <= self.available, f"{count} blocks wanted, {self.available} available"
        taken = []
        for _ in range(count):
            if self._free:
                block = self._free.pop()
            else:
                block, _nothing = self._cached.popitem(last=False)
                self._index.forget(block)
            self._references[block] = 1
            taken.append(block)
        return taken

    def share(self, blocks: Iterable[int]) -> None:
        """Add a reference to each of `blocks`, which the prefix index found."""
        for block in blocks:
            if not self._references[block]:
                del self._cached[block]
            self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Drop a reference to each of `blocks`, a block table: its end becomes the first to evict."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block]:
                assert self._references[block] > 0, f"block {block} released twice"
            elif block in self._index:
                self._cached[block] = None
            else:
                self._free.append(block)

    def forget(self, blocks: Iterable[int]) -> None:
        """Take `blocks` out of the prefix index, whoever holds them."""
        for block in blocks:
            self._index.forget(block)
            if block in self._cached:
                del self._cached[block]
                self._free.append(block)

    def reset_cache(self) -> None:
        """Empty the prefix index; cached blocks become free."""
        self._index.reset()
        self._free.extend(self._cached)
        self._cached.clear()

    def check_invariants(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert exact accounting, `tables` being the block tables of all running sequences."""
        held = Counter(block for table in tables for block in table)
        for block, references in enumerate(self._references):
            assert references == held[block], f"block {block}: {references} references, {held[block]} holders"
        unheld = [*self._free, *self._cached]
        assert len(unheld) == len(set(unheld)), "a block is free twice"
        assert set(unheld) == set(range(self.num_blocks)) - set(held), "a block is neither held nor free, or both"
        assert all(block in self._index for block in self._cached)
        assert not any(block in self._index for block in self._free)
        self._index.check_invariants()
