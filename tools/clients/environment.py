"""A virtual environment for a third-party client, outside the repository, on top of the one that runs this."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path


def make_environment(folder: Path, packages: Sequence[str]) -> Path:
    """Make `folder` a virtual environment with `packages`, if it is not one yet; returns its Python."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "parent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages])
    return python


def run(command: Sequence[str | Path], **options: object) -> None:
    """Run `command`; end this program if it fails."""
    done = subprocess.run([str(word) for word in command], check=False, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        sys.exit(f"failed with exit code {done.returncode}: {command[0]}")
