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
from models.draws import DRAWS
from models.toy import CPU, FP8_BLOCK, FP8_DYNAMIC, allocate_cache, make_batch, random_tensors, write_checkpoint
from octavo.models.config import ModelConfig
from octavo.models.load import load_model
from octavo.models.registry import read_config
from octavo.ops.experts import Routing, RoutingRule, SharedRule, choose_experts

LIMIT = 0.02
TOKENS = 32
families = pytest.mark.parametrize("family", DRAWS)


class Pair:
    """What Octavo and transformers make of a checkpoint."""

    def __init__(self, ours: Path, theirs: Path | Any, config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        """`theirs`: a folder, or what transformers has loaded."""
        self.routings: list[Routing] = []
        monkeypatch.setattr(cpu_experts, "choose_experts", self._note)
        ids = torch.randint(config.vocab_size, (TOKENS,), generator=torch.Generator().manual_seed(5)).tolist()
        model = load_model(ours, load_format="auto", device=CPU, seed=0, progress=False).model
        batch = make_batch([(ids, 0, TOKENS, [2, 0])], block_size=16, columns=4)
        self.hidden = model.forward(batch, allocate_cache(config, num_blocks=3, block_size=16))
        self.logits = model.logits(self.hidden)
        other = hugging_face.load(theirs, config.quantization.format) if isinstance(theirs, Path) else theirs
        self.followed = hugging_face.follow_ties(other, self.routings)
        with torch.no_grad():
            out = other.model(torch.tensor([ids]))
            self.expected_hidden = out.last_hidden_state[0]
            self.expected_logits = other.lm_head(self.expected_hidden)

    def _note(self, logits: torch.Tensor, rule: RoutingRule) -> Routing:
        routing = choose_experts(logits, rule)
        chosen = slice(0, -1 if isinstance(rule, SharedRule) else None)
        self.routings.append(Routing(routing.ids[:, chosen], routing.weights[:, chosen]))
        return routing

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
@pytest.mark.parametrize("seed", range(8), ids=lambda seed: f"draw{seed}")
def test_fp8_dynamic(family: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = DRAWS[family](seed)
    config = read_config(raw)
    write_checkpoint(tmp_path, raw, random_tensors(config, seed), shards=1 + seed % 3)
    Pair(tmp_path, tmp_path, config, monkeypatch).assert_agree()


def in_blocks(family: str, seed: int) -> dict[str, Any]:
    """Sizes that transformers takes: at most 128, or a multiple of it; heads that fill whole blocks."""
    pick = random.Random(seed)
    changes: dict[str, Any] = {"hidden_size": pick.choice([128, 256]), "head_dim": 32}
    changes |= {"num_attention_heads": 8, "num_key_value_heads": 4}
    widths = {name: pick.choice([48, 128, 256]) for name in ("intermediate_size", "moe_intermediate_size")}
    widths["intermediate_size"] = pick.choice([128, 256])
    raw = DRAWS[family](seed) | {"quantization_config": FP8_BLOCK} | changes
    widths["shared_expert_intermediate_size"] = pick.choice([128, 256])
    if "n_shared_experts" in raw:  # as wide as one that is chosen
        widths["moe_intermediate_size"] = pick.choice([128, 256])
    widths |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    widths |= {"linear_key_head_dim": 32, "linear_value_head_dim": 32}
    raw |= {name: width for name, width in widths.items() if name in raw}
    if family == "qwen3_5_moe_text":  # whose projections of a few rows are stored in bf16
        raw["quantization_config"] = FP8_BLOCK | {"modules_to_not_convert": ["lm_head", "in_proj_a", "in_proj_b"]}
    if family == "olmoe":  # whose heads are as wide as its hidden states
        raw |= {"hidden_size": 256}
    return raw


def in_bf16(family: str, seed: int) -> dict[str, Any]:
    """Without a format, and deeper: nothing rounds to FP8."""
    raw = DRAWS[family](seed) | {"num_hidden_layers": 4}
    if "layer_types" in raw:
        raw["layer_types"] *= 2
    del raw["quantization_config"]
    return raw


@families
@pytest.mark.parametrize("seed", range(30, 38), ids=lambda seed: f"draw{seed}")
def test_fp8_blocks(family: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = in_blocks(family, seed)
    config = read_config(raw)
    write_checkpoint(tmp_path, raw, random_tensors(config, seed))
    Pair(tmp_path, tmp_path, config, monkeypatch).assert_agree()


@families
def test_blocks_have_the_same_bits_in_both_spellings(family: str, tmp_path: Path) -> None:
    """Of `fp8`, which is compared with transformers, and of compressed-tensors; the twin has another scale."""
    raw = in_blocks(family, 30)
    wide = ["lm_head", "shared_expert_gate", "in_proj_a", "in_proj_b"]
    raw["quantization_config"] = FP8_BLOCK | {"modules_to_not_convert": wide}
    group = FP8_DYNAMIC["config_groups"]["group_0"]
    weights = group["weights"] | {"strategy": "block", "block_structure": [128, 128]}
    inputs = group["input_activations"] | {"strategy": "group", "group_size": 128}
    groups = {"group_0": group | {"weights": weights, "input_activations": inputs}}
    ignore = [f"re:.*{name}$" for name in (*wide, "mlp[.]gate", "block_sparse_moe[.]gate")]
    other = raw | {"quantization_config": FP8_DYNAMIC | {"config_groups": groups, "ignore": ignore}}
    tensors = random_tensors(read_config(raw), 30)
    renamed = {name.replace("weight_scale_inv", "weight_scale"): tensor for name, tensor in tensors.items()}
    last = max(name for name in renamed if name.endswith("o_proj.weight_scale"))
    logits = []
    for place, (stated, held) in enumerate(
        ((raw, tensors), (other, renamed), (other, renamed | {last: renamed[last] * 2}))
    ):
        write_checkpoint(tmp_path / str(place), stated, held)
        loaded = load_model(tmp_path / str(place), load_format="auto", device=CPU, seed=0, progress=False)
        batch = make_batch([(list(range(TOKENS)), 0, TOKENS, [2, 0])], block_size=16, columns=4)
        hidden = loaded.model.forward(batch, allocate_cache(loaded.config, num_blocks=3, block_size=16))
        logits.append(loaded.model.logits(hidden))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[1], logits[2])


def test_a_block_with_its_neighbours_scale_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: two blocks of one projection change their scales in transformers' copy."""
    raw = DRAWS["qwen3_moe"](30) | {"quantization_config": FP8_BLOCK, "hidden_size": 256, "head_dim": 32}
    raw |= {"num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 128, "moe_intermediate_size": 128}
    config = read_config(raw)
    tensors = random_tensors(config, 30)
    name = "model.layers.1.self_attn.v_proj.weight_scale_inv"
    tensors[name][:, 0] *= 4  # one block of 128 x 128 far from the other
    write_checkpoint(tmp_path / "true", raw, tensors)
    write_checkpoint(tmp_path / "swapped", raw, tensors | {name: tensors[name].flip(1).contiguous()})
    with pytest.raises(AssertionError, match="relative error"):
        Pair(tmp_path / "true", tmp_path / "swapped", config, monkeypatch).assert_agree()


@families
@pytest.mark.parametrize("seed", range(20, 28), ids=lambda seed: f"draw{seed}")
def test_bf16(family: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = in_bf16(family, seed)
    config = read_config(raw)
    write_checkpoint(tmp_path, raw, random_tensors(config, seed))
    Pair(tmp_path, tmp_path, config, monkeypatch).assert_agree()


FORMATS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "fp8-dynamic": lambda family, seed: DRAWS[family](seed),
    "fp8-blocks": in_blocks,
    "bf16": in_bf16,
}
"""Name -> how a config is drawn. The twin of `test_static_scales` is its own."""


@families
@pytest.mark.parametrize("name", FORMATS)
def test_one_shuffled_expert_shows(name: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: the outputs of one expert in the last sparse layer change places in transformers' copy; or of the MLP."""
    seed = {"fp8-dynamic": 3, "fp8-blocks": 30, "bf16": 20}[name]
    raw = FORMATS[name](family, seed)
    config = read_config(raw)
    tensors = random_tensors(config, seed)
    write_checkpoint(tmp_path / "true", raw, tensors)
    routings = Pair(tmp_path / "true", tmp_path / "true", config, monkeypatch).routings
    part = f"experts.{int(routings[-1].ids.mode(0).values[0])}." if routings else "mlp."
    downs = [name for name in tensors if name.endswith((f"{part}down_proj.weight", f"{part}w2.weight"))]
    scales = {f"{downs[-1]}_scale"} & tensors.keys()
    for moved in (downs[-1], *scales):
        # bytes of whole rows change places: PyTorch rolls no FP8
        tensors[moved] = tensors[moved].view(torch.uint8).roll(1, 0).view(tensors[moved].dtype).contiguous()
    write_checkpoint(tmp_path / "shuffled", raw, tensors)
    pair = Pair(tmp_path / "true", tmp_path / "shuffled", config, monkeypatch)
    with pytest.raises(AssertionError, match="relative error"):
        pair.assert_agree()
