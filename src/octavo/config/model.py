"""The architecture of a model, as its `config.json` states it."""

from __future__ import annotations

import dataclasses
import enum
import json
from pathlib import Path
from typing import Any

from octavo.errors import CheckpointError


class WeightFormat(enum.Enum):
    """How linear weights are stored."""

    BF16 = "bf16"
    FP8_DYNAMIC = "compressed-tensors FP8 (per-channel weights, per-token activations)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Qwen3-MoE's shape. Names follow Hugging Face's `Qwen3MoeConfig`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    """Of dense MLP layers."""
    moe_intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    num_experts: int
    num_experts_per_tok: int
    norm_topk_prob: bool
    decoder_sparse_step: int
    mlp_only_layers: tuple[int, ...]
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention_bias: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    weight_format: WeightFormat
    unquantized: tuple[str, ...]
    """Module names or `re:` patterns that stay in bf16 (compressed-tensors' `ignore`)."""

    def is_sparse(self, layer: int) -> bool:
        """Whether `layer` has experts: not in mlp_only_layers, and every decoder_sparse_step-th layer."""
        return (
            layer not in self.mlp_only_layers and self.num_experts > 0 and (layer + 1) % self.decoder_sparse_step == 0
        )

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of bf16 keys and values of one token over all layers."""
        return 2 * 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read `folder/config.json`.

        Raises:
            CheckpointError: the file is missing or not JSON, or states an architecture or format that is not served.
        """
        path = folder / "config.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as exc:
            raise CheckpointError("not found; a model folder needs it", file=str(path)) from exc
        except (UnicodeDecodeError, json.JSONDecodeError) as exc:
            raise CheckpointError(f"is not JSON: {exc}", file=str(path)) from exc
        return cls.from_json(raw, file=str(path))

    @classmethod
    def from_json(cls, raw: dict[str, Any], *, file: str = "config.json") -> ModelConfig:
        """Build from the parsed `config.json`; see `from_folder`."""
        raise CheckpointError("reading config.json comes with the checkpoints room", file=file)
