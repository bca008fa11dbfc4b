"""Hopper's bulk tensor copies: what they can read, and the descriptors they read by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from octavo.errors import KernelContractError
from octavo.ops.contract import INDEX_LIMIT, check_range

ALIGNMENT = 16
"""Bytes of which addresses and rows are multiples (CUDA driver API, `cuTensorMapEncodeTiled`)."""
REMEDY = "use a tile that needs no bulk copies"
ROOM_ROWS = 128
"""`empty_with_room` allocates a multiple of so many rows: whole tiles of each height that dense products choose."""
LOW_ROWS = 32
"""Tiles of at most so many rows are described as they are: zeros for the rows that they lack come sooner than those rows would (docs/kernels_log.md, 2026-12-01)."""


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


def empty_with_room(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Allocate (R, ...), uninitialised, and rows behind the last one up to a multiple of `ROOM_ROWS`, which stay so.

    A bulk copy that reaches past what is described takes the longer the more rows it lacks: a tile of 128 rows took 9.7 us for 80 rows and 7.0 for
    128, and with room 6.8 for 80 (docs/kernels_log.md, 2026-12-01). So norms, gates, quantizers and attention allocate by this what a dense product reads.
    """
    rows = -(-shape[0] // ROOM_ROWS) * ROOM_ROWS
    whole = torch.empty((rows, *shape[1:]), dtype=dtype, device=device)
    return whole if rows == shape[0] else whole[: shape[0]]


def in_whole_tiles(matrix: torch.Tensor, height: int) -> torch.Tensor:
    """View `matrix` (R, K), contiguous, K > 0, and as many rows behind it as fill its last tile of `height` rows, or as many as its storage has.

    Those rows have no meaning: they are uninitialised, or other rows of a larger tensor. Who describes them to a kernel tells it R, too, and it
    stores no sum that they reach. With a `height` of up to `LOW_ROWS` it is `matrix`.
    """
    rows, width = matrix.shape
    if rows % height == 0 or height <= LOW_ROWS:
        return matrix
    held = matrix.untyped_storage().nbytes() // matrix.element_size() - matrix.storage_offset()
    return matrix.as_strided((min(-(-rows // height) * height, held // width), width), (width, 1))


def descriptor(argument: str, matrix: torch.Tensor, height: int, width: int) -> TensorDescriptor:
    """Describe `matrix` (R, K) for bulk copies of (height, width) of it.

    Raises: See `check_bulk_copies`.
    """
    check_bulk_copies(argument, matrix)
    return TensorDescriptor.from_tensor(matrix, [height, width])
