"""A pytest plugin: `--stop-after` seconds after the first test no further one starts, and the summary names the files not reached."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stop-after", type=float, default=None, help="seconds from the first test until no further one starts"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(StopClock(config.getoption("--stop-after")))


class StopClock:
    """Lets tests start for `seconds` from the first on; None: for ever. One in each process; the first of them hears of what the
    others left.

    What comes before, importing and collecting, does not count: on a busy machine no test would be left time.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._end: float | None = None
        self._left: Counter[str] = Counter()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Take a test that comes too late for done."""
        if self._seconds is None:
            return None
        if self._end is None:
            self._end = time.monotonic() + self._seconds
        if time.monotonic() < self._end:
            return None
        self._left[item.nodeid.partition("::")[0]] += 1
        return True

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Tell the first process, where this is another."""
        output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["left"] = dict(self._left)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Hear of a process that has ended."""
        self._left.update(getattr(node, "workeroutput", {}).get("left", {}))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name what was not reached."""
        if self._left:
            terminalreporter.section("time is over")
            for file, count in sorted(self._left.items()):
                terminalreporter.write_line(f"not reached: {count} tests of {file}")
