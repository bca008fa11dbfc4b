"""A worker that computes with PyTorch's own operations on CUDA: what Octavo's kernels are compared with."""

from __future__ import annotations

import argparse
from typing import NoReturn

import msgspec
import torch

from octavo.messages import WorkerConfig, WorkerReady
from octavo.models.operations import CudaOperations
from octavo.worker.process import serve
from octavo.worker.runner import Runner
from octavo.worker.start import start


def torch_operations(config: WorkerConfig, device: torch.device) -> CudaOperations:
    """PyTorch's own, whatever is asked."""
    return CudaOperations()


def start_eager(config: WorkerConfig) -> tuple[Runner, WorkerReady]:
    """Without graphs: the shapes of these operations depend on the batch."""
    return start(msgspec.structs.replace(config, enforce_eager=True), torch_operations)


def main() -> NoReturn:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True)
    serve(parser.parse_args().socket, start_eager)


if __name__ == "__main__":
    main()
