"""`python -m octavo.worker`: started by the engine, not by people."""

from __future__ import annotations

import argparse
import importlib
from typing import NoReturn

from octavo.worker.imports import uncollected

with uncollected():
    from octavo.worker.process import serve
    from octavo.worker.start import prepare


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m octavo.worker", allow_abbrev=False, description=__doc__)
    parser.add_argument("--device", default="cpu", help="import and prepare now what this torch device will need")
    arguments = parser.parse_args()
    if arguments.device != "cpu":
        # Triton chooses at import between its compiler and its interpreter, and a CPU worker needs neither.
        with uncollected():
            importlib.import_module("octavo.models.cuda_operations")
            importlib.import_module("octavo.ops.preload").preload()
    serve(prepare)


if __name__ == "__main__":
    main()
