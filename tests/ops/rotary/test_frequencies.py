"""Tables of rotary embeddings against those of transformers, bit by bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeConfig, Glm4MoeRotaryEmbedding

from octavo.config.json_fields import read_fields
from octavo.config.rope import Rope, Yarn, read_rope
from octavo.errors import CheckpointError
from octavo.ops.rotary import RotaryTable
from octavo.ops.rotary.frequencies import frequencies

CPU = torch.device("cpu")
YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
STATED: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 1e6},
    "part": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5},
    "linear": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4},
    "linear-part": {"rope_type": "linear", "factor": 8, "rope_theta": 1e6, "partial_rotary_factor": 0.25},
    "yarn-as-qwen-says": YARN | {"rope_theta": 1e6},
    "yarn-part": YARN | {"rope_theta": 1e6, "partial_rotary_factor": 0.5},
    "yarn-short": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4},
    "yarn-betas": YARN | {"rope_theta": 1e6, "beta_fast": 16, "beta_slow": 2.5, "truncate": False},
    "yarn-attention-factor": YARN | {"rope_theta": 1e6, "attention_factor": 1.25},
    "yarn-scales": YARN
    | {
        "rope_theta": 1e4,
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "mscale": 1.0,
        "mscale_all_dim": 0.707,
    },
    "yarn-one-scale": YARN | {"rope_theta": 1e4, "mscale": 0.5},
    "yarn-of-one": YARN | {"rope_theta": 1e6, "factor": 1.0},
    "yarn-borders-that-meet": YARN | {"rope_theta": 1e6, "beta_fast": 1, "beta_slow": 1, "truncate": False},
}
stated = pytest.mark.parametrize("stated", STATED.values(), ids=STATED)
POSITIONS = 4096


def read(stated: dict[str, Any], head_dim: int, positions: int = 40960) -> Rope:
    raw = {"max_position_embeddings": positions, "rope_parameters": stated}
    return read_rope(read_fields(raw, "config.json"), head_dim=head_dim, theta=1e4, share=1.0)


def theirs(stated: dict[str, Any], head_dim: int) -> Glm4MoeRotaryEmbedding:
    share = {"partial_rotary_factor": 1.0}
    config = Glm4MoeConfig(head_dim=head_dim, max_position_embeddings=40960, rope_parameters=share | stated)
    return Glm4MoeRotaryEmbedding(config)


@pytest.mark.parametrize("head_dim", [64, 128, 24])
@stated
def test_the_table_is_that_of_transformers(stated: dict[str, Any], head_dim: int) -> None:
    """Frequencies with the same bits, and so angles; sines and cosines of them within a last bit."""
    rope, other = read(stated, head_dim), theirs(stated, head_dim)
    assert torch.equal(frequencies(rope), other.inv_freq)
    assert (rope.yarn.attention_factor if rope.yarn else 1.0) == other.attention_scaling
    positions = torch.arange(POSITIONS)[None]
    cos, sin = other(torch.zeros(1), positions)
    table = RotaryTable.make(POSITIONS, rope, CPU)
    for ours, expected in ((table.cos, cos), (table.sin, sin)):
        expected = expected[0, :, : rope.width // 2]
        assert ours.shape == expected.shape
        last_bits = (ours.view(torch.int32) - expected.contiguous().view(torch.int32)).abs()
        assert int(last_bits.max()) <= 1


def test_the_comparison_sees_another_scaling() -> None:
    """The twins: each of these differs from the stated one in one number."""
    other = theirs(STATED["yarn-betas"], 128)
    for changes in ({"beta_fast": 17}, {"beta_slow": 2}, {"factor": 4.1}, {"truncate": True}, {"rope_theta": 1e5}):
        assert not torch.equal(frequencies(read(STATED["yarn-betas"] | changes, 128)), other.inv_freq)


def test_fields_of_vllm_that_change_nothing() -> None:
    """At 1, which is their default there; other numbers would be left out without a word, and other scalings have no such fields."""
    for name in ("attn_factor", "extrapolation_factor"):
        assert read(YARN | {name: 1}, 128) == read(YARN | {name: 1.0}, 128) == read(YARN, 128)
        for stated in (YARN | {name: 1.5}, YARN | {name: "one"}, STATED["linear"] | {name: 1}):
            with pytest.raises(CheckpointError, match=f"by {name} is not served"):
                read(stated, 128)


def test_positions_that_scaling_makes_room_for() -> None:
    """As vLLM has it: YaRN's factor counts from the original positions, a linear one from those that are stated."""
    assert read(STATED["default"], 64).positions(40960) == 40960
    assert read(STATED["yarn-as-qwen-says"], 64).positions(40960) == 131072
    assert read(STATED["yarn-short"], 64).positions(40960) == 81920
    assert read(STATED["linear"], 64).positions(40960) == 102400


def test_the_old_field_has_precedence_and_takes_the_base_of_the_new() -> None:
    raw = {
        "max_position_embeddings": 512,
        "rope_theta": 3.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 7e5},
    }
    fields = read_fields(raw | {"rope_scaling": {"type": "yarn", "factor": 2}}, "config.json")
    rope = read_rope(fields, head_dim=64, theta=1e4, share=None)
    assert (rope.theta, rope.factor, rope.width) == (7e5, 2.0, 64)
    assert rope.yarn == Yarn(512, 32.0, 1.0, True, 0.1 * math.log(2) + 1)


def test_a_factor_that_is_not_stated_is_the_share_of_positions() -> None:
    rope = read({"rope_type": "yarn", "original_max_position_embeddings": 8192}, 64)
    assert rope.factor == 5.0
    assert rope.positions(40960) == 40960
