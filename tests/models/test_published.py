"""Folders as they are published: the config.json of a public checkpoint, and tensors with exactly its names.

The names of layers are those by which transformers' own mapping (`conversion_mapping.py`) finds a checkpoint's tensors. Not yet
compared with the repositories' own files: GLM-4.5-Air's config.json, the quantization_config of MiniMax-M2, and the names of
MTP layers. Qwen3-Next's config.json is as two public repositories transcribe it, which agree;
so are the sizes of Qwen3.6-35B-A3B-FP8, its names and which of its modules are in bf16, but not how that is written.

Where the other configs are from:

- Qwen3-30B-A3B-FP8, its quantization_config included, and Qwen3-8B: `model_configs` of ai-dynamo/aiconfigurator at 095f58a;
  but for the quantization_config, `hf_configs` of alibaba/InferSim at f2293da has the same of both.
- Qwen2-57B-A14B: its own config.json at 759c0d8.
- Qwen1.5-MoE-A2.7B: config.json of MaziyarPanahi/Qwen1.5-MoE-A2.7B-Wikihow, trained from it, without its transformers_version
  and use_cache; bos_token_id is from RichardErkhov/Qwen_-_Qwen1.5-MoE-A2.7B-8bits, which has the same sizes.
- OLMoE-1B-7B-0924-Instruct: config.json of interview-eval/olmoe-math-train-gsm8k-2, trained from it. That of 0924 itself was not
  found; the sizes are those of `tests/unit_tests/models/olmoe/test_olmoe_bridge.py` in NVIDIA-NeMo/Megatron-Bridge.
- Mixtral-8x7B-Instruct-v0.1: that of Mixtral-8x7B-v0.1 in aiconfigurator. Salesforce/xLAM-v0.1-r, trained from Instruct, has the
  same but for its transformers_version; argilla/notux-8x7b-v1, trained from it too, a sliding_window of 4096, which is refused.

Names and shapes of their tensors: what transformers 5.24.0 would save, by its `conversion_mapping.py`, of models of these configs
(for OLMoE, Qwen3-MoE and Qwen2-MoE the mapping named qwen2_moe, for Mixtral that named mixtral); `weight_scale_inv` has a number
for each 128 x 128 of its weight, as in `integrations/finegrained_fp8.py`. No index of a repository was compared. No config.json
of a Qwen3-30B-A3B in compressed-tensors' FP8 was found either: here its quantization_config is what compressed-tensors itself
writes, with what model cards say is left out (lm_head and routers: morriszjm/Qwen3-30B-A3B-FP8-Dynamic).
"""

from __future__ import annotations

import abc
import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus, preset_name_to_scheme
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from models.toy import CPU, FP8_BLOCK, FP8_DYNAMIC, RAW, allocate_cache, make_batch, random_tensors, write_checkpoint
from octavo.errors import CheckpointError
from octavo.models.decoder.parameters import SparseMlp
from octavo.models.load import load_model
from octavo.models.placing import fresh_memory
from octavo.models.registry import read_config, read_folder

PUBLISHED = Path(__file__).parent / "published"
NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")
SMALL = {"vocab_size": 97, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32}
SMALL |= {"hidden_size": 128, "max_position_embeddings": 512, "eos_token_id": 1, "num_experts_per_tok": 2}


@dataclasses.dataclass(frozen=True)
class Published(abc.ABC):
    """A public checkpoint, and what is made smaller of it to be loaded in a test."""

    file: str
    scale: str
    """What its scales are called; empty: it has none."""
    small: dict[str, Any]
    positions: int
    layers: int = 2
    """First layers among which each kind is."""
    module: str = "model"
    rotary: int = 64
    """Columns of a head that are turned."""

    def raw(self, **changes: Any) -> dict[str, Any]:
        return {**json.loads((PUBLISHED / self.file).read_text(encoding="utf-8")), **changes}

    @abc.abstractmethod
    def layer(self, number: int, experts: int) -> Iterator[str]:
        """The names of the tensors of one layer."""

    def further(self) -> list[str]:
        """Tensors of a head behind two layers that predicts further tokens."""
        return [f"model.layers.2.{name}.weight" for name in ("eh_proj", "enorm", "hnorm", "shared_head.norm")]

    def linear(self, *names: str) -> Iterator[str]:
        """A weight, and its scales."""
        for name in names:
            yield f"{name}.weight"
            if self.scale:
                yield f"{name}.{self.scale}"

    def names(self, layers: int, experts: int) -> set[str]:
        every = {f"{self.module}.embed_tokens.weight", f"{self.module}.norm.weight", "lm_head.weight"}
        for number in range(layers):
            every |= {f"{self.module}.layers.{number}.{name}" for name in self.layer(number, experts)}
        return every


class Glm45Air(Published):
    """zai-org/GLM-4.5-Air and GLM-4.5-Air-FP8."""

    def layer(self, number: int, experts: int) -> Iterator[str]:
        yield from NORMS
        yield from self.linear(*(f"self_attn.{part}_proj" for part in "qkvo"))
        yield from (f"self_attn.{part}_proj.bias" for part in "qkv")
        mlps = ["mlp"]
        if number:
            yield from ("mlp.gate.weight", "mlp.gate.e_score_correction_bias")
            mlps = ["mlp.shared_experts", *(f"mlp.experts.{expert}" for expert in range(experts))]
        for mlp in mlps:
            yield from self.linear(*(f"{mlp}.{part}_proj" for part in ("gate", "up", "down")))


class MiniMaxM2(Published):
    """MiniMaxAI/MiniMax-M2.5; M2 and M2.1 are alike."""

    def layer(self, number: int, experts: int) -> Iterator[str]:
        yield from (*NORMS, "self_attn.q_norm.weight", "self_attn.k_norm.weight")
        yield from self.linear(*(f"self_attn.{part}_proj" for part in "qkvo"))
        yield from ("block_sparse_moe.gate.weight", "block_sparse_moe.e_score_correction_bias")
        for expert in range(experts):
            yield from self.linear(*(f"block_sparse_moe.experts.{expert}.w{n}" for n in (1, 2, 3)))


class Qwen3Next(Published):
    """Qwen/Qwen3-Next-80B-A3B-Instruct; Thinking is alike."""

    def layer(self, number: int, experts: int) -> Iterator[str]:
        yield from NORMS
        if (number + 1) % 4:
            yield from (f"linear_attn.{name}" for name in ("A_log", "dt_bias", "conv1d.weight", "norm.weight"))
            yield from self.linear(*(f"linear_attn.{name}" for name in ("in_proj_qkvz", "in_proj_ba", "out_proj")))
        else:
            yield from self.linear(*(f"self_attn.{part}_proj" for part in "qkvo"))
            yield from ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
        yield from ("mlp.gate.weight", "mlp.shared_expert_gate.weight")
        for mlp in ("mlp.shared_expert", *(f"mlp.experts.{expert}" for expert in range(experts))):
            yield from self.linear(*(f"{mlp}.{part}_proj" for part in ("gate", "up", "down")))

    def further(self) -> list[str]:
        return [f"mtp.{name}.weight" for name in ("fc", "norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")]


class Qwen36(Published):
    """Qwen/Qwen3.6-35B-A3B-FP8: the decoder of a model that sees."""

    def raw(self, **changes: Any) -> dict[str, Any]:
        whole = super().raw()
        return whole | {"text_config": whole["text_config"] | changes}

    def layer(self, number: int, experts: int) -> Iterator[str]:
        yield from NORMS
        if (number + 1) % 4:
            yield from (f"linear_attn.{name}" for name in ("A_log", "dt_bias", "conv1d.weight", "norm.weight"))
            yield from ("linear_attn.in_proj_a.weight", "linear_attn.in_proj_b.weight")
            yield from self.linear(*(f"linear_attn.{name}" for name in ("in_proj_qkv", "in_proj_z", "out_proj")))
        else:
            yield from self.linear(*(f"self_attn.{part}_proj" for part in "qkvo"))
            yield from ("self_attn.q_norm.weight", "self_attn.k_norm.weight")
        yield from ("mlp.gate.weight", "mlp.shared_expert_gate.weight")
        for mlp in ("mlp.shared_expert", *(f"mlp.experts.{expert}" for expert in range(experts))):
            yield from self.linear(*(f"{mlp}.{part}_proj" for part in ("gate", "up", "down")))

    def further(self) -> list[str]:
        seeing = [f"model.visual.{name}.weight" for name in ("merger.norm", "patch_embed.proj")]
        return [*seeing, "mtp.fc.weight", "mtp.norm.weight"]


class WithoutFurther(Published):
    """Published without layers that predict further tokens."""

    def further(self) -> list[str]:
        return []

    def gated(self, *mlps: str) -> Iterator[str]:
        return self.linear(*(f"{mlp}.{part}_proj" for mlp in mlps for part in ("gate", "up", "down")))


class Qwen3Moe(WithoutFurther):
    """Qwen/Qwen3-30B-A3B-FP8; the other sizes of Qwen3-MoE are alike."""

    def layer(self, number: int, experts: int) -> Iterator[str]:
        yield from (*NORMS, "self_attn.q_norm.weight", "self_attn.k_norm.weight", "mlp.gate.weight")
        yield from self.linear(*(f"self_attn.{part}_proj" for part in "qkvo"))
        yield from self.gated(*(f"mlp.experts.{expert}" for expert in range(experts)))


class Qwen3Dense(WithoutFurther):
    """Qwen/Qwen3-8B; smaller ones have a tied head."""

    def layer(self, number: int, experts: int) -> Iterator[str]:
        yield from (*NORMS, "self_attn.q_norm.weight", "self_attn.k_norm.weight")
        yield from self.linear(*(f"self_attn.{part}_proj" for part in "qkvo"))
        yield from self.gated("mlp")


class Qwen2Moe(WithoutFurther):
    """Qwen/Qwen2-57B-A14B and Qwen1.5-MoE-A2.7B, which do not state that q, k and v have biases."""

    def layer(self, number: int, experts: int) -> Iterator[str]:
        yield from (*NORMS, "mlp.gate.weight", "mlp.shared_expert_gate.weight")
        yield from self.linear(*(f"self_attn.{part}_proj" for part in "qkvo"))
        yield from (f"self_attn.{part}_proj.bias" for part in "qkv")
        yield from self.gated("mlp.shared_expert", *(f"mlp.experts.{expert}" for expert in range(experts)))


class Olmoe(Qwen3Moe):
    """allenai/OLMoE-1B-7B-0924-Instruct: names as of Qwen3-MoE, but norms over all heads."""


class Mixtral(WithoutFurther):
    """mistralai/Mixtral-8x7B-Instruct-v0.1."""

    def layer(self, number: int, experts: int) -> Iterator[str]:
        yield from (*NORMS, "block_sparse_moe.gate.weight")
        yield from self.linear(*(f"self_attn.{part}_proj" for part in "qkvo"))
        for expert in range(experts):
            yield from self.linear(*(f"block_sparse_moe.experts.{expert}.w{n}" for n in (1, 2, 3)))


def written_by_compressed_tensors(layers: int) -> dict[str, Any]:
    """Its FP8_DYNAMIC of a Qwen3-MoE as it states it: with all that is null, and what is left out by full names."""
    scheme = preset_name_to_scheme("FP8_DYNAMIC", ["Linear"])
    stated: dict[str, Any] = QuantizationConfig(
        config_groups={"group_0": scheme},
        quantization_status=QuantizationStatus.COMPRESSED,
        format="float-quantized",
        ignore=["lm_head", *(f"model.layers.{number}.mlp.gate" for number in range(layers))],
    ).model_dump(mode="json")
    return stated


GLM_SMALL = {"intermediate_size": 128, "moe_intermediate_size": 128, "n_routed_experts": 4}
GLM_FP8 = {"quantization_config": FP8_DYNAMIC}
QWEN3_MOE_SMALL = {"hidden_size": 256, "moe_intermediate_size": 384, "num_experts": 4}
QWEN2_MOE_SMALL = {
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 192,
    "num_experts": 4,
    "head_dim": None,
}
CHECKPOINTS: dict[str, Published] = {
    "glm-4.5-air": Glm45Air("glm-4.5-air.json", "", GLM_SMALL, 131072),
    "glm-4.5-air-fp8": Glm45Air("glm-4.5-air.json", "weight_scale", GLM_SMALL | GLM_FP8, 131072),
    "minimax-m2.5": MiniMaxM2(
        "minimax-m2.5.json",
        "weight_scale_inv",
        {"intermediate_size": 128, "num_local_experts": 4, "rotary_dim": 16, "attn_type_list": [1, 1]},
        196608,
    ),
    "qwen3-next-80b-a3b": Qwen3Next(
        "qwen3-next-80b-a3b-instruct.json",
        "",
        {
            "intermediate_size": 128,
            "moe_intermediate_size": 128,
            "shared_expert_intermediate_size": 128,
            "num_experts": 4,
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        },
        262144,
        layers=4,
    ),
    "qwen3.6-35b-a3b-fp8": Qwen36(
        "qwen3.6-35b-a3b-fp8.json",
        "weight_scale_inv",
        {
            "moe_intermediate_size": 128,
            "shared_expert_intermediate_size": 128,
            "num_experts": 4,
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
        },
        262144,
        layers=4,
        module="model.language_model",
    ),
    "qwen3-30b-a3b-fp8": Qwen3Moe("qwen3-30b-a3b-fp8.json", "weight_scale_inv", QWEN3_MOE_SMALL, 40960, rotary=128),
    "qwen3-30b-a3b-fp8-dynamic": Qwen3Moe(
        "qwen3-30b-a3b-fp8.json",
        "weight_scale",
        QWEN3_MOE_SMALL | {"quantization_config": written_by_compressed_tensors(48)},
        40960,
        rotary=128,
    ),
    "qwen3-8b": Qwen3Dense("qwen3-8b.json", "", {"intermediate_size": 192}, 40960, rotary=128),
    "qwen2-57b-a14b": Qwen2Moe("qwen2-57b-a14b.json", "", QWEN2_MOE_SMALL, 131072, rotary=128),
    "qwen1.5-moe-a2.7b": Qwen2Moe("qwen1.5-moe-a2.7b.json", "", QWEN2_MOE_SMALL, 8192, rotary=128),
    "olmoe-1b-7b-0924-instruct": Olmoe(
        "olmoe-1b-7b-0924-instruct.json",
        "",
        {"intermediate_size": 96, "num_experts": 4, "head_dim": None, "num_key_value_heads": 8},
        4096,
        rotary=128,
    ),
    "mixtral-8x7b-instruct-v0.1": Mixtral(
        "mixtral-8x7b-instruct-v0.1.json",
        "",
        {"intermediate_size": 192, "num_local_experts": 4, "head_dim": None},
        32768,
        rotary=128,
    ),
}
checkpoints = pytest.mark.parametrize("published", CHECKPOINTS.values(), ids=CHECKPOINTS)


@checkpoints
def test_a_published_config_asks_for_the_published_names(published: Published) -> None:
    """Of its first layers, with all their experts."""
    quantized = {name: published.small[name] for name in ("quantization_config",) if name in published.small}
    whole = read_config(published.raw(**quantized))
    assert whole.max_position_embeddings == published.positions
    assert whole.rope.width == published.rotary
    raw = published.raw(num_hidden_layers=published.layers, attn_type_list=[1, 1], **quantized)
    text = raw.get("text_config", raw)
    experts = next((text[name] for name in ("n_routed_experts", "num_local_experts", "num_experts") if name in text), 0)
    sources = read_config(raw).place_parameters(fresh_memory(torch.device("meta"))).sources
    assert set(sources) == published.names(published.layers, experts)


@checkpoints
def test_a_folder_with_the_published_names_loads(
    published: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the layer behind the last one, which predicts further tokens: it is named and left out."""
    raw = published.raw(**SMALL | published.small)
    config = read_config(raw)
    made = random_tensors(config, 1)
    assert set(made) == published.names(published.layers, 4)
    further = published.further()
    write_checkpoint(tmp_path, raw, made | {name: torch.ones(4).bfloat16() for name in further})
    with caplog.at_level(logging.WARNING):
        loaded = load_model(tmp_path, load_format="auto", device=CPU, seed=0, progress=False)
    assert (f"{further[0]} and 3 more" in caplog.text) if further else not caplog.records
    batch = make_batch([(list(range(20)), 0, 20, [1, 0])], block_size=16, columns=2)
    hidden = loaded.model.forward(batch, allocate_cache(config, num_blocks=2, block_size=16))
    assert loaded.model.logits(hidden).isfinite().all()


@pytest.mark.parametrize("wrong", ["missing", "extra", "misshapen", "turned"])
@checkpoints
def test_a_folder_with_another_tensor_is_refused(published: Published, wrong: str, tmp_path: Path) -> None:
    """One that lacks, one too many, and one of another shape, in the first layer and the last; the twin of those that load."""
    raw = published.raw(**SMALL | published.small)
    whole = random_tensors(read_config(raw), 1)
    names = [name for name, tensor in whole.items() if ".layers." in name and len(set(tensor.shape)) == 2]
    message = {"missing": "missing; expected", "extra": r"shape \(2, 3\), is not expected"}.get(wrong, "has shape")
    for number, name in enumerate((min(names), max(names))):
        made = dict(whole)
        if wrong == "extra":
            name += ".extra"
            made[name] = torch.ones(2, 3)
        elif wrong == "missing":
            del made[name]
        else:
            made[name] = (made[name][:-1] if wrong == "misshapen" else made[name].T).contiguous()
        folder = tmp_path / str(number)
        write_checkpoint(folder, raw, made)
        with pytest.raises(CheckpointError, match=message) as info:
            load_model(folder, load_format="auto", device=CPU, seed=0, progress=False)
        assert info.value.tensor == name


def test_the_names_and_shapes_are_those_that_transformers_saves() -> None:
    """As published, but for the number of layers and scales; Qwen3.6's are of a model that sees."""
    for name, published in CHECKPOINTS.items():
        if published.module != "model":
            continue
        raw = published.raw(num_hidden_layers=published.layers, attn_type_list=[1, 1], quantization_config=None)
        stated = {field: value for field, value in raw.items() if field != "quantization_config"}
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**stated))
        saved = revert_weight_conversion(model, model.state_dict())
        sources = read_config(raw).place_parameters(fresh_memory(torch.device("meta"))).sources
        assert {n: t.shape for n, t in sources.items()} == {n: t.shape for n, t in saved.items()}, name


def test_scales_of_blocks_have_the_published_shapes() -> None:
    raw = CHECKPOINTS["qwen3-30b-a3b-fp8"].raw(num_hidden_layers=1)
    stated = {name: value for name, value in raw["quantization_config"].items() if name != "modules_to_not_convert"}
    assert stated == {name: value for name, value in FP8_BLOCK.items() if name != "modules_to_not_convert"}
    sources = read_config(raw).place_parameters(fresh_memory(torch.device("meta"))).sources
    shapes = {
        "self_attn.q_proj": (32, 16),
        "self_attn.k_proj": (4, 16),
        "self_attn.v_proj": (4, 16),
        "self_attn.o_proj": (16, 32),
    }
    for expert in range(128):
        shapes |= {f"mlp.experts.{expert}.{part}_proj": (6, 16) for part in ("gate", "up")}
        shapes[f"mlp.experts.{expert}.down_proj"] = (16, 6)
    scales = {name: tuple(view.shape) for name, view in sources.items() if name.endswith("_scale_inv")}
    assert scales == {f"model.layers.0.{name}.weight_scale_inv": shape for name, shape in shapes.items()}


SHAPES = sorted((Path(__file__).parents[2] / "benchmarks" / "shapes").iterdir())


@pytest.mark.parametrize("folder", SHAPES, ids=lambda folder: folder.name)
def test_a_shape_of_the_benchmarks_is_a_model_in_fp8(folder: Path) -> None:
    """Experts of a whole model, without the memory of one."""
    parameters = read_folder(folder).place_parameters(fresh_memory(torch.device("meta")))
    assert 6e9 < parameters.num_bytes < 1.3e11
    assert parameters.num_bytes == sum(view.nbytes for view in parameters.sources.values())
    experts = {view.dtype for name, view in parameters.sources.items() if ".experts." in name and view.ndim > 1}
    assert torch.float8_e4m3fn in experts


PUBLISHED_AS = {
    "glm-4.5-air-fp8-dynamic": "glm-4.5-air",
    "mixtral-8x7b-fp8-dynamic": "mixtral-8x7b-instruct-v0.1",
    "olmoe-1b-7b-fp8-dynamic": "olmoe-1b-7b-0924-instruct",
    "qwen3-30b-a3b-fp8": "qwen3-30b-a3b-fp8",
    "qwen3-next-80b-a3b-fp8": "qwen3-next-80b-a3b-instruct",
    "qwen3.6-35b-a3b-fp8": "qwen3.6-35b-a3b-fp8",
}
"""Shape of the benchmarks -> the published config that it is of, which may be in another format."""


@pytest.mark.parametrize("folder", SHAPES, ids=lambda folder: folder.name)
def test_a_shape_of_the_benchmarks_is_as_published(folder: Path) -> None:
    shape = read_folder(folder)
    published = read_config(json.loads((PUBLISHED / f"{PUBLISHED_AS[folder.name]}.json").read_text(encoding="utf-8")))
    same_format = dataclasses.replace(published, quantization=shape.quantization)
    assert shape == dataclasses.replace(same_format, eos_token_ids=shape.eos_token_ids)


def test_a_layer_behind_those_is_no_such_layer(tmp_path: Path) -> None:
    """The twin: a checkpoint of more layers than the config says."""
    published = CHECKPOINTS["glm-4.5-air"]
    raw = published.raw(**SMALL | published.small)
    made = random_tensors(read_config(raw), 1)
    write_checkpoint(tmp_path, raw, made | {"model.layers.3.enorm.weight": torch.ones(4).bfloat16()})
    with pytest.raises(CheckpointError, match="not expected") as info:
        load_model(tmp_path, load_format="auto", device=CPU, seed=0, progress=False)
    assert info.value.tensor == "model.layers.3.enorm.weight"


def test_a_bias_that_cannot_decide_is_refused(tmp_path: Path) -> None:
    for name in ("glm-4.5-air", "minimax-m2.5"):
        published = CHECKPOINTS[name]
        raw = published.raw(**SMALL | published.small)
        made = random_tensors(read_config(raw), 1)
        bias = next(name for name in made if name.endswith("e_score_correction_bias"))
        made[bias][1] = torch.nan
        write_checkpoint(tmp_path / name, raw, made)
        with pytest.raises(CheckpointError, match="NaN") as info:
            load_model(tmp_path / name, load_format="auto", device=CPU, seed=0, progress=False)
        assert info.value.tensor == bias


@pytest.mark.parametrize("family", ["qwen3_5_moe_text", "qwen3_next", "glm4_moe"])
@pytest.mark.parametrize(
    ("left_out", "is_joined"),
    [
        ([], True),
        ([r"re:.*experts?\.down_proj$", r"re:.*experts\..*down_proj$"], True),
        ([r"re:.*shared_experts?\.down_proj$"], False),
        ([r"re:.*mlp\.experts\..*down_proj$"], False),
        ([r"re:.*shared_experts?\..*"], False),
    ],
    ids=["all-alike", "down-left-out", "shared-down", "others-down", "shared"],
)
def test_a_shared_expert_stands_among_others_that_are_stored_alike(
    family: str, left_out: list[str], is_joined: bool
) -> None:
    """Else apart, and in any case the tensors of a checkpoint are asked for by their names."""
    raw = RAW[family]()
    raw["quantization_config"] = raw["quantization_config"] | {
        "ignore": [*raw["quantization_config"]["ignore"], *left_out]
    }
    width = "shared_expert_intermediate_size"
    raw |= {width: raw["moe_intermediate_size"]} if width in raw else {}
    names = {}
    for other in (False, True):
        changed = raw | (
            {"num_experts_per_tok": 2} if not other else {"num_experts_per_tok": 32, NUM_EXPERTS[family]: 40}
        )
        parameters = read_config(changed).place_parameters(fresh_memory(torch.device("meta")))
        mlp = parameters.layers[-1].mlp
        assert isinstance(mlp, SparseMlp)
        assert (mlp.shared is None) == (is_joined and not other), "32 and a shared one are more than kernels choose"
        names[other] = {name for name in parameters.sources if "shared_expert" in name}
    assert names[False] == names[True]


NUM_EXPERTS = {"qwen3_5_moe_text": "num_experts", "qwen3_next": "num_experts", "glm4_moe": "n_routed_experts"}
"""How a family's config names the number of its experts."""
