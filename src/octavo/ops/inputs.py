"""What a layer reads."""

from __future__ import annotations

import dataclasses

import torch

from octavo.ops.activations import Activations, Quantizer, Scaled
from octavo.ops.formats import Weights


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Rows that several layers read, in the forms that a norm has made for them."""

    rows: torch.Tensor | None
    """(T, K) bf16; None where no layer reads them so."""
    scaled: Scaled | None = None
    """The same rows in FP8."""

    @classmethod
    def of(cls, x: torch.Tensor | Inputs) -> Inputs:
        """x, or x (T, K) bf16 alone."""
        return x if isinstance(x, Inputs) else cls(x)

    @property
    def bf16(self) -> torch.Tensor:
        """`rows`, which were asked for."""
        assert self.rows is not None, "the norm before was not asked for bf16"
        return self.rows

    @property
    def data(self) -> torch.Tensor:
        """One of the forms, for its size and its device."""
        return self.bf16 if self.scaled is None else self.scaled.data

    def activate(self, weights: Weights, quantizer: Quantizer) -> Activations:
        """The rows in the format that `weights` asks for; by `quantizer` if they are not in it yet."""
        if isinstance(self.scaled, weights.activations):
            return self.scaled
        return weights.activate(self.bf16, quantizer)
