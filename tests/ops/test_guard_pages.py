"""No operation reads or writes outside a tensor: through the interpreter, each tensor beside a page without access."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from guard_process import NAMES, GuardedProcess, assert_killed, counts

FORMATS = ["Fp8Channel", "Fp8Static", "Fp8Block", "Bf16"]
GROUPS = {
    "rows": ["rows", "routing", "sorting", "attention-inputs", *(f"dense-{kind}" for kind in FORMATS)],
    "experts": [f"{layer}-{kind}" for kind in FORMATS for layer in ("grouped", "experts")],
    "attention": ["attention"],
    "delta-net": ["delta-net"],
    "model": ["model-in-graphs"],
}
"""What one process runs after the other."""
pytestmark = pytest.mark.timeout(1800)  # for a machine that does much else


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[GuardedProcess]:
    started = GuardedProcess.start(*request.param)
    yield started
    started.close()


@pytest.mark.parametrize("process", [[NAMES[0]], [NAMES[-1]]], ids=str, indirect=True)
def test_one_element_too_many_is_a_fault(process: GuardedProcess) -> None:
    """A read behind the end, and a write before the start."""
    assert_killed(process)


@pytest.mark.parametrize("process", GROUPS.values(), ids=GROUPS, indirect=True)
def test_every_tensor_at_both_edges(
    process: GuardedProcess, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = counts(process)
    assert len(lines) == len(GROUPS[request.node.callspec.id])
    with capsys.disabled():
        print("", *lines, sep="\n")
