"""What keeper and worker import before they are told anything."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import gc, importlib, sys
before = gc.get_stats()[2]["collections"]
importlib.import_module(sys.argv[1])
print(gc.get_stats()[2]["collections"] - before, gc.isenabled(), gc.get_freeze_count() > 100_000)
"""


@pytest.mark.parametrize("module", ["octavo.worker.keeper", "octavo.worker.__main__"])
def test_nothing_is_collected_while_they_import(module: str) -> None:
    """And later collections do not look at what they have imported. The twin: torch alone."""
    done, twin = (
        subprocess.run([sys.executable, "-c", PROGRAM, name], capture_output=True, text=True, check=True)
        for name in (module, "torch")
    )
    assert done.stdout.split() == ["0", "True", "True"]
    collections, *state = twin.stdout.split()
    assert int(collections) > 0
    assert state == ["True", "False"]
