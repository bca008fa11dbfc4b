"""A model whose steps are planned before they are launched."""

from __future__ import annotations

from typing import Protocol

import torch

from octavo.models.decoder.model import DecoderPlan
from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.worker.runner import Model


class PlannedModel(Model, Protocol):
    """A model whose step is a plan, made of host numbers, and launches that read only device memory; see `Decoder`."""

    @property
    def hidden_size(self) -> int:
        """H"""
        ...

    def plan(self, batch: ForwardBatch, kv_cache: KVCache) -> DecoderPlan:
        """How `batch` attends; its tensors are where those of `batch` are."""
        ...

    def compute(self, batch: ForwardBatch, plan: DecoderPlan, kv_cache: KVCache) -> torch.Tensor:
        """`forward` by a plan of `batch`; the tensors of both are on the model's device."""
        ...
