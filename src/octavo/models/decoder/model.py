"""A pre-norm decoder of attention or Gated DeltaNet and MLPs, as Llama made usual; families differ in its config and its parameters.

The computation follows Hugging Face's models of these families; what is rounded where is said by each operation.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import torch

from octavo.models.config import ModelConfig
from octavo.models.decoder.layers import Layer, as_stored, offset_from_one
from octavo.models.decoder.parameters import DecoderParameters, DeltaNetParameters, kind_of
from octavo.models.decoder.rows import LayerRows
from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.models.operations import Operations
from octavo.ops.activations import Unscaled
from octavo.ops.attention.layer import AttentionPlan, AttentionRows, AttentionShape
from octavo.ops.delta_net import DeltaPlan, plan_delta
from octavo.ops.rotary import RotaryTable


@dataclasses.dataclass(frozen=True)
class DecoderPlan:
    """What a step's rows see of their requests: in the last layer only those whose output is wanted, before it all of them."""

    all_rows: AttentionPlan
    output_rows: torch.Tensor | None
    """(R,) int64 on the model's device; None: all."""
    outputs: AttentionPlan
    """Of `output_rows`."""
    delta: DeltaPlan | None = None
    """Of the recurrent layers, if there are any."""
    outputs_in_use: torch.Tensor | None = None
    """(1,) int32: how many first `output_rows` are in use, where only the device knows; None: all."""

    def map(self, change: Callable[[AttentionPlan], AttentionPlan]) -> DecoderPlan:
        """Both plans of attention as `change` makes them."""
        return dataclasses.replace(self, all_rows=change(self.all_rows), outputs=change(self.outputs))


class Decoder:
    """The model: token ids in, hidden states out; logits only for the rows asked for."""

    def __init__(
        self, config: ModelConfig, parameters: DecoderParameters, operations: Operations, positions: int
    ) -> None:
        """Bind `parameters` (filled; on the device of `operations`) to layers, for requests of up to `positions` tokens."""
        shape = AttentionShape(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        self._attention = operations.attention(shape)
        weight, eps = offset_from_one if parameters.offset_norms else as_stored, config.rms_norm_eps
        self._embedding = parameters.embedding
        self._layers = [Layer(layer, self._attention, operations, eps, weight, shape) for layer in parameters.layers]
        self._kinds = [kind_of(layer) for layer in parameters.layers]
        self._norm = operations.add_norm(weight(parameters.norm), eps, frozenset({Unscaled}))
        self._is_recurrent = any(isinstance(layer.mixer, DeltaNetParameters) for layer in parameters.layers)
        self._head = operations.linear(parameters.head)
        self._rotary = RotaryTable.make(positions, config.rope, parameters.embedding.device)

    @property
    def hidden_size(self) -> int:
        """H"""
        return self._embedding.shape[1]

    @property
    def samples(self) -> list[int]:
        """Numbers of the first layer of each kind and of the last one: who launches what these do has launched every kernel of all."""
        firsts = {kind: number for number, kind in reversed([*enumerate(self._kinds)])}
        return sorted({*firsts.values(), len(self._layers) - 1})

    def shortened(self) -> Decoder:
        """The same with its `samples` alone, for their part of a cache."""
        short = copy.copy(self)
        short._layers = [self._layers[number] for number in self.samples]
        return short

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """Hidden states after the final norm.

        Args:
            batch: T tokens, T = 0 too; read.
            kv_cache: written at `batch.slot_mapping`, read through `batch.block_tables`.

        Returns:
            (R, H) bf16 of the R rows that `batch.output_counts` wants, new. A row's bits depend on its request's tokens up
            to it alone.

        Raises:
            KernelContractError: a tensor of the batch or the cache has another dtype or size.
        """
        return self.compute(batch, self.plan(batch, kv_cache), kv_cache)

    @torch.inference_mode()
    def plan(self, batch: ForwardBatch, kv_cache: KVCache) -> DecoderPlan:
        """How `batch` attends, made of host numbers; its tensors are where those of `batch` are."""
        all_rows = outputs = self._plan_rows(batch, batch.chunk_starts, kv_cache)
        output_rows = batch.output_rows()
        if output_rows is not None:
            outputs = self._plan_rows(batch, batch.output_starts, kv_cache)
        delta = None
        if self._is_recurrent:
            delta = plan_delta(batch.states, batch.chunk_starts, batch.context_lens, batch.token_ids.device)
        return DecoderPlan(all_rows, output_rows, outputs, delta)

    @torch.inference_mode()
    def compute(self, batch: ForwardBatch, plan: DecoderPlan, kv_cache: KVCache) -> torch.Tensor:
        """`forward` by a plan of `batch`: nothing but launches, so that a graph can record it."""
        angles = self._rotary.at(batch.positions)
        rows = LayerRows(AttentionRows(batch.slot_mapping, angles, plan.all_rows), plan.delta)
        wanted = AttentionRows(batch.slot_mapping, angles, plan.outputs, plan.output_rows)
        last_rows = LayerRows(wanted, plan.delta)
        x, change = self._embedding.index_select(0, batch.token_ids), None
        *before, last = zip(self._layers, kv_cache.layers, strict=True)
        for layer, cache in before:
            x, change = layer(x, change, rows, cache, batch.rows_in_use)
        layer, cache = last
        in_use = batch.rows_in_use if plan.output_rows is None else plan.outputs_in_use
        x, change = layer(x, change, last_rows, cache, in_use)
        return self._norm(x, change)[1].bf16

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of the next token: hidden (R, H) bf16 -> (R, V) float32, new.

        Raises:
            KernelContractError: `hidden` has another dtype or width.
        """
        return self._head.float32(hidden)

    def _plan_rows(self, batch: ForwardBatch, chunk_starts: tuple[int, ...], kv_cache: KVCache) -> AttentionPlan:
        return self._attention.plan(
            batch.block_tables, chunk_starts, batch.context_lens, block_size=kv_cache.block_size
        )
