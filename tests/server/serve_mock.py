"""Serves the mock worker until told to stop: `python serve_mock.py '{"worker": {...}, "settings": {...}}'`.

With `"steps": N` the worker makes so many, then no more before a line comes on standard input.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from engine.harness import PacedWorker
from octavo.server.listening import listener
from octavo.server.run import run_server
from server.harness import mock_context


def release(worker: PacedWorker) -> None:
    sys.stdin.readline()
    worker.let = None


def main() -> int:
    logging.basicConfig(level=logging.INFO)
    options = json.loads(sys.argv[1])
    context, source = mock_context(worker=options["worker"], **options["settings"])
    if "steps" in options:
        worker = source.workers[0]
        assert isinstance(worker, PacedWorker)
        worker.let = options["steps"]
        threading.Thread(target=release, args=[worker], daemon=True).start()
    context.loop.start()
    with listener(context.settings) as bound:
        code = run_server(context, bound)
    source.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
