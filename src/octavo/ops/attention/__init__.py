"""Causal attention over a paged KV cache: one split and one merge for prefill, decode and chunked prefill."""

from octavo.ops.attention.cpu import CpuAttentionPlan, cpu_attention, plan_cpu_attention
from octavo.ops.attention.torch_plan import KV_TILE, AttentionPlan, Plan, plan_attention
from octavo.ops.attention.torch_tiles import attention, write_kv

__all__ = [
    "KV_TILE",
    "AttentionPlan",
    "CpuAttentionPlan",
    "Plan",
    "attention",
    "cpu_attention",
    "plan_attention",
    "plan_cpu_attention",
    "write_kv",
]
