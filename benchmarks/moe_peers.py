"""vLLM's FP8 expert layers as calls on our tensors, where vLLM is installed; written for vLLM 0.26.

On one Hopper GPU vLLM takes CUTLASS for channel scales. For block scales it takes Triton, and DeepGEMM where
VLLM_USE_DEEP_GEMM=1 asks for it; both are offered. Its CUTLASS experts have no block scales, the FlashInfer and HPC paths
need packages besides, and Marlin computes in bf16. By default Triton and DeepGEMM round the scales of activations to powers
of two (VLLM_USE_DEEP_GEMM_E8M0): their output then differs from ours by about 6 %.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Callable

import torch

from octavo.ops.activations import BLOCK
from octavo.ops.formats import Fp8Block, Fp8Channel, Weights

Call = Callable[[], torch.Tensor]
"""Runs the layer once; returns (T, H) bf16."""
Build = Callable[[], list[Call]]
"""Imports a peer, prepares its buffers and returns one call per input; raises what the peer raises."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """x (T, H) bf16, ids (T, K) int32, weights (T, K) f32"""

    x: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor


def peer_calls(inputs: list[Inputs], gate_up: Weights, down: Weights) -> dict[str, Build]:
    """Name of each path that has these weights' format to its calls; empty without vLLM."""
    if importlib.util.find_spec("vllm") is None:
        return {}
    match gate_up, down:
        case Fp8Channel(), Fp8Channel():
            return {
                "vLLM Triton": functools.partial(_triton, inputs, gate_up, down),
                "vLLM CUTLASS": functools.partial(_cutlass, inputs, gate_up, down),
            }
        case Fp8Block(), Fp8Block():
            return {
                "vLLM Triton": functools.partial(_triton, inputs, gate_up, down),
                "vLLM DeepGEMM": functools.partial(_deep_gemm, inputs, gate_up, down),
            }
        case _:
            return {}


def configured() -> contextlib.AbstractContextManager[object]:
    """The context vLLM's layers want around their calls."""
    from vllm.config import set_current_vllm_config

    context: contextlib.AbstractContextManager[object] = set_current_vllm_config(_config())
    return context


@functools.cache
def _config() -> object:
    from vllm.config import VllmConfig

    return VllmConfig()


def _triton(inputs: list[Inputs], gate_up: Fp8Channel | Fp8Block, down: Fp8Channel | Fp8Block) -> list[Call]:
    from vllm.model_executor.layers.fused_moe.config import fp8_w8a8_moe_quant_config
    from vllm.model_executor.layers.fused_moe.fused_moe import fused_experts

    if isinstance(gate_up, Fp8Channel):
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


def _cutlass(inputs: list[Inputs], gate_up: Fp8Channel, down: Fp8Channel) -> list[Call]:
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
                by_hidden, by_intermediate, by_gate_up, by_hidden, *rooms,
                None, torch.bfloat16, True, True, False, one.weights, scratch,
            )  # fmt: skip
            return out

        return run

    return [call(one) for one in inputs]


def _deep_gemm(inputs: list[Inputs], gate_up: Fp8Block, down: Fp8Block) -> list[Call]:
    if importlib.util.find_spec("deep_gemm") is None:
        importlib.import_module("vllm.third_party.deep_gemm")  # vLLM would not say why this fails
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.config import fp8_w8a8_moe_quant_config
    from vllm.model_executor.layers.fused_moe.experts.deep_gemm_moe import DeepGemmExperts
    from vllm.model_executor.layers.fused_moe.modular_kernel import FusedMoEKernel
    from vllm.model_executor.layers.fused_moe.prepare_finalize.no_dp_ep import MoEPrepareAndFinalizeNoDPEPModular
    from vllm.v1.worker.workspace import init_workspace_manager, is_workspace_manager_initialized

    if not is_workspace_manager_initialized():
        init_workspace_manager(inputs[0].x.device)
    config = fp8_w8a8_moe_quant_config(
        w1_scale=_deep_gemm_scale(gate_up), w2_scale=_deep_gemm_scale(down), block_shape=[BLOCK, BLOCK]
    )
    experts = DeepGemmExperts(_layer_config(inputs[0], down), config)
    kernel = FusedMoEKernel(MoEPrepareAndFinalizeNoDPEPModular(), experts)

    def call(one: Inputs) -> Call:
        def run() -> torch.Tensor:
            out: torch.Tensor = kernel.apply(
                one.x, gate_up.data, down.data, one.weights, one.ids, MoEActivation.SILU, len(down.data), None, False
            )
            return out

        return run

    return [call(one) for one in inputs]


def _deep_gemm_scale(weights: Fp8Block) -> torch.Tensor:
    """The scale (E, N / 128, K / 128) in the layout that DeepGEMM wants on this card.

    By default vLLM also rounds the scales to powers of two as it loads, and the codes with them: left out here, as it changes
    the values and not the work.
    """
    from vllm.model_executor.layers.quantization.utils.fp8_utils import deepgemm_post_process_weight_scale_block

    experts, rows, cols = weights.data.shape
    scale: torch.Tensor = deepgemm_post_process_weight_scale_block(
        ws=weights.scale, mn=rows, k=cols, quant_block_shape=(BLOCK, BLOCK), num_groups=experts
    )
    return scale


def _layer_config(one: Inputs, down: Fp8Block) -> object:
    """What vLLM's modular experts ask about the layer: one GPU, nothing parallel."""
    from vllm.model_executor.layers.fused_moe.activation import MoEActivation
    from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig, FusedMoEParallelConfig, RoutingMethodType

    experts, hidden, intermediate = down.data.shape
    config: object = FusedMoEConfig(
        num_experts=experts,
        experts_per_token=one.ids.shape[1],
        hidden_dim=hidden,
        intermediate_size=intermediate,
        num_local_experts=experts,
        num_logical_experts=experts,
        activation=MoEActivation.SILU,
        device=one.x.device,
        routing_method=RoutingMethodType.Renormalize,
        moe_parallel_config=FusedMoEParallelConfig.make_no_parallel(),
        in_dtype=one.x.dtype,
    )
    return config
