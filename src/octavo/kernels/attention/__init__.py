"""Causal attention over a paged KV cache: one split and one merge for prefill, decode and chunked prefill."""

from octavo.kernels.attention.attend import attention, write_kv
from octavo.kernels.attention.plan import KV_TILE, AttentionPlan, plan_attention

__all__ = ["KV_TILE", "AttentionPlan", "attention", "plan_attention", "write_kv"]
