"""Root-mean-square normalisation."""

from __future__ import annotations

import dataclasses

import torch

from octavo.ops.contract import Dims
from octavo.ops.inputs import Inputs
from octavo.ops.weighted_sum import Addend, WeightedSum

__all__ = ["CpuAddNorm", "rms_norm"]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """y = weight * bf16(x / sqrt(mean(x^2) + eps)), the mean in float32 over the last dimension.

    The two roundings to bf16 are those of Hugging Face's `Qwen3MoeRMSNorm`; with a weight in float32 there is one, at the
    end, as in `Qwen3NextRMSNorm`. A row's bits depend on that row alone.

    Args:
        x: (..., D) bf16; read.
        weight: (D,) or (heads, D) bf16 or float32, the last dimensions of x; read.
        eps: added to the mean square.

    Returns:
        (..., D) bf16, new.

    Raises:
        KernelContractError: a tensor has another dtype or size.
    """
    dims = Dims()
    dims.check("x", x, tuple(x.shape), dtype=torch.bfloat16)
    dims.check("weight", weight, tuple(x.shape[x.ndim - weight.ndim :]), dtype=(torch.bfloat16, torch.float32))
    wide = x.float()
    mean = wide.square().sum(-1, keepdim=True).div_(x.shape[-1])
    return wide.mul_(mean.add_(eps).rsqrt_()).to(weight.dtype).mul_(weight).to(torch.bfloat16)


@dataclasses.dataclass(frozen=True)
class CpuAddNorm:
    """See `AddNorm`."""

    weight: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor, change: Addend | None) -> tuple[torch.Tensor, Inputs]:
        """See `AddNorm`."""
        assert not isinstance(change, WeightedSum), "the experts of a CPU add up themselves"
        total = x if change is None else x + change
        return total, Inputs(rms_norm(total, self.weight, self.eps))
