"""Snapshots of recurrent states: which are kept, gone on from, and given up."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.harness import config, finish, request
from octavo.config import EngineConfig
from octavo.engine import Engine
from octavo.engine.prefix import Entry
from octavo.engine.snapshots import SnapshotPool
from octavo.testing.mock_worker import MockWorker


def entry(number: int) -> Entry:
    return Entry(number, bytes([number]), number)


def hybrid(**changes: object) -> EngineConfig:
    return config(**{"block_size": 4, "num_snapshots": 3, "num_blocks": 60, "max_num_seqs": 4} | changes)


def ask(engine: Engine, name: str, prompt: Sequence[int], max_tokens: int = 2) -> int:
    """How many tokens of `prompt` came from the cache."""
    engine.add(request(name, prompt, max_tokens=max_tokens, ignore_eos=True))
    return finish(engine)[name].num_cached_tokens


def test_the_least_recently_used_is_given_up_and_none_that_is_pinned() -> None:
    pool, entries = SnapshotPool(2), [entry(i) for i in range(3)]
    for each in entries[:2]:
        snapshot = pool.take(())
        assert snapshot is not None
        pool.keep(snapshot, each)
    first, second = entries[0].snapshot, entries[1].snapshot
    assert first is not None
    assert second is not None
    pool.use(first)
    assert pool.take({second}) == first
    assert entries[0].snapshot is None
    assert pool.take({second}) is None
    pool.check_invariants([first])
    pool.forget(entries[1])
    pool.check_invariants([first])
    assert pool.take(()) == second
    with pytest.raises(AssertionError, match="lost, or held twice"):
        pool.check_invariants([first])


def test_a_second_one_for_the_same_tokens_becomes_free() -> None:
    pool, each = SnapshotPool(2), entry(1)
    for _ in range(2):
        snapshot = pool.take(())
        assert snapshot is not None
        pool.keep(snapshot, each)
        pool.check_invariants([])


def test_a_prompt_asked_again_goes_on_from_its_last_border() -> None:
    engine = Engine(hybrid(), MockWorker(hybrid()))
    prompt = list(range(30))
    assert ask(engine, "first", prompt) == 0
    assert ask(engine, "again", prompt) == 28
    assert ask(engine, "longer", [*prompt[:29], 90, 91]) == 28
    # blocks are there, but no snapshot behind them
    assert ask(engine, "shorter", prompt[:20]) == 0
    assert ask(engine, "shorter again", prompt[:20]) == 16
    assert engine.reset_prefix_cache()
    assert ask(engine, "after a reset", prompt) == 0


def test_an_answer_is_kept_each_so_many_tokens() -> None:
    limits = hybrid(snapshot_spacing=8)
    engine = Engine(limits, MockWorker(limits))
    engine.add(request("first", range(10), max_tokens=20, ignore_eos=True))
    tokens = finish(engine)["first"].token_ids
    assert ask(engine, "next turn", [*range(10), *tokens, 5, 6]) == 24


@pytest.mark.parametrize("changes", [{"num_snapshots": 0}, {"prefix_caching": False}])
def test_without_snapshots_nothing_is_cached(changes: dict[str, object]) -> None:
    limits = hybrid(**changes)
    engine = Engine(limits, MockWorker(limits))
    assert [ask(engine, name, range(30)) for name in ("first", "again")] == [0, 0]


def test_few_snapshots_serve_the_latest_prompts() -> None:
    engine = Engine(hybrid(num_snapshots=2), MockWorker(hybrid(num_snapshots=2)))
    prompts = [list(range(20 * i, 20 * i + 10)) for i in range(3)]
    for i, prompt in enumerate(prompts):
        assert ask(engine, f"first {i}", prompt) == 0
    assert [ask(engine, f"again {i}", prompts[i]) for i in (2, 1, 0)] == [8, 8, 0]
