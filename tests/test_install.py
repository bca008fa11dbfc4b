"""`make install` puts the command where a shell finds it, and says so where it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from octavo.version import __version__

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("is_on_path", [True, False], ids=["on-the-path", "elsewhere"])
def test_the_command_is_found_after_make_install(tmp_path: Path, is_on_path: bool) -> None:
    prefix, venv = tmp_path / "home with a space", Path(sys.executable).parents[1]
    paths = [str(prefix / "bin"), os.environ["PATH"]] if is_on_path else [os.environ["PATH"]]
    environ = {**os.environ, "PATH": os.pathsep.join(paths)}
    settings = [f"PREFIX={prefix}", f"VENV={venv}"]
    # the environment is made: it is the one that runs this
    command = ["make", "-s", "-C", str(ROOT), "-o", f"{venv}/.installed", *settings, "install"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert ("is not on the PATH" in done.stdout) is not is_on_path, done.stdout
    found = str(prefix / "bin" / "octavo")
    said = subprocess.run(
        ["octavo" if is_on_path else found, "--version"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert __version__ in said.stdout
