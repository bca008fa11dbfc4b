"""vLLM's FP8 expert layers as calls on our tensors, where vLLM is installed; written for vLLM 0.26."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable

import torch

from octavo.kernels.scaled import BLOCK, BlockWeights, ChannelWeights, Weights

Call = Callable[[], torch.Tensor]
"""Runs the layer once; returns (T, H) bf16."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """x (T, H) bf16, ids (T, K) int32, weights (T, K) f32"""

    x: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor


def peer_calls(inputs: list[Inputs], gate_up: Weights, down: Weights) -> dict[str, list[Call]]:
    """Name of each path that has these weights' format to one call per input; empty without vLLM."""
    if importlib.util.find_spec("vllm") is None:
        return {}
    match gate_up, down:
        case ChannelWeights(), ChannelWeights():
            return {
                "vLLM Triton": _triton(inputs, gate_up, down),
                "vLLM CUTLASS": _cutlass(inputs, gate_up, down),
            }
        case BlockWeights(), BlockWeights():
            return {"vLLM Triton": _triton(inputs, gate_up, down)}
        case _:
            return {}


def configured() -> contextlib.AbstractContextManager[object]:
    """The context vLLM's layers want around their calls; nothing without vLLM."""
    if importlib.util.find_spec("vllm") is None:
        return contextlib.nullcontext()
    from vllm.config import VllmConfig, set_current_vllm_config

    context: contextlib.AbstractContextManager[object] = set_current_vllm_config(VllmConfig())
    return context


def _triton(
    inputs: list[Inputs], gate_up: ChannelWeights | BlockWeights, down: ChannelWeights | BlockWeights
) -> list[Call]:
    from vllm.model_executor.layers.fused_moe.config import fp8_w8a8_moe_quant_config
    from vllm.model_executor.layers.fused_moe.fused_moe import fused_experts

    if isinstance(gate_up, ChannelWeights):
        scales = {"w1_scale": gate_up.scale[..., None], "w2_scale": down.scale[..., None]}
        config = fp8_w8a8_moe_quant_config(**scales, per_act_token_quant=True, per_out_ch_quant=True)
    else:
        config = fp8_w8a8_moe_quant_config(w1_scale=gate_up.scale, w2_scale=down.scale, block_shape=[BLOCK, BLOCK])

    def call(one: Inputs) -> Call:
        def run() -> torch.Tensor:
            out: torch.Tensor = fused_experts(one.x, gate_up.data, down.data, one.weights, one.ids, quant_config=config)
            return out

        return run

    return [call(one) for one in inputs]


def _cutlass(inputs: list[Inputs], gate_up: ChannelWeights, down: ChannelWeights) -> list[Call]:
    from vllm import _custom_ops
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.experts.cutlass_moe import run_cutlass_moe_fp8
    from vllm.model_executor.layers.fused_moe.moe_permute_unpermute import MoEPermuteScratch

    tokens, top_k = inputs[0].ids.shape
    experts, hidden, intermediate = down.data.shape
    x = inputs[0].x
    scratch = MoEPermuteScratch(
        max_num_tokens=tokens, topk=top_k, num_experts=experts, num_local_experts=experts, device=x.device
    )
    rooms = [x.new_empty(tokens * top_k * max(width, hidden)) for width in (2 * intermediate, intermediate)]
    strides = [torch.full((experts,), size, device=x.device) for size in (hidden, intermediate, 2 * intermediate)]
    by_hidden, by_intermediate, by_gate_up = strides

    def call(one: Inputs) -> Call:
        out = torch.empty_like(one.x)

        def run() -> torch.Tensor:
            data, scale = _custom_ops.scaled_fp8_quant(one.x, None, use_per_token_if_dynamic=True)
            run_cutlass_moe_fp8(
                out, data, gate_up.data, down.data, one.ids, MoEActivation.SILU, experts, None,
                gate_up.scale[..., None], down.scale[..., None], scale, None,
                by_hidden, by_intermediate, by_gate_up, by_intermediate, by_hidden, *rooms,
                None, torch.bfloat16, True, True, False, one.weights, scratch,
            )  # fmt: skip
            return out

        return run

    return [call(one) for one in inputs]
