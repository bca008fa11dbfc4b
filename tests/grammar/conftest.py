from __future__ import annotations

from collections.abc import Iterator

import pytest

from grammar.grammars import Forms
from grammar.tiny_server import TinyServer, tiny_server


@pytest.fixture(scope="session")
def tiny() -> Iterator[TinyServer]:
    with tiny_server() as server:
        yield server


@pytest.fixture(scope="session")
def forms() -> Iterator[Forms]:
    opened = Forms()
    yield opened
    opened.close()
