"""`python -m octavo`, and the command `octavo`."""

from __future__ import annotations

import sys


def run() -> int:
    """Run the command; the exit code is that of `octavo.cli.main.main`, and 130 if Ctrl-C comes while it is being imported."""
    try:
        from octavo.cli.main import main

        return main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(run())
