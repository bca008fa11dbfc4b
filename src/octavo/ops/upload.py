"""Host to device without waiting."""

from __future__ import annotations

import torch


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`values` on `device`, copied behind what the device has still to do; the host goes on at once.

    From pageable memory a copy waits until the device has done everything before it (CUDA driver API, "API
    synchronization behavior"). From page-locked memory it does not; torch keeps that memory until the copy is over.

    Args:
        values: any shape and dtype, on the host; may be written to afterwards, but on a CPU it is the result.
        device: where to.
    """
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)
