"""No operation reads or writes outside a tensor: each tensor lies at the end or the start of a mapping of its own.

All groups run at the same time, each in a process that a fault ends without the others.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from guard_process import NAMES, GuardedProcess, assert_killed, counts
from placements import GPU_GROUPS

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[str, GuardedProcess]]:
    started = {name: GuardedProcess.start(name) for name in [*GPU_GROUPS, *NAMES]}
    yield started
    for process in started.values():
        process.close()


@pytest.mark.parametrize("name", NAMES)
def test_one_element_too_many_is_a_fault(name: str, processes: dict[str, GuardedProcess]) -> None:
    assert_killed(processes[name])


@pytest.mark.parametrize("group", GPU_GROUPS)
def test_every_tensor_at_both_edges(
    group: str, processes: dict[str, GuardedProcess], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = counts(processes[group])
    assert len(lines) == 1
    with capsys.disabled():
        print("", *lines, sep="\n")
