"""Penalties and masks: what changes all logits of a row before a token is drawn."""

from __future__ import annotations

import torch

from octavo.ops.adjust.cpu import cpu_adjust
from octavo.ops.adjust.settings import IN_PROMPT, AdjustSettings

__all__ = ["IN_PROMPT", "AdjustSettings", "adjust"]


def adjust(logits: torch.Tensor, counts: torch.Tensor, settings: AdjustSettings, *, out: torch.Tensor) -> torch.Tensor:
    """Penalise the ids of a request's tokens, then leave only those allowed; the bits of a row depend on that row alone.

        repetition:  x / r if x > 0 else x * r,  for ids in prompt or answer
        frequency:   x - f * (times in the answer)
        presence:    x - p, for ids in the answer
        allowed:     -inf for the others

    Penalties are computed in float64 and held within float32's largest numbers.

    Args:
        logits: (R, V) float32, on the CPU or on CUDA; read.
        counts: (S, V) int32, for each slot how often its answer has an id, plus `IN_PROMPT` if its prompt has it; read.
        settings: of the R rows, on the same device; read.
        out: (R, V) float32; written. May be `logits`.

    Returns:
        out

    Raises:
        KernelContractError: a tensor has another dtype, size or device.
    """
    if logits.is_cuda:
        from octavo.ops.adjust.cuda import cuda_adjust  # needs Triton, which a CPU does not

        return cuda_adjust(logits, counts, settings, out=out)
    return cpu_adjust(logits, counts, settings, out=out)
