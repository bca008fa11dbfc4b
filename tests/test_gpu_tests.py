"""Tests that only a GPU runs are collected and planned here, so that a change of what one takes is seen where it was made."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_for_a_gpu_has_what_it_asks_for() -> None:
    asked = [sys.executable, "-m", "pytest", "--setup-plan", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    environment = os.environ | {"COLLECT_GPU_TESTS": "1"}
    done = subprocess.run(asked, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for file in (ROOT / "tests" / "gpu").glob("test_*.py"):
        assert file.name in done.stdout
