"""`python -m octavo`: the command `octavo`, where it is not on the path."""

from __future__ import annotations

import sys

from octavo.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
