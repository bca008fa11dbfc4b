"""The kernel of one chunk's states compiles for Hopper, and spills nothing."""

from __future__ import annotations

from pathlib import Path

from ops.hopper import compiled_by, spills


def test_it_compiles_without_spills(tmp_path: Path) -> None:
    [names] = compiled_by("ops.delta_net.paired_launch", tmp_path).values()
    # of a warp: keys and queries 48, what follows from them twice 12 and 6, the state 24, and rows that are not finite 3
    assert names.count("HMMA") == 93
    assert "LDGSTS" in names
    assert "ACQBULK" in names, "it does not wait for the kernel before"
    assert spills(names) == 0
    assert names.count("BAR") <= 8
