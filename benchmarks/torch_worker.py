"""A worker that computes with PyTorch's own operations on CUDA: what Octavo's kernels are compared with."""

from __future__ import annotations

import argparse
from functools import partial
from typing import NoReturn

import torch

from octavo.messages import WorkerConfig
from octavo.models.operations import CudaOperations
from octavo.worker.process import serve
from octavo.worker.start import start


def torch_operations(config: WorkerConfig, device: torch.device) -> CudaOperations:
    """PyTorch's own, whatever is asked."""
    return CudaOperations()


def main() -> NoReturn:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True)
    serve(parser.parse_args().socket, partial(start, choose=torch_operations))


if __name__ == "__main__":
    main()
