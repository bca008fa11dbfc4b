"""The parameters of Qwen's models of attention and Gated DeltaNet by their names in a checkpoint."""

from __future__ import annotations

from octavo.models.decoder.parameters import (
    DecoderParameters,
    DeltaNetParameters,
    DenseMlp,
    Mixer,
    SparseMlp,
    place_attention,
    place_decoder,
)
from octavo.models.placing import ParameterMaker, Place
from octavo.models.qwen_hybrid.config import QwenHybridConfig
from octavo.models.qwen_moe.parameters import place_qwen_mlp
from octavo.ops.delta_net import DeltaWeights
from octavo.ops.prepare_qkv import HeadNorms


def place_hybrid(
    config: QwenHybridConfig,
    place: Place,
    *,
    qkvz: tuple[str, ...],
    write_decay: tuple[str, ...],
    module: str = "model",
) -> DecoderParameters:
    """See `ModelConfig.place_parameters`.

    Args:
        qkvz: the names of the projections that together give queries, keys and values, and gates; one name: it does so by
            key head.
        write_decay: likewise of what decides how much is written, and how fast a state decays.
        module: the name of the decoder.
    """

    def mixer(make: ParameterMaker, name: str, layer: int) -> Mixer:
        if layer not in config.attention_layers:
            return _delta_net(config, make, f"{name}.linear_attn", qkvz, write_decay)
        bias = config.attention_bias
        return place_attention(make, config, f"{name}.self_attn", bias=bias, out_bias=bias, norms=HeadNorms, gated=True)

    def mlp(make: ParameterMaker, name: str, layer: int) -> DenseMlp | SparseMlp:
        width = config.shared_expert_intermediate_size
        return place_qwen_mlp(config, make, f"{name}.mlp", layer, shared_width=width)

    return place_decoder(config, place, mixer, mlp, offset_norms=True, module=module)


def _delta_net(
    config: QwenHybridConfig, make: ParameterMaker, name: str, qkvz: tuple[str, ...], write_decay: tuple[str, ...]
) -> DeltaNetParameters:
    """Gated DeltaNet as the checkpoint module `name` holds it."""
    shape = config.delta_net
    hidden, heads, values = config.hidden_size, shape.value_heads, shape.value_heads * shape.value_dim
    rows = (shape.channels, values) if len(qkvz) > 1 else (shape.channels + values,)
    each = 2 * heads // len(write_decay)
    return DeltaNetParameters(
        shape=shape,
        qkvz=make.linear([(f"{name}.{part}", count) for part, count in zip(qkvz, rows, strict=True)], hidden),
        write_decay=make.linear([(f"{name}.{part}", each) for part in write_decay], hidden),
        grouped=len(qkvz) == 1,
        weights=DeltaWeights(
            taps=make.taps(f"{name}.conv1d.weight", shape.channels, shape.taps),
            log_decay=make.float_vector(f"{name}.A_log", heads),
            step_bias=make.float_vector(f"{name}.dt_bias", heads),
        ),
        norm=make.vector(f"{name}.norm.weight", shape.value_dim),
        out=make.linear([(f"{name}.out_proj", hidden)], values),
    )
