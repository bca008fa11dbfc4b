"""The model beside transformers on the same checkpoint: hidden states, logits and greedy tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import octavo.ops.experts.cpu as cpu_experts
from compare import assert_rows
from models import hugging_face
from models.toy import (
    CPU,
    FP8_BLOCK,
    allocate_cache,
    make_batch,
    random_tensors,
    raw_config,
    raw_mixtral,
    raw_olmoe,
    raw_qwen2_moe,
    raw_qwen3,
    write_checkpoint,
)
from octavo.models.config import ModelConfig
from octavo.models.load import load_model
from octavo.models.registry import read_config
from octavo.ops.experts import Routing, choose_experts

LIMIT = 0.02
TOKENS = 32
DRAWS = range(10)


def draw_rope(seed: int) -> dict[str, Any]:
    """Both spellings of the base."""
    if seed % 2:
        return {"rope_theta": 1e6}
    return {"rope_theta": None, "rope_parameters": {"rope_theta": 5e4, "rope_type": "default"}}


def draw_qwen3_moe(seed: int) -> dict[str, Any]:
    """One of all that a Qwen3-MoE config can say."""
    pick = random.Random(seed)
    heads, kv_heads = pick.choice([(4, 2), (4, 4), (6, 2), (8, 1)])
    experts = pick.choice([4, 8, 16, 32])
    layers = pick.choice([2, 3, 4])
    return raw_config(
        hidden_size=pick.choice([64, 96, 128]),
        intermediate_size=pick.choice([80, 112]),
        moe_intermediate_size=pick.choice([32, 48, 80]),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=pick.choice([16, 24, 32]),
        num_experts=experts,
        num_experts_per_tok=pick.randint(1, min(8, experts)),
        norm_topk_prob=pick.random() < 0.5,
        mlp_only_layers=[1] if seed % 3 == 0 else [],
        decoder_sparse_step=2 if seed % 5 == 1 else 1,
        tie_word_embeddings=seed % 4 == 2,
        attention_bias=seed % 3 == 1,
        **draw_rope(seed),
    )


def draw_mixtral(seed: int) -> dict[str, Any]:
    """One of all that a Mixtral config can say."""
    pick = random.Random(seed)
    heads, kv_heads = pick.choice([(4, 2), (4, 4), (6, 2), (8, 1)])
    experts = pick.choice([2, 4, 8, 16])
    return raw_mixtral(
        hidden_size=pick.choice([96, 192]),
        intermediate_size=pick.choice([32, 48, 80]),
        num_hidden_layers=pick.choice([2, 3, 4]),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=pick.choice([16, 24, 32]) if seed % 3 else None,
        num_local_experts=experts,
        num_experts_per_tok=pick.randint(1, min(4, experts)),
        sliding_window=512 if seed % 4 == 3 else None,
        tie_word_embeddings=seed % 4 == 2,
        **draw_rope(seed),
    )


def draw_qwen3(seed: int) -> dict[str, Any]:
    """One of all that a Qwen3 config can say."""
    pick = random.Random(seed)
    heads, kv_heads = pick.choice([(4, 2), (4, 4), (6, 2), (8, 1)])
    return raw_qwen3(
        hidden_size=pick.choice([64, 96, 128]),
        intermediate_size=pick.choice([80, 112]),
        num_hidden_layers=pick.choice([2, 3, 4]),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=pick.choice([16, 24, 32]),
        tie_word_embeddings=seed % 4 == 2,
        attention_bias=seed % 3 == 1,
        **draw_rope(seed),
    )


def draw_qwen2_moe(seed: int) -> dict[str, Any]:
    """One of all that a Qwen2-MoE config can say."""
    pick = random.Random(seed)
    heads, kv_heads = pick.choice([(4, 2), (4, 4), (6, 2), (8, 1)])
    experts = pick.choice([4, 8, 16, 32])
    return raw_qwen2_moe(
        hidden_size=pick.choice([48, 96]),
        intermediate_size=pick.choice([80, 112]),
        moe_intermediate_size=pick.choice([32, 48, 80]),
        shared_expert_intermediate_size=pick.choice([48, 96, 112]),
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        num_experts=experts,
        num_experts_per_tok=pick.randint(1, min(8, experts)),
        norm_topk_prob=pick.random() < 0.5,
        mlp_only_layers=[1] if seed % 3 == 0 else [],
        qkv_bias=False if seed % 5 == 2 else None,
        tie_word_embeddings=seed % 4 == 2,
        **draw_rope(seed),
    )


def draw_olmoe(seed: int) -> dict[str, Any]:
    """One of all that an OLMoE config can say."""
    pick = random.Random(seed)
    heads, kv_heads = pick.choice([(4, 2), (4, 4), (6, 2), (8, 1)])
    experts = pick.choice([4, 8, 16, 32])
    return raw_olmoe(
        hidden_size=pick.choice([48, 96]),
        intermediate_size=pick.choice([32, 48, 80]),
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        num_experts=experts,
        num_experts_per_tok=pick.randint(1, min(8, experts)),
        norm_topk_prob=pick.random() < 0.5,
        attention_bias=seed % 3 == 1,
        tie_word_embeddings=seed % 4 == 2,
        **draw_rope(seed),
    )


DRAW: dict[str, Callable[[int], dict[str, Any]]] = {
    "qwen3_moe": draw_qwen3_moe,
    "qwen3": draw_qwen3,
    "qwen2_moe": draw_qwen2_moe,
    "mixtral": draw_mixtral,
    "olmoe": draw_olmoe,
}
families = pytest.mark.parametrize("family", DRAW)


class Pair:
    """What Octavo and transformers make of a checkpoint."""

    def __init__(self, ours: Path, theirs: Path, config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.routings: list[Routing] = []
        monkeypatch.setattr(cpu_experts, "choose_experts", self._note)
        ids = torch.randint(config.vocab_size, (TOKENS,), generator=torch.Generator().manual_seed(5)).tolist()
        model = load_model(ours, load_format="auto", device=CPU, seed=0, progress=False).model
        batch = make_batch([(ids, 0, TOKENS, [2, 0])], block_size=16, columns=4)
        self.hidden = model.forward(batch, allocate_cache(config, num_blocks=3, block_size=16))
        self.logits = model.logits(self.hidden)
        other = hugging_face.load(theirs, config.quantization.format)
        self.followed = hugging_face.follow_ties(other, self.routings)
        with torch.no_grad():
            out = other.model(torch.tensor([ids]))
            self.expected_hidden = out.last_hidden_state[0]
            self.expected_logits = other.lm_head(self.expected_hidden)

    def _note(self, logits: torch.Tensor, top_k: int, *, renormalize: bool) -> Routing:
        self.routings.append(choose_experts(logits, top_k, renormalize=renormalize))
        return self.routings[-1]

    def assert_agree(self) -> None:
        assert_rows(self.hidden, self.expected_hidden, LIMIT)
        assert_rows(self.logits, self.expected_logits, LIMIT)
        best = self.expected_logits.topk(2).values
        clear = best[:, 0] - best[:, 1] > LIMIT * self.expected_logits.norm(dim=-1)
        clear |= best[:, 0] - best[:, 1] > 2 * (self.logits - self.expected_logits).abs().amax(-1)
        assert clear.float().mean() > 0.5
        assert torch.equal(self.logits.argmax(-1)[clear], self.expected_logits.argmax(-1)[clear])
        assert sum(self.followed) <= 0.05 * TOKENS * max(1, len(self.followed)) + 1


@families
@pytest.mark.parametrize("seed", DRAWS, ids=lambda seed: f"draw{seed}")
def test_fp8_dynamic(family: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = DRAW[family](seed)
    config = read_config(raw)
    write_checkpoint(tmp_path, raw, random_tensors(config, seed), shards=1 + seed % 3)
    Pair(tmp_path, tmp_path, config, monkeypatch).assert_agree()


@families
@pytest.mark.parametrize("seed", range(30, 38), ids=lambda seed: f"draw{seed}")
def test_fp8_blocks(family: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that transformers takes: at most 128, or a multiple of it; heads that fill whole blocks.

    Two layers: over four of these sizes, what roundings to FP8 make of a last bit passes 2 %, per channel as per block.
    """
    pick = random.Random(seed)
    changes: dict[str, Any] = {"hidden_size": pick.choice([128, 256]), "head_dim": 32, "num_hidden_layers": 2}
    changes |= {"num_attention_heads": 8, "num_key_value_heads": 4}
    widths = {name: pick.choice([48, 128, 256]) for name in ("intermediate_size", "moe_intermediate_size")}
    widths["intermediate_size"] = pick.choice([128, 256])
    raw = DRAW[family](seed) | {"quantization_config": FP8_BLOCK} | changes
    widths["shared_expert_intermediate_size"] = pick.choice([128, 256])
    raw |= {name: width for name, width in widths.items() if name in raw}
    if family == "olmoe":  # whose heads are as wide as its hidden states
        raw |= {"hidden_size": 256}
    config = read_config(raw)
    write_checkpoint(tmp_path, raw, random_tensors(config, seed))
    Pair(tmp_path, tmp_path, config, monkeypatch).assert_agree()


def test_a_block_with_its_neighbours_scale_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: two blocks of one projection change their scales in transformers' copy."""
    raw = draw_qwen3_moe(30) | {"quantization_config": FP8_BLOCK, "hidden_size": 256, "head_dim": 32}
    raw |= {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 128, "moe_intermediate_size": 128}
    raw |= {"num_hidden_layers": 2}
    config = read_config(raw)
    tensors = random_tensors(config, 30)
    name = "model.layers.1.self_attn.v_proj.weight_scale_inv"
    tensors[name][:, 0] *= 4  # one block of 128 x 128 far from the other
    write_checkpoint(tmp_path / "true", raw, tensors)
    write_checkpoint(tmp_path / "swapped", raw, tensors | {name: tensors[name].flip(1).contiguous()})
    with pytest.raises(AssertionError, match="relative error"):
        Pair(tmp_path / "true", tmp_path / "swapped", config, monkeypatch).assert_agree()


@families
@pytest.mark.parametrize("seed", [20, 21, 22], ids=lambda seed: f"draw{seed}")
def test_bf16(family: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = DRAW[family](seed)
    del raw["quantization_config"]
    config = read_config(raw)
    write_checkpoint(tmp_path, raw, random_tensors(config, seed))
    Pair(tmp_path, tmp_path, config, monkeypatch).assert_agree()


@families
@pytest.mark.parametrize("seed", [0, 3, 8], ids=lambda seed: f"draw{seed}")
def test_one_shuffled_expert_shows(family: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: the outputs of one expert in the last sparse layer change places in transformers' copy; or of the MLP."""
    raw = DRAW[family](seed)
    config = read_config(raw)
    tensors = random_tensors(config, seed)
    write_checkpoint(tmp_path / "true", raw, tensors)
    routings = Pair(tmp_path / "true", tmp_path / "true", config, monkeypatch).routings
    part = f"experts.{int(routings[-1].ids.mode(0).values[0])}." if routings else "mlp."
    downs = [name for name in tensors if name.endswith((f"{part}down_proj.weight", f"{part}w2.weight"))]
    for name in (downs[-1], f"{downs[-1]}_scale"):
        tensors[name] = tensors[name].view(torch.uint8).roll(1, 0).view(tensors[name].dtype).contiguous()
    write_checkpoint(tmp_path / "shuffled", raw, tensors)
    pair = Pair(tmp_path / "true", tmp_path / "shuffled", config, monkeypatch)
    with pytest.raises(AssertionError, match="relative error"):
        pair.assert_agree()
