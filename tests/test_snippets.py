"""Scripts as vLLM's users write them run unchanged but for the import, and end by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import warm.client

SNIPPETS = Path(__file__).with_name("snippets")
EXPECTED = {
    "chat": ["42", "42 stop", "71 stop"],
    "defaults": ["True 8"],
    "logprobs": ["True None", "True"],
    "seeds": ["True False"],
    "several": ["[0, 1, 2, 3] True", "True True"],
    "stop": ["'4' stop 2"],
    "streaming": ["1 True"],
    "template": ["42 True True"],
    "token_ids": ["1"],
}
"""What each prints."""
ANEW = "basic"
"""The script that an interpreter of its own runs; the others show what scripts get, not how they start."""


@pytest.mark.parametrize("name", sorted(path.stem for path in SNIPPETS.glob("*.py")))
def test_a_script_of_vllms_users_runs(name: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(SNIPPETS / f"{name}.py")]
    if name == ANEW:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    else:
        done = warm.client.run(command, environment=environment, timeout_s=280)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    if name == "basic":
        assert len(lines) == 4
        assert lines[0].startswith("Prompt: 'Hello, my name is', Generated text: '")
    else:
        assert lines == EXPECTED[name]
