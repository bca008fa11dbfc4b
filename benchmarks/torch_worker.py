"""A worker that computes with PyTorch's own operations on CUDA: what Octavo's kernels are compared with."""

from __future__ import annotations

from typing import NoReturn

import msgspec
import torch

from benchmarks.torch_baseline.operations import TorchOperations
from octavo.messages import WorkerConfig
from octavo.worker.process import Start, serve
from octavo.worker.start import prepare


def torch_operations(config: WorkerConfig, device: torch.device) -> TorchOperations:
    """PyTorch's own, whatever is asked."""
    return TorchOperations()


def prepare_eager(config: WorkerConfig) -> Start:
    """Without graphs: the shapes of these operations depend on the batch."""
    return prepare(msgspec.structs.replace(config, enforce_eager=True), torch_operations)


def main() -> NoReturn:
    serve(prepare_eager)


if __name__ == "__main__":
    main()
