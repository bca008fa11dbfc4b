"""The same checkpoint in transformers, with activations fake-quantised per token by compressed-tensors."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    CompressedTensorsConfig,
    FineGrainedFP8Config,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeExperts, Glm4MoeMoE, Glm4MoeRMSNorm, Glm4MoeTopkRouter
from transformers.models.minimax_m2.modeling_minimax_m2 import MiniMaxM2Experts, MiniMaxM2RMSNorm, MiniMaxM2TopKRouter
from transformers.models.mixtral.modeling_mixtral import MixtralExperts, MixtralRMSNorm, MixtralTopKRouter
from transformers.models.olmoe.modeling_olmoe import OlmoeExperts, OlmoeRMSNorm, OlmoeTopKRouter
from transformers.models.qwen2_moe.modeling_qwen2_moe import (
    Qwen2MoeExperts,
    Qwen2MoeRMSNorm,
    Qwen2MoeSparseMoeBlock,
    Qwen2MoeTopKRouter,
)
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import (
    Qwen3_5MoeExperts,
    Qwen3_5MoeRMSNorm,
    Qwen3_5MoeRMSNormGated,
    Qwen3_5MoeSparseMoeBlock,
    Qwen3_5MoeTopKRouter,
)
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts, Qwen3MoeRMSNorm, Qwen3MoeTopKRouter
from transformers.models.qwen3_next.modeling_qwen3_next import (
    Qwen3NextExperts,
    Qwen3NextRMSNorm,
    Qwen3NextRMSNormGated,
    Qwen3NextSparseMoeBlock,
    Qwen3NextTopKRouter,
)

from octavo.config import WeightFormat
from octavo.models.registry import read_folder
from octavo.ops.experts import Routing

EXPERTS = (
    Qwen3MoeExperts,
    MixtralExperts,
    Qwen2MoeExperts,
    OlmoeExperts,
    Glm4MoeExperts,
    MiniMaxM2Experts,
    Qwen3NextExperts,
    Qwen3_5MoeExperts,
)
NORMS = (
    Qwen3MoeRMSNorm,
    MixtralRMSNorm,
    Qwen2MoeRMSNorm,
    OlmoeRMSNorm,
    Qwen3RMSNorm,
    Glm4MoeRMSNorm,
    MiniMaxM2RMSNorm,
    Qwen3NextRMSNorm,
    Qwen3NextRMSNormGated,
    Qwen3_5MoeRMSNorm,
    Qwen3_5MoeRMSNormGated,
)
SIGMOID_ROUTERS = (Glm4MoeTopkRouter, MiniMaxM2TopKRouter)
ROUTERS = (
    Qwen3MoeTopKRouter,
    MixtralTopKRouter,
    Qwen2MoeTopKRouter,
    OlmoeTopKRouter,
    Qwen3NextTopKRouter,
    Qwen3_5MoeTopKRouter,
    *SIGMOID_ROUTERS,
)
PER_TOKEN = QuantizationArgs(num_bits=8, type="float", strategy="token", symmetric=True, dynamic=True)
Rounding = Callable[[torch.Tensor], torch.Tensor]
"""What is left of a product's input."""
TIE = 0.05
"""Experts whose logits lie closer than this (logits spread over about 10) may be chosen either way."""
SCORE_TIE = TIE / 4
"""The same of sigmoids, which grow by at most a quarter of what logits do."""


def round_activations(x: torch.Tensor) -> torch.Tensor:
    """x (..., K) with each row rounded to FP8 times its scale; compressed-tensors wants (batch, tokens, K)."""
    if x.numel() == 0:
        return x
    rows = x.reshape(1, -1, x.shape[-1])
    scale, zero = compute_dynamic_scales_and_zp(rows, PER_TOKEN, torch.nn.Identity())
    rounded: torch.Tensor = fake_quantize(rows, scale, zero, PER_TOKEN).view(x.shape)
    return rounded


def round_groups(x: torch.Tensor) -> torch.Tensor:
    """x (..., K) with each 128 columns of a row rounded to FP8 times their scale."""
    columns = x.shape[-1]
    groups = torch.nn.functional.pad(x, (0, -columns % 128)).unflatten(-1, (-1, 128))
    scale = (groups.abs().amax(-1, keepdim=True) / 448).clamp(min=1e-12)
    rounded: torch.Tensor = (groups / scale).to(torch.float8_e4m3fn).float() * scale
    return rounded.flatten(-2)[..., :columns]


def round_static(scale: float) -> Rounding:
    """Numbers rounded to FP8 times `scale`, held within what that holds."""
    return lambda x: (x / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale


HOW: dict[WeightFormat, tuple[dict[str, Any], Rounding]] = {
    WeightFormat.BF16: ({}, torch.Tensor.clone),
    WeightFormat.FP8_DYNAMIC: ({"quantization_config": CompressedTensorsConfig(dequantize=True)}, round_activations),
    WeightFormat.FP8_BLOCK: ({"quantization_config": FineGrainedFP8Config(dequantize=True)}, round_groups),
}
"""Format -> how transformers dequantises it, and what it leaves of a product's input."""


def load(folder: Path, weights: WeightFormat) -> Any:
    """The model with bf16 between its layers and float32 within them, as Octavo computes.

    FP8 makes much of little: a difference of 0.2 % before a rounding to FP8 (one bf16 rounding) is one of over 1 % behind
    it, layer after layer. So both sides must round to bf16 in the same places: hidden states, what linear layers of
    attention and whole MLPs give, and what enters an FP8 product; products, softmax, rotary angles and SwiGLU are
    float32. The weights are dequantised to float32 by transformers.
    """
    extra, rounded = HOW[weights]
    return _load(folder, extra, read_folder(folder).quantization.covers, lambda _: rounded)


def load_plain(folder: Path, covers: Callable[[str], bool], roundings: Callable[[str], Rounding]) -> Any:
    """`load` of a checkpoint in float32: what covered modules read is rounded as `roundings` says by their names.

    Those of experts are `<module>.gate_up` and `<module>.down`.
    """
    return _load(folder, {}, covers, roundings)


def _load(
    folder: Path, extra: dict[str, Any], covers: Callable[[str], bool], roundings: Callable[[str], Rounding]
) -> Any:
    attn = {"attn_implementation": "float32_sdpa"}
    with warnings.catch_warnings():
        # Its own config.json asks for the format; the argument only adds how to load it.
        warnings.filterwarnings("ignore", "You passed `quantization_config`")
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **attn, **extra).eval()
    for name, module in model.named_modules():
        if name == "lm_head":
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        elif isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(_rounded_input(roundings(name) if covers(name) else torch.Tensor.clone))
            if not name.endswith(
                ("gate_proj", "up_proj", "shared_expert_gate", "in_proj_ba", "in_proj_a", "in_proj_b")
            ):
                module.register_forward_hook(lambda _, inputs, out: out.bfloat16())
        elif isinstance(module, EXPERTS):
            module.forward = types.MethodType(_experts(roundings(f"{name}.gate_up"), roundings(f"{name}.down")), module)
        elif isinstance(
            module, (Qwen2MoeSparseMoeBlock, Glm4MoeMoE, Qwen3NextSparseMoeBlock, Qwen3_5MoeSparseMoeBlock)
        ):
            module.register_forward_hook(lambda _, inputs, out: out.bfloat16())
        elif isinstance(module, (torch.nn.Embedding, *NORMS)):
            module.weight.data = module.weight.data.bfloat16()
    if model.config.tie_word_embeddings:
        model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.float())
    angles = model.model.rotary_emb.forward
    model.model.rotary_emb.forward = lambda x, position_ids: angles(x.float(), position_ids)
    return model


def _rounded_input(rounded: Rounding) -> Callable[[Any, Any], tuple[torch.Tensor]]:
    return lambda _, inputs: (rounded(inputs[0].bfloat16().float()),)


def _float32_sdpa(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, scaling: float, **_: Any
) -> tuple[torch.Tensor, None]:
    """transformers' own sdpa on queries and keys rounded to bf16, computed in float32."""
    inputs = (side.bfloat16().float() for side in (query, key, value))
    out, _ = sdpa_attention_forward(module, *inputs, mask, scaling=scaling)
    return out.bfloat16(), None


AttentionInterface.register("float32_sdpa", _float32_sdpa)
AttentionMaskInterface.register("float32_sdpa", sdpa_mask)


def _experts(into_gate_up: Rounding, into_down: Rounding) -> Any:
    """The experts' own `forward` with the inputs of both products rounded."""

    def forward(self: Any, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(x.shape)
        for expert in ids.unique().tolist():
            rows, places = torch.where(ids == expert)
            gate, up = (into_gate_up(x[rows].float()) @ self.gate_up_proj[expert].t()).chunk(2, dim=-1)
            hidden = (self.act_fn(gate) * up).bfloat16().float()
            mixed = (into_down(hidden) @ self.down_proj[expert].t()).bfloat16().float()
            out.index_add_(0, rows, mixed * weights[rows, places, None])
        return out.bfloat16()

    return forward


def follow_ties(model: Any, routings: list[Routing]) -> list[int]:
    """Let the routers choose as `routings` (one per sparse layer) between experts that are as good as equal.

    Any other choice stays transformers' own, and shows as an error.

    Returns:
        Filled as the model runs: for each sparse layer, the rows in which a tie was followed.
    """
    followed: list[int] = []
    left: Iterator[Routing] = iter(routings)
    for module in model.modules():
        if isinstance(module, ROUTERS):
            make = _sigmoid_router if isinstance(module, SIGMOID_ROUTERS) else _router
            module.forward = types.MethodType(make(next(left), followed), module)
    assert next(left, None) is None
    return followed


def _router(routing: Routing, followed: list[int]) -> Any:
    def forward(self: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits = x.reshape(-1, self.hidden_dim).float() @ self.weight.t()
        own = logits.topk(self.top_k).indices
        ids = torch.where(_tied(logits, own, routing.ids)[:, None], routing.ids, own)
        followed.append(int((ids.sort(-1).values != own.sort(-1).values).any(-1).sum()))
        weights = logits.softmax(-1).gather(1, ids)
        if getattr(self, "norm_topk_prob", True):  # Mixtral always does
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights, ids

    return forward


def _sigmoid_router(routing: Routing, followed: list[int]) -> Any:
    def forward(self: Any, x: torch.Tensor, *bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logits, _, own = type(self).forward(self, x.float(), *bias)
        shares = logits.sigmoid()
        scores = shares + (bias[0] if bias else self.e_score_correction_bias)
        ids = torch.where(_tied(scores, own, routing.ids, SCORE_TIE)[:, None], routing.ids, own)
        followed.append(int((ids.sort(-1).values != own.sort(-1).values).any(-1).sum()))
        weights = shares.gather(1, ids)
        if getattr(self, "norm_topk_prob", True):  # MiniMax always does
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights * getattr(self, "routed_scaling_factor", 1.0), ids

    return forward


def _tied(logits: torch.Tensor, own: torch.Tensor, theirs: torch.Tensor, tie: float = TIE) -> torch.Tensor:
    """(T,) whether the worst of `theirs` is less than `tie` below the worst of `own`."""
    return logits.gather(1, theirs).amin(-1) > logits.gather(1, own).amin(-1) - tie
