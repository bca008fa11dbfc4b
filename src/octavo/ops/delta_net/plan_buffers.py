"""The device memory in which graphs read the chunks and spans of a step."""

from __future__ import annotations

import torch

from octavo.ops.delta_net.layer import LINE, DeltaPlan, most_spans
from octavo.ops.padded_buffer import Filling, PaddedBuffer


class DeltaPlanBuffers:
    """Plans of up to `rows` rows in up to `chunks` chunks, always at the same addresses."""

    def __init__(self, rows: int, chunks: int, device: torch.device) -> None:
        self._chunks = PaddedBuffer((chunks, LINE), torch.int32, device, -1)
        self._first_single = PaddedBuffer((1,), torch.int32, device, 0)
        self._spans = PaddedBuffer((most_spans(rows, chunks),), torch.int32, device, -1)

    def fillings(self, plan: DeltaPlan) -> list[Filling]:
        """What puts `plan`, its tensors on the host, in the memory."""
        parts = (
            (self._chunks, plan.chunks),
            (self._first_single, plan.first_single),
            (self._spans, plan.spans),
        )
        return [Filling(buffer, values, len(buffer.device)) for buffer, values in parts]

    def plan(self, rows: int, *, only_singles: bool) -> DeltaPlan:
        """The memory as a plan of `rows` rows; `only_singles`: for no other chunks."""
        chunks = self._chunks.device[:rows]
        spans = self._spans.device[: most_spans(rows, len(chunks))]
        return DeltaPlan(chunks, self._first_single.device, spans, only_singles)
