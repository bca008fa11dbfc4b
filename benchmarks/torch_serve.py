"""`octavo serve` on PyTorch's own operations: `python -m benchmarks.torch_serve MODEL [flags of octavo serve]`."""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks.provenance import ROOT
from octavo.cli.flags import add_settings, settings_from
from octavo.cli.serve import GROUPS, serve
from octavo.config import Settings
from octavo.engine.processes.worker_process import ProcessSource
from octavo.messages import WorkerConfig


def torch_workers(config: WorkerConfig, settings: Settings) -> ProcessSource:
    """Workers that are `benchmarks.torch_worker`."""
    return ProcessSource(config, settings.worker_start_timeout, "benchmarks.torch_worker")


if __name__ == "__main__":
    # A worker does not look for modules in the working directory.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    parser = argparse.ArgumentParser(description=__doc__)
    add_settings(parser, GROUPS)
    sys.exit(serve(settings_from(parser.parse_args()), torch_workers))
