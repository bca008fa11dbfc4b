"""Configs of every family, drawn from all that they can say."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from models.toy import (
    raw_config,
    raw_glm4_moe,
    raw_minimax_m2,
    raw_mixtral,
    raw_olmoe,
    raw_qwen2_moe,
    raw_qwen3,
    raw_qwen3_5_moe,
    raw_qwen3_next,
)


class Draw:
    """One draw of the parts that families share; `seed` also says which of the rare choices are made."""

    def __init__(self, seed: int) -> None:
        self.seed, self.pick = seed, random.Random(seed)

    def rope(self) -> dict[str, Any]:
        """Both spellings of the base, and of scaling."""
        if self.seed % 5 == 4:
            yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 5e4}
            return {"rope_theta": None, "rope_parameters": yarn}
        if self.seed % 10 == 1:
            return {"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 2.0}}
        if self.seed % 2:
            return {"rope_theta": 1e6}
        return {"rope_theta": None, "rope_parameters": {"rope_theta": 5e4, "rope_type": "default"}}

    def decoder(self, *, hidden: list[int]) -> dict[str, Any]:
        """Sizes of all layers: two, over which roundings to FP8 make less than 2 % of a last bit."""
        heads, kv_heads = self.pick.choice([(4, 2), (4, 4), (6, 2), (8, 1)])
        return {
            "hidden_size": self.pick.choice(hidden),
            "num_hidden_layers": 2,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "tie_word_embeddings": self.seed % 4 == 2,
            **self.rope(),
        }

    def experts(self, of: list[int], *, most: int, name: str = "num_experts") -> dict[str, Any]:
        """How many experts, and how many are chosen."""
        experts = self.pick.choice(of)
        return {name: experts, "num_experts_per_tok": self.pick.randint(1, min(most, experts))}

    def widths(self, *names: str) -> dict[str, Any]:
        """Those of MLPs: dense ones are the wider ones, but for every other shared expert, which is as wide as those that are chosen."""
        dense = ("intermediate_size", "shared_expert_intermediate_size")
        drawn = {name: self.pick.choice([80, 96, 112] if name in dense else [32, 48, 80]) for name in names}
        if "shared_expert_intermediate_size" in drawn and self.seed % 2:
            drawn["shared_expert_intermediate_size"] = drawn["moe_intermediate_size"]
        return drawn

    def head_dim(self) -> int:
        """Numbers of a head."""
        return self.pick.choice([16, 24, 32])

    def coin(self) -> bool:
        """One of two."""
        return self.pick.random() < 0.5


def draw_qwen3_moe(seed: int) -> dict[str, Any]:
    """One of all that a Qwen3-MoE config can say."""
    draw = Draw(seed)
    return raw_config(
        **draw.decoder(hidden=[64, 96, 128]),
        **draw.widths("intermediate_size", "moe_intermediate_size"),
        **draw.experts([4, 8, 16, 32], most=8),
        head_dim=draw.head_dim(),
        norm_topk_prob=draw.coin(),
        mlp_only_layers=[1] if seed % 3 == 0 else [],
        decoder_sparse_step=2 if seed % 5 == 1 else 1,
        attention_bias=seed % 3 == 1,
    )


def draw_mixtral(seed: int) -> dict[str, Any]:
    """One of all that a Mixtral config can say."""
    draw = Draw(seed)
    return raw_mixtral(
        **draw.decoder(hidden=[96, 192]),
        **draw.experts([2, 4, 8, 16], most=4, name="num_local_experts"),
        intermediate_size=draw.pick.choice([32, 48, 80]),
        # with YaRN transformers needs it stated
        head_dim=draw.head_dim() if seed % 3 or seed % 5 == 4 else None,
        sliding_window=2048 if seed % 4 == 3 else None,
    )


def draw_qwen3(seed: int) -> dict[str, Any]:
    """One of all that a Qwen3 config can say."""
    draw = Draw(seed)
    return raw_qwen3(
        **draw.decoder(hidden=[64, 96, 128]),
        **draw.widths("intermediate_size"),
        head_dim=draw.head_dim(),
        attention_bias=seed % 3 == 1,
    )


def draw_qwen2_moe(seed: int) -> dict[str, Any]:
    """One of all that a Qwen2-MoE config can say."""
    draw = Draw(seed)
    return raw_qwen2_moe(
        **draw.decoder(hidden=[48, 96]),
        **draw.widths("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"),
        **draw.experts([4, 8, 16, 32], most=8),
        norm_topk_prob=draw.coin(),
        mlp_only_layers=[1] if seed % 3 == 0 else [],
        qkv_bias=False if seed % 5 == 2 else None,
    )


def draw_qwen3_next(seed: int) -> dict[str, Any]:
    """One of all that a Qwen3-Next config can say."""
    draw = Draw(seed)
    key_heads = draw.pick.choice([1, 2, 3])
    kinds: dict[str, Any] = {"full_attention_interval": 2}
    if seed % 4 == 3:
        kinds = {"full_attention_interval": None, "layer_types": ["full_attention", "linear_attention"]}
    return raw_qwen3_next(
        **draw.decoder(hidden=[64, 96]),
        **draw.widths("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size"),
        **draw.experts([4, 8, 16, 32], most=8),
        **kinds,
        head_dim=draw.pick.choice([16, 32, 64]),
        partial_rotary_factor=draw.pick.choice([0.25, 0.5, 1.0, None]),
        norm_topk_prob=draw.coin(),
        mlp_only_layers=[1] if seed % 3 == 0 else [],
        attention_bias=seed % 3 == 1,
        linear_num_key_heads=key_heads,
        linear_num_value_heads=key_heads * draw.pick.choice([1, 2, 3]),
        linear_key_head_dim=draw.pick.choice([16, 24, 32]),
        linear_value_head_dim=draw.pick.choice([16, 24, 32]),
        linear_conv_kernel_dim=draw.pick.choice([4, 4, 2, 3]),
    )


def draw_qwen3_5_moe(seed: int) -> dict[str, Any]:
    """One of all that a Qwen3.5-MoE config can say of its text.

    Attention comes last: behind it, roundings to FP8 within Gated DeltaNet alone reach 2 % in a row of some draws.
    """
    left_out = ("intermediate_size", "decoder_sparse_step", "mlp_only_layers", "norm_topk_prob", "architectures")
    drawn = draw_qwen3_next(seed)
    drawn = {name: drawn[name] for name in drawn if name not in (*left_out, "model_type", "quantization_config")}
    if "rope_parameters" in drawn and drawn["rope_parameters"]["rope_type"] == "default":
        drawn["rope_parameters"]["mrope_section"] = [1, 1, 0]
    if "layer_types" in drawn:
        drawn["layer_types"] = ["linear_attention", "full_attention"]
    return raw_qwen3_5_moe(**drawn)


def draw_olmoe(seed: int) -> dict[str, Any]:
    """One of all that an OLMoE config can say."""
    draw = Draw(seed)
    return raw_olmoe(
        **draw.experts([4, 8, 16, 32], most=8),
        **draw.decoder(hidden=[48, 96]),
        intermediate_size=draw.pick.choice([32, 48, 80]),
        norm_topk_prob=draw.coin(),
        attention_bias=seed % 3 == 1,
    )


def draw_glm4_moe(seed: int) -> dict[str, Any]:
    """One of all that a GLM-4.5 config can say.

    Its routed experts are scaled by up to 1.5: by GLM-4.5's 2.5, roundings to FP8 within them alone reach 2 %.
    """
    draw = Draw(seed)
    experts = draw.experts([8, 16, 32], most=4, name="n_routed_experts")
    groups = {"n_group": 4, "topk_group": 2} if seed % 3 == 1 else {}
    return raw_glm4_moe(
        **experts,
        **groups,
        **draw.decoder(hidden=[64, 96]),
        **draw.widths("intermediate_size", "moe_intermediate_size"),
        head_dim=draw.pick.choice([16, 24, 32]),
        partial_rotary_factor=draw.pick.choice([0.5, 0.25, 1.0, None]),
        routed_scaling_factor=draw.pick.choice([1.0, 1.5, 0.8]),
        norm_topk_prob=seed % 4 != 3,
        n_shared_experts=2 if seed % 5 == 3 else 1,
        first_k_dense_replace=seed % 2,
        use_qk_norm=draw.coin(),
        attention_bias=draw.coin(),
    )


def draw_minimax_m2(seed: int) -> dict[str, Any]:
    """One of all that a MiniMax-M2 config can say."""
    draw = Draw(seed)
    head_dim = draw.head_dim()
    return raw_minimax_m2(
        **draw.decoder(hidden=[64, 96]),
        **draw.experts([4, 8, 16, 32], most=8, name="num_local_experts"),
        intermediate_size=draw.pick.choice([32, 48, 80]),
        head_dim=head_dim,
        rotary_dim=draw.pick.choice([head_dim // 2, head_dim, None]),
    )


DRAWS: dict[str, Callable[[int], dict[str, Any]]] = {
    "qwen3_moe": draw_qwen3_moe,
    "qwen3": draw_qwen3,
    "qwen2_moe": draw_qwen2_moe,
    "mixtral": draw_mixtral,
    "olmoe": draw_olmoe,
    "glm4_moe": draw_glm4_moe,
    "minimax_m2": draw_minimax_m2,
    "qwen3_next": draw_qwen3_next,
    "qwen3_5_moe_text": draw_qwen3_5_moe,
}
"""model_type -> a config of it for a seed."""
