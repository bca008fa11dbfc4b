"""Hopper's bulk tensor copies: what they can read, and the descriptors they read by."""

from __future__ import annotations

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from octavo.errors import KernelContractError
from octavo.ops.contract import INDEX_LIMIT, check_range

ALIGNMENT = 16
"""Bytes of which addresses and rows are multiples (CUDA driver API, `cuTensorMapEncodeTiled`)."""
REMEDY = "use a tile that needs no bulk copies"


def takes_bulk_copies(*tensors: torch.Tensor) -> bool:
    """Whether every tensor's address is one that a bulk copy can read from; says nothing of the length of its rows."""
    return all(tensor.data_ptr() % ALIGNMENT == 0 for tensor in tensors)


def check_bulk_copies(argument: str, matrix: torch.Tensor) -> None:
    """Raise unless bulk copies can read `matrix` (R, K).

    Raises:
        KernelContractError: rows or the address are not such that a bulk copy can read them; names `argument`.
    """
    check_range(f"rows of {argument}", matrix.shape[0], 1, INDEX_LIMIT, REMEDY)
    past = matrix.shape[1] * matrix.element_size() % ALIGNMENT
    check_range(f"bytes of a row of {argument} past a multiple of {ALIGNMENT}", past, 0, 0, REMEDY)
    if not takes_bulk_copies(matrix):
        raise KernelContractError(
            argument,
            f"an address that is a multiple of {ALIGNMENT} bytes",
            f"{matrix.data_ptr() % ALIGNMENT} bytes more ({REMEDY}, or pass a copy)",
        )


def descriptor(argument: str, matrix: torch.Tensor, height: int, width: int) -> TensorDescriptor:
    """Describe `matrix` (R, K) for bulk copies of (height, width) of it.

    Raises: See `check_bulk_copies`.
    """
    check_bulk_copies(argument, matrix)
    return TensorDescriptor.from_tensor(matrix, [height, width])
