"""Block pool and prefix index under a state machine, against a model that stores whole prefixes."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from octavo.engine import prefix
from octavo.engine.blocks import BlockPool
from octavo.engine.prefix import Entry, PrefixIndex

SIZE = 2
NUM_BLOCKS = 7
histories = st.lists(st.integers(0, 2), min_size=1, max_size=9)


class PoolMachine(RuleBasedStateMachine):
    """Tables come and go as sequences make them: matched prefix, new blocks, registered when full."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex(SIZE)
        self.pool = BlockPool(NUM_BLOCKS, self.index)
        self.tables: list[list[int]] = []
        self.contents: dict[int, tuple[int, ...]] = {}
        """Block -> all tokens up to its end, for the blocks whose content is known."""

    @rule(tokens=histories, register=st.booleans())
    def start(self, tokens: list[int], register: bool) -> None:
        hits = self.index.match(array("I", tokens))
        assert len(hits) * SIZE < len(tokens), "a full hit leaves a token to compute"
        for i, entry in enumerate(hits):
            assert self.contents[entry.block] == tuple(tokens[: (i + 1) * SIZE]), "a hit on other tokens"
        cached = [entry.block for entry in hits]
        count = -(-len(tokens) // SIZE) - len(cached)
        if count > self.pool.available_beside(cached):
            return
        before = self.pool.available_beside(cached)
        self.pool.share(cached)
        assert self.pool.available == before
        new = self.pool.allocate(count)
        for block in new:
            self.contents.pop(block, None)
        self.tables.append(cached + new)
        if register:
            self.register(tokens, self.tables[-1], hits)

    def register(self, tokens: list[int], table: list[int], hits: list[Entry]) -> None:
        chain = hits[-1] if hits else None
        for i in range(len(hits), len(tokens) // SIZE):
            chain = self.index.register(chain, array("I", tokens[i * SIZE : (i + 1) * SIZE]), table[i])
            assert chain is not None
            whole = tuple(tokens[: (i + 1) * SIZE])
            if chain.block == table[i]:
                self.contents[table[i]] = whole
            else:
                assert self.contents[chain.block] == whole

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.pool.release(self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1))))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def end_badly(self, data: st.DataObject) -> None:
        table = self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1)))
        early = data.draw(st.booleans())
        if early:
            self.pool.forget(table)
        self.pool.release(table)
        if not early:
            self.pool.forget(table)
        assert not any(block in self.index for block in table)

    @precondition(lambda self: not self.tables)
    @rule()
    def reset(self) -> None:
        self.pool.reset_cache()
        assert len(self.index) == 0
        assert self.pool.available == NUM_BLOCKS

    @invariant()
    def exact(self) -> None:
        self.pool.check_invariants(self.tables)


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestPoolMachine = PoolMachine.TestCase


class Colliding(bytes):
    """A key whose hash is that of every other."""

    def __hash__(self) -> int:
        return 7


def fill(index: PrefixIndex, tokens: list[int], first_block: int) -> None:
    chain = None
    for i in range(len(tokens) // SIZE):
        chain = index.register(chain, array("I", tokens[i * SIZE : (i + 1) * SIZE]), first_block + i)


def blocks(entries: list[Entry]) -> list[int]:
    return [entry.block for entry in entries]


def test_equal_hashes_of_different_tokens_are_no_hit(monkeypatch: pytest.MonkeyPatch) -> None:
    key = prefix._key
    monkeypatch.setattr(prefix, "_key", lambda parent, tokens, root=b"": Colliding(key(parent, tokens)))
    index = PrefixIndex(SIZE)
    fill(index, [1, 2, 3, 4], 0)
    fill(index, [5, 6, 3, 4], 2)
    assert blocks(index.match(array("I", [1, 2, 3, 4, 9]))) == [0, 1]
    assert blocks(index.match(array("I", [5, 6, 3, 4, 9]))) == [2, 3]
    assert blocks(index.match(array("I", [3, 4, 1, 2, 9]))) == []


def test_an_index_that_trusts_hashes_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: with keys that compare equal when hashes do, the assertions above fail."""
    monkeypatch.setattr(prefix, "_key", lambda parent, tokens, root=b"": b"%d" % (sum(tokens) % 2))
    index = PrefixIndex(SIZE)
    fill(index, [1, 2, 3, 4], 0)
    assert blocks(index.match(array("I", [5, 6, 3, 4, 9]))) != []


def test_children_of_an_evicted_block_are_not_found_under_its_successor() -> None:
    index = PrefixIndex(SIZE)
    fill(index, [1, 1, 2, 2], 0)
    index.forget(0)
    assert index.match(array("I", [1, 1, 2, 2, 9])) == []
    fill(index, [1, 1], 5)
    assert blocks(index.match(array("I", [1, 1, 2, 2, 9]))) == [5]


def test_nothing_is_registered_behind_an_evicted_parent() -> None:
    index = PrefixIndex(SIZE)
    parent = index.register(None, array("I", [1, 1]), 0)
    index.forget(0)
    assert index.register(parent, array("I", [2, 2]), 1) is None
    assert len(index) == 0


def test_eviction_takes_the_least_recently_used_and_the_end_of_a_chain_first() -> None:
    index = PrefixIndex(SIZE)
    pool = BlockPool(6, index)
    old, new = pool.allocate(3), pool.allocate(3)
    chains = [[1, 1, 2, 2, 3, 3], [4, 4, 5, 5, 6, 6]]
    for tokens, table in zip(chains, (old, new), strict=True):
        chain = None
        for i, block in enumerate(table):
            chain = index.register(chain, array("I", tokens[i * SIZE : (i + 1) * SIZE]), block)
    pool.release(old)
    pool.release(new)
    hit = blocks(index.match(array("I", [*chains[0], 9])))
    assert hit == old
    pool.share(hit)
    pool.release(hit)
    assert pool.allocate(4) == [*reversed(new), old[2]]


def test_a_block_released_twice_is_caught() -> None:
    pool = BlockPool(2, PrefixIndex(SIZE))
    table = pool.allocate(1)
    pool.release(table)
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(table)


@pytest.mark.parametrize("length", [15, 16, 17, 32], ids="length{}".format)
def test_a_full_hit_leaves_one_token(length: int) -> None:
    index = PrefixIndex(16)
    tokens = list(range(length))
    chain = None
    for i in range(length // 16):
        chain = index.register(chain, array("I", tokens[i * 16 : (i + 1) * 16]), i)
    assert len(index.match(array("I", tokens))) == (length - 1) // 16
