"""The peak in PyTorch's operations, on any device."""

from __future__ import annotations

import torch

from octavo.ops.peak import Peak


def cpu_peak(rows: torch.Tensor, *, find: bool = True) -> Peak:
    """See `peak`. One pass says what is finite: a row's least and largest number are NaN if any number is."""
    least, highest = rows.aminmax(dim=-1)
    finite = (least > -torch.inf) & (highest < torch.inf)
    return Peak(finite, highest.float(), rows.argmax(-1) if find else None)
