"""Without a GPU the kernels run through Triton's interpreter, whichever test imports one first: Triton chooses at its import."""

from __future__ import annotations

import functools
import gc
import os

import httpx
import pytest
import torch

from warm.client import SUBPROCESS

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Each client would read all certificates that there are, for servers here that have none.
vars(httpx._transports.default)["create_ssl_context"] = functools.cache(httpx.create_ssl_context)


def pytest_collection_finish() -> None:
    """What thousands of tests are made of is left out of garbage collections, each of which would look at all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keepers and workers that are started here have imported what they need: see `warm/client.py`."""
    monkeypatch.setattr("octavo.engine.processes.child.subprocess", SUBPROCESS)
