"""`python -m octavo.worker --socket ipc://PATH`: started by the engine, not by people."""

from __future__ import annotations

import argparse
from typing import NoReturn

from octavo.worker.process import serve
from octavo.worker.start import start


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m octavo.worker", allow_abbrev=False, description=__doc__)
    parser.add_argument("--socket", required=True, help="ZeroMQ address that the engine has bound")
    serve(parser.parse_args().socket, start)


if __name__ == "__main__":
    main()
