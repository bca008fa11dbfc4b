"""One server for all tests that leave it as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import openai
import pytest

from server.harness import Running, running


@pytest.fixture(scope="session")
def shared() -> Iterator[Running]:
    with running() as server:
        yield server


@pytest.fixture
def server(shared: Running) -> Iterator[Running]:
    """The shared server; after the test it must be idle, with every block free, and answer."""
    yield shared
    shared.wait_idle()
    answer = shared.http.post("/v1/completions", json={"prompt": [1, 2], "max_tokens": 1})
    assert answer.status_code == 200, answer.text
    shared.wait_idle()


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def frozen() -> Iterator[None]:
    """What tests freeze, beside what was there when they began, is thawed and looked through after them."""
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()
