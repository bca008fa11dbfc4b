"""Causal attention over a paged KV cache: one split and one merge for prefill, decode and chunked prefill."""

from octavo.kernels.attention.attend import attention, write_kv
from octavo.kernels.attention.cpu import CpuAttentionPlan, cpu_attention, plan_cpu_attention
from octavo.kernels.attention.plan import KV_TILE, AttentionPlan, Plan, plan_attention

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
