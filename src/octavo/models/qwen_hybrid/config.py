"""What Qwen's models of attention and Gated DeltaNet state alike; not a family of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from octavo.config.delta_shape import DeltaShape
from octavo.config.facts import CacheLayout, PagedKv
from octavo.config.json_fields import JsonFields
from octavo.models.qwen_moe.config import QwenMoeConfig, read_qwen_moe

ATTENTION, RECURRENT = "full_attention", "linear_attention"
MOST_TAPS = 8
MOST_KEY_DIM = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenHybridConfig(QwenMoeConfig):
    """Layers of Gated DeltaNet with one of gated attention between some of them; experts beside one that all rows share."""

    shared_expert_intermediate_size: int
    attention_bias: bool
    attention_layers: tuple[int, ...]
    """The numbers of the layers with attention; the others are Gated DeltaNet."""
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int

    @property
    def delta_net(self) -> DeltaShape:
        """The sizes of Gated DeltaNet."""
        return DeltaShape(
            self.linear_num_key_heads,
            self.linear_num_value_heads,
            self.linear_key_head_dim,
            self.linear_value_head_dim,
            self.linear_conv_kernel_dim,
        )

    @property
    def cache(self) -> CacheLayout:
        """See `ModelConfig`."""
        paged, state = (
            PagedKv(self.num_key_value_heads, self.head_dim, self.quantization.kv_cache),
            self.delta_net.state,
        )
        return tuple(paged if layer in self.attention_layers else state for layer in range(self.num_hidden_layers))

    def is_needless(self, name: str) -> bool:
        """See `ModelConfig`; the head that predicts further tokens has names of its own."""
        return name.startswith("mtp.") or super().is_needless(name)


def read_qwen_hybrid(fields: JsonFields, *, experts: int, chosen: int) -> dict[str, Any]:
    """What these models state, as arguments of `QwenHybridConfig`; the numbers are the family's defaults.

    Raises:
        CheckpointError: as `ModelConfig.read`.
    """
    stated = read_qwen_moe(
        fields,
        experts=experts,
        chosen=chosen,
        norm_topk_prob=True,
        head_dim=256,
        rotary_share=0.25,
        kinds=(ATTENTION, RECURRENT),
    )
    return stated | {
        "shared_expert_intermediate_size": fields.count("shared_expert_intermediate_size", 512),
        "attention_bias": fields.flag("attention_bias"),
        "attention_layers": _read_attention_layers(fields, stated["num_hidden_layers"]),
        **_read_delta_net(fields),
    }


def _read_attention_layers(fields: JsonFields, layers: int) -> tuple[int, ...]:
    """By `layer_types`, or each `full_attention_interval`-th."""
    interval = fields.count("full_attention_interval", 4)
    kinds = fields.raw.get("layer_types")
    if kinds is None:
        chosen = tuple(layer for layer in range(layers) if (layer + 1) % interval == 0)
    elif len(kinds) != layers:
        raise fields.refuse(f"layer_types names {len(kinds)} layers, but num_hidden_layers is {layers}")
    else:
        chosen = tuple(layer for layer, kind in enumerate(kinds) if kind == ATTENTION)
    if not chosen:
        raise fields.refuse("no layer has attention, by layer_types or full_attention_interval; at least one is needed")
    return chosen


def _read_delta_net(fields: JsonFields) -> dict[str, Any]:
    """The sizes of Gated DeltaNet."""
    defaults = {"num_key_heads": 16, "num_value_heads": 32, "key_head_dim": 128, "value_head_dim": 128}
    sizes = {f"linear_{name}": fields.count(f"linear_{name}", default) for name, default in defaults.items()}
    sizes["linear_conv_kernel_dim"] = fields.count("linear_conv_kernel_dim", 4, least=2)
    keys, values = sizes["linear_num_key_heads"], sizes["linear_num_value_heads"]
    if values % keys:
        raise fields.refuse(f"linear_num_value_heads {values} must be a multiple of linear_num_key_heads {keys}")
    for name, most in (("linear_conv_kernel_dim", MOST_TAPS), ("linear_key_head_dim", MOST_KEY_DIM)):
        if sizes[name] > most:
            raise fields.refuse(f"{name} {sizes[name]} is not served; up to {most} is")
    return sizes
