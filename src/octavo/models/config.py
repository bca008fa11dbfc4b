"""What every family's config states, and what is made of it; no module here imports torch before it is asked for weights."""

from __future__ import annotations

import abc
import dataclasses
import re
from typing import TYPE_CHECKING, Any, ClassVar, Self

from octavo.config.facts import CacheLayout, ModelFacts, PagedKv
from octavo.config.json_fields import JsonFields, read_fields
from octavo.config.quantization import KvFormat, Quantization, read_quantization
from octavo.config.rope import Rope, read_rope

if TYPE_CHECKING:
    from octavo.models.decoder.model import Decoder
    from octavo.models.decoder.parameters import DecoderParameters
    from octavo.models.operations import Operations
    from octavo.models.placing import Place


MOST_EXPERTS = 2**16
"""Of all layers. Some 45 µs each are taken to lay out weights, several times in a start."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(abc.ABC):
    """One model of a family: decoder layers of attention and MLPs. Names follow Hugging Face's configs."""

    architecture: ClassVar[str]
    model_type: ClassVar[str]
    module: ClassVar[str] = "model"
    """The name of the decoder in a checkpoint."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    """Most tokens of a request: as many more than config.json states as `rope` makes room for."""
    rope: Rope
    rms_norm_eps: float
    tie_word_embeddings: bool
    eos_token_ids: tuple[int, ...]
    quantization: Quantization
    num_mtp_layers: int = 0
    """Layers behind the model's own that predict further tokens: a checkpoint may hold them, and they are left out."""

    @classmethod
    @abc.abstractmethod
    def read(cls, fields: JsonFields) -> Self:
        """The config that `fields` state.

        Raises:
            CheckpointError: a field is missing, of the wrong type, out of range, or states something not served.
        """

    @classmethod
    def from_json(cls, raw: dict[str, Any], *, file: str = "config.json") -> Self:
        """`read` of a parsed `config.json`, in which null stands for what is not set."""
        return cls.read(read_fields(raw, file))

    @abc.abstractmethod
    def place_parameters(self, place: Place) -> DecoderParameters:
        """The parameters as they lie in `place`; their `sources` say which checkpoint tensor belongs where.

        Raises:
            CheckpointError: the config quantizes one of two layers that are computed together and not the other.
        """

    def build(self, parameters: DecoderParameters, operations: Operations, positions: int) -> Decoder:
        """The model that computes requests of up to `positions` tokens with `parameters`, which are not copied, by `operations`."""
        from octavo.models.decoder.model import Decoder

        return Decoder(self, parameters, operations, positions)

    @property
    def cache(self) -> CacheLayout:
        """The cache of each layer."""
        kv = PagedKv(self.num_key_value_heads, self.head_dim, self.quantization.kv_cache)
        return (kv,) * self.num_hidden_layers

    @property
    def facts(self) -> ModelFacts:
        """What the rest of the house must know."""
        identity = dataclasses.asdict(self) | {"architecture": self.architecture}
        identity["quantization"] |= {
            "format": self.quantization.format.value,
            "kv_cache": self.quantization.kv_cache.value,
        }
        return ModelFacts(
            architecture=self.architecture,
            vocab_size=self.vocab_size,
            eos_token_ids=self.eos_token_ids,
            max_position_embeddings=self.max_position_embeddings,
            cache=self.cache,
            weight_format=self.quantization.format,
            identity=identity,
        )

    @property
    def copies(self) -> dict[str, str]:
        """Tensors that a checkpoint may hold a second time -> the names of the first."""
        return {"lm_head.weight": f"{self.module}.embed_tokens.weight"} if self.tie_word_embeddings else {}

    def is_needless(self, name: str) -> bool:
        """Whether a checkpoint may hold the tensor `name` although the model computes without it.

        Old writers store what follows from the config (frequencies of rotary embeddings), others a tied head a second time,
        layers that predict further tokens serve speculation alone, and scales of keys and values a cache in FP8.
        """
        if self.quantization.kv_cache is KvFormat.BF16 and name.endswith((".self_attn.k_scale", ".self_attn.v_scale")):
            return True
        if name.endswith("rotary_emb.inv_freq") or name in self.copies:
            return True
        layer = re.match(r"model\.layers\.(\d{1,9})\.", name)
        return layer is not None and 0 <= int(layer[1]) - self.num_hidden_layers < self.num_mtp_layers


def read_decoder(
    fields: JsonFields,
    *,
    rope_theta: float,
    rms_norm_eps: float,
    head_dim: int | None = None,
    rotary_share: float | None = None,
    kinds: tuple[str, ...] = ("full_attention",),
) -> dict[str, Any]:
    """What every family's config states, as arguments of its class; the numbers are the family's defaults.

    A head_dim of None is hidden_size over num_attention_heads; a rotary_share of None, that whole heads are turned. `kinds`
    are those that `layer_types` may name.

    Raises:
        CheckpointError: as `ModelConfig.read`.
    """
    _require_served(fields, kinds)
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    vocab = fields.count("vocab_size")
    kv_heads = fields.count("num_key_value_heads", heads)
    width = fields.count("head_dim", head_dim or hidden // heads)
    if heads % kv_heads:
        raise fields.refuse(f"num_attention_heads {heads} must be a multiple of num_key_value_heads {kv_heads}")
    if width % 2:
        raise fields.refuse(f"head_dim must be even for rotary embeddings, is {width}")
    rope = read_rope(fields, head_dim=width, theta=rope_theta, share=rotary_share)
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "num_hidden_layers": fields.count("num_hidden_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width,
        "max_position_embeddings": rope.positions(fields.count("max_position_embeddings")),
        "rope": rope,
        "rms_norm_eps": fields.number("rms_norm_eps", rms_norm_eps),
        "tie_word_embeddings": fields.flag("tie_word_embeddings"),
        "eos_token_ids": fields.token_ids("eos_token_id", vocab),
        "quantization": read_quantization(fields),
    }


def check_experts(fields: JsonFields, chosen: int, experts: int) -> None:
    """Refuse a router that has to choose more experts than there are, and more experts in all than are served.

    Raises:
        CheckpointError: it names both fields.
    """
    if experts and chosen > experts:
        raise fields.refuse(f"num_experts_per_tok {chosen} must not exceed num_experts {experts}")
    layers = fields.count("num_hidden_layers")
    if layers * experts > MOST_EXPERTS:
        raise fields.refuse(
            f"num_hidden_layers {layers} of {experts} experts each are not served; up to {MOST_EXPERTS} experts are"
        )


def _require_served(fields: JsonFields, kinds: tuple[str, ...]) -> None:
    """Refuse options that are not served by any family, or layers that are not of these `kinds`."""
    fields.require("hidden_act", "silu", "silu")
    stated = fields.raw.get("layer_types", [])
    if not isinstance(stated, list) or any(kind not in kinds for kind in stated):
        raise fields.refuse(f"layer_types {stated!r} is not served; {' and '.join(kinds)} in every layer is")
    for name in ("dtype", "torch_dtype"):
        if (dtype := fields.raw.get(name, "bfloat16")) not in ("bfloat16", "float16", "float32"):
            raise fields.refuse(f"{name} {dtype!r} is not served; bfloat16, float16 and float32 are, all as bfloat16")
