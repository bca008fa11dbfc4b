"""The kernels of Gated DeltaNet compile for Hopper, and spill nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ops.delta_net.launches import LAUNCHES
from ops.hopper import compiled_by, spills


@pytest.mark.parametrize("kernel", [name for name in LAUNCHES if name != "paired"])
def test_it_compiles_without_spills(kernel: str, tmp_path: Path) -> None:
    compiled = compiled_by("ops.delta_net.launches", tmp_path, kernel)
    assert compiled.keys() == LAUNCHES[kernel][1].keys()
    for names in compiled.values():
        assert "ACQBULK" in names, "it does not wait for the kernel before"
        assert spills(names) == 0


def test_the_kernel_of_two_warps(tmp_path: Path) -> None:
    """Rows of its output are found by int64: times value heads x 128 they leave int32 at row 524,288 of a chunk of 32 heads."""
    [names] = compiled_by("ops.delta_net.launches", tmp_path, "paired").values()
    [code] = [path.read_text() for path in tmp_path.glob("*.ttgir")]
    assert "ACQBULK" in names, "it does not wait for the kernel before"
    assert spills(names) == 0
    # of a warp: keys and queries 32, what follows from them 8 and 4, the state 16, and rows that are not finite 3
    assert names.count("HMMA") == 63
    assert "LDGSTS" in names
    assert names.count("BAR") <= 8
    _before, _, loop = code.partition("scf.for")
    made = dict(re.findall(r"^\s*(%[\w]+) = (.*)$", loop, re.MULTILINE))
    stores = [line for line in loop.splitlines() if "tt.store" in line and "bf16" in line]
    assert len(stores) == 1
    assert any("tt.addptr" in step and "i64" in step for step in _steps_to(made, re.findall(r"%\w+", stores[0])[0]))
    assert "arith.extsi" in "\n".join(_steps_to(made, re.findall(r"%\w+", stores[0])[0])), "of the place in the chunk"


def _steps_to(made: dict[str, str], name: str) -> list[str]:
    """What makes a value within a loop, and what that is made of."""
    if name not in made:
        return []
    return [made[name], *(step for part in re.findall(r"%\w+", made[name]) for step in _steps_to(made, part))]
