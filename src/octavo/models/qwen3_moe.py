"""Qwen3-MoE: pre-norm decoder layers of grouped-query attention with q/k norms, and dense or sparse MLPs.

The computation follows Hugging Face's `modeling_qwen3_moe.py`; what is rounded where is said by each kernel.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch

from octavo.config import ModelConfig
from octavo.models.forward_batch import ForwardBatch, KVCache
from octavo.models.operations import HeadNorms, Operations
from octavo.models.parameters import DenseMlp, LayerParameters, Parameters, SparseMlp
from octavo.ops.attention import Plan
from octavo.ops.experts.routing import swiglu
from octavo.ops.rotary import RotaryTable


class Mlp(Protocol):
    """The second half of a layer: (T, H) bf16 -> (T, H) bf16; `rows_in_use` as in `ForwardBatch`."""

    def __call__(self, x: torch.Tensor, rows_in_use: torch.Tensor | None) -> torch.Tensor: ...


class Dense:
    """down (silu(gate x) * (up x))"""

    def __init__(self, parameters: DenseMlp, operations: Operations) -> None:
        self._gate_up = operations.linear(parameters.gate_up)
        self._down = operations.linear(parameters.down)

    def __call__(self, x: torch.Tensor, rows_in_use: torch.Tensor | None) -> torch.Tensor:
        return self._down(swiglu(self._gate_up.float32(x)))


class Sparse:
    """The experts that the router chooses for each row, weighted."""

    def __init__(self, parameters: SparseMlp, config: ModelConfig, operations: Operations) -> None:
        self._router = operations.linear(parameters.router)
        self._experts = operations.experts(
            parameters.experts, top_k=config.num_experts_per_tok, renormalize=config.norm_topk_prob
        )

    def __call__(self, x: torch.Tensor, rows_in_use: torch.Tensor | None) -> torch.Tensor:
        return self._experts(x, self._router.float32(x), rows_in_use)


@dataclasses.dataclass(frozen=True)
class Rows:
    """What a layer needs to know of a step's T rows, besides their hidden states."""

    batch: ForwardBatch
    angles: RotaryTable
    kept: torch.Tensor | None
    """(R,) int64: the rows that attend and go on; None: all."""
    plan: Plan
    """Of the rows that attend."""

    def keep(self, x: torch.Tensor) -> torch.Tensor:
        """Those of x (T, ...) that attend: (R, ...)."""
        return x if self.kept is None else x.index_select(0, self.kept)


class Attention:
    """Queries, keys and values, normed and rotated; attention over the cache; the output projection."""

    def __init__(self, parameters: LayerParameters, config: ModelConfig, operations: Operations) -> None:
        self._qkv, self._out = operations.linear(parameters.qkv), operations.linear(parameters.out)
        self._norms = HeadNorms(parameters.q_norm, parameters.k_norm, config.rms_norm_eps)
        self._heads = config.num_attention_heads + 2 * config.num_key_value_heads
        self._head_dim = config.head_dim
        self._operations = operations

    def __call__(self, x: torch.Tensor, rows: Rows, cache: torch.Tensor) -> torch.Tensor:
        qkv = self._qkv(x).view(x.shape[0], self._heads, self._head_dim)
        queries = self._operations.prepare_qkv(qkv, self._norms, rows.angles, cache, rows.batch.slot_mapping)
        if rows.batch.written is not None:
            rows.batch.written()
        return self._out(self._operations.attention(rows.keep(queries), cache, rows.plan).flatten(1))


class Layer:
    """x + attention(norm(x)), then the same with the MLP: (T, H) bf16 -> (T, H), or (R, H) if only R rows are kept."""

    def __init__(self, parameters: LayerParameters, config: ModelConfig, operations: Operations) -> None:
        self._attention = Attention(parameters, config, operations)
        self._mlp: Mlp
        match parameters.mlp:
            case DenseMlp():
                self._mlp = Dense(parameters.mlp, operations)
            case SparseMlp():
                self._mlp = Sparse(parameters.mlp, config, operations)
        self._norms = (parameters.input_norm, parameters.post_norm)
        self._eps, self._norm = config.rms_norm_eps, operations.norm

    def __call__(self, x: torch.Tensor, rows: Rows, cache: torch.Tensor) -> torch.Tensor:
        attended = self._attention(self._norm(x, self._norms[0], self._eps), rows, cache)
        x = rows.keep(x) + attended
        return x + self._mlp(self._norm(x, self._norms[1], self._eps), rows.batch.rows_in_use)


class Qwen3Moe:
    """The model: token ids in, hidden states out; logits only for the rows asked for."""

    def __init__(self, config: ModelConfig, parameters: Parameters, operations: Operations) -> None:
        """Bind `parameters` (filled; on the device of `operations`) to layers."""
        self._config, self._operations = config, operations
        self._embedding, self._norm = parameters.embedding, parameters.norm
        self._layers = [Layer(layer, config, operations) for layer in parameters.layers]
        self._head = operations.linear(parameters.head)
        self._rotary = RotaryTable.make(
            config.max_position_embeddings, config.head_dim, config.rope_theta, parameters.embedding.device
        )

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """Hidden states after the final norm.

        Args:
            batch: T tokens, T = 0 too; read.
            kv_cache: written at `batch.slot_mapping`, read through `batch.block_tables`.

        Returns:
            (R, H) bf16 of the R rows that `batch.tails` wants, new. A row's bits depend on its request's tokens up to it
            alone.

        Raises:
            KernelContractError: a tensor of the batch or the cache has another dtype or size.
        """
        rows = Rows(batch, self._rotary.at(batch.positions), None, self.plan(batch, kv_cache))
        return self._run(rows, self._wanted(rows, kv_cache), kv_cache)

    @torch.inference_mode()
    def compute(self, batch: ForwardBatch, plan: Plan, kv_cache: KVCache) -> torch.Tensor:
        """`forward` of all rows by a plan of the batch: nothing but launches, so that a graph can record it.

        Returns:
            (T, H) bf16, new; `batch.tails` changes nothing.
        """
        rows = Rows(batch, self._rotary.at(batch.positions), None, plan)
        return self._run(rows, rows, kv_cache)

    def plan(self, batch: ForwardBatch, kv_cache: KVCache) -> Plan:
        """Of the attention of all rows, its tensors where those of `batch` are."""
        return self._operations.plan_attention(
            batch,
            block_size=kv_cache.block_size,
            heads_per_kv_head=self._config.num_attention_heads // self._config.num_key_value_heads,
        )

    def _run(self, rows: Rows, last_rows: Rows, kv_cache: KVCache) -> torch.Tensor:
        """All layers, the last for its own rows."""
        x = self._embedding.index_select(0, rows.batch.token_ids)
        *before, last = zip(self._layers, kv_cache.layers, strict=True)
        for layer, cache in before:
            x = layer(x, rows, cache)
        layer, cache = last
        x = layer(x, last_rows, cache)
        return self._operations.norm(x, self._norm, self._config.rms_norm_eps)

    def _wanted(self, rows: Rows, kv_cache: KVCache) -> Rows:
        """`rows`, of which only those attend that `batch.tails` wants."""
        kept = rows.batch.tail_rows()
        if kept is None:
            return rows
        tails = dataclasses.replace(rows.batch, chunk_starts=rows.batch.tail_starts)
        return dataclasses.replace(rows, kept=kept, plan=self.plan(tails, kv_cache))

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Scores of the next token: hidden (R, H) bf16 -> (R, V) float32, new.

        Raises:
            KernelContractError: `hidden` has another dtype or width.
        """
        return self._head.float32(hidden)
