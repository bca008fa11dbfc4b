"""What is there when a server starts is left out of garbage collections until it ends."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from server.harness import running


@pytest.fixture(autouse=True)
def _frozen_again() -> Iterator[None]:
    yield
    gc.collect()
    gc.freeze()


def test_a_server_freezes_what_is_there_and_thaws_it() -> None:
    gc.unfreeze()
    with running():
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0


def test_what_was_frozen_before_stays_so() -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    with running():
        pass
    assert gc.get_freeze_count() > 0.9 * before  # what has died since is not counted
