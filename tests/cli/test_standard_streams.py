"""Standard streams that are closed or take nothing: the command works all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from octavo.server import run

TELL = r"""
import os, sys
from octavo.cli.main import main
try:
    main(["--version"])
except SystemExit as end:
    with open(sys.argv[1], "w") as out:
        names = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
        print(end.code, None in (sys.stdin, sys.stdout, sys.stderr), *names, sep="\n", file=out)
"""


@pytest.mark.parametrize("closed", [range(3), [0], [1], [2], [0, 2]], ids=str)
def test_closed_ones_are_opened(tmp_path: Path, closed: list[int]) -> None:
    """Else the socket to the worker would be the standard error, into which goes what the worker prints."""

    def close() -> None:
        for number in closed:
            os.close(number)

    run_ = subprocess.run([sys.executable, "-c", TELL, tmp_path / "told"], stdin=subprocess.DEVNULL, preexec_fn=close)
    assert run_.returncode == 0
    code, missing, *names = (tmp_path / "told").read_text().splitlines()
    assert (code, missing) == ("0", "False")
    assert all(names[number] == os.devnull for number in closed)


def test_a_full_disk_is_no_reason_not_to_serve(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        run._show("the banner")
        run._show("more, which goes nowhere")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
