"""What is done to each row of logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from octavo.ops.contract import Dims
from octavo.ops.upload import upload

IN_PROMPT = 2**30
"""Added to the count of an id that the prompt has; no answer is that long."""


@dataclasses.dataclass(frozen=True)
class AdjustSettings:
    """Of R rows."""

    penalties: torch.Tensor
    """(3, R) float64: repetition, above 0; frequency; presence."""
    slots: torch.Tensor
    """(R,) int32: whose counts a row takes; -1: it has no penalties."""
    allowed: torch.Tensor
    """(M, ceil(V / 8)) uint8: bit i % 8 of byte i // 8 is set if id i is allowed."""
    allowed_rows: torch.Tensor
    """(R,) int32: which row of `allowed` holds; -1: all ids are allowed."""

    @classmethod
    def of(
        cls,
        rows: Sequence[tuple[float, float, float, int]],
        allowed: Sequence[bytes | None],
        vocab_size: int,
        device: torch.device,
    ) -> AdjustSettings:
        """`rows` are penalties and slots, `allowed` the bits of each, all on `device`."""
        penalties, slots = _penalties(rows, device)
        present = {id(bits): bits for bits in allowed if bits is not None}  # rows often share one
        numbered = {key: number for number, key in enumerate(present)}
        places = np.array([numbered.get(id(bits), -1) for bits in allowed], dtype=np.int32)
        packed = torch.empty((len(present), -(-vocab_size // 8)), dtype=torch.uint8, pin_memory=device.type == "cuda")
        for place, bits in enumerate(present.values()):
            packed.numpy()[place] = np.frombuffer(bits, dtype=np.uint8)
        return cls(
            penalties,
            slots,
            packed.to(device, non_blocking=True),
            upload(torch.from_numpy(places), device),
        )

    def check(self, dims: Dims, logits: torch.Tensor, counts: torch.Tensor, out: torch.Tensor) -> None:
        """Bind R, V, S and M to the sizes of logits and out (R, V), counts (S, V) and `allowed`.

        Raises:
            KernelContractError: a tensor has another dtype, size or device.
        """
        dims.check("logits", logits, ("R", "V"), dtype=torch.float32)
        dims.check("out", out, ("R", "V"), dtype=torch.float32)
        dims.check("counts", counts, ("S", "V"), dtype=torch.int32)
        dims.check("settings.penalties", self.penalties, (3, "R"), dtype=torch.float64)
        dims.check("settings.slots", self.slots, ("R",), dtype=torch.int32)
        dims.check("settings.allowed", self.allowed, ("M", -(-dims["V"] // 8)), dtype=torch.uint8)
        dims.check("settings.allowed_rows", self.allowed_rows, ("R",), dtype=torch.int32)


def _penalties(
    rows: Sequence[tuple[float, float, float, int]], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(3, R) float64 and (R,) int32, as `AdjustSettings` has them. Without a slot nothing is read of the former."""
    if all(slot < 0 for *_, slot in rows):
        return (
            torch.ones((3, len(rows)), dtype=torch.float64, device=device),
            torch.full((len(rows),), -1, dtype=torch.int32, device=device),
        )
    numbers = torch.tensor(rows, dtype=torch.float64).view(-1, 4)
    return upload(numbers[:, :3].T.contiguous(), device), upload(numbers[:, 3].int(), device)
