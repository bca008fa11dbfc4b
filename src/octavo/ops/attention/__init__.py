"""Causal attention over a paged KV cache: one split and one merge for prefill, decode and chunked prefill."""

from octavo.ops.attention.cache import write_kv
from octavo.ops.attention.cpu import CpuAttentionPlan, cpu_attention, plan_cpu_attention

__all__ = ["CpuAttentionPlan", "cpu_attention", "plan_cpu_attention", "write_kv"]
