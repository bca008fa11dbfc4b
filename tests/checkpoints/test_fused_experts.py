"""Experts of a layer in one tensor, as published checkpoints of Qwen3.5-MoE in bf16 have them: the bits of experts that are stored by themselves."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import AutoConfig, Qwen3_5MoeForConditionalGeneration

from models.test_against_transformers import Pair, in_bf16
from models.test_published import CHECKPOINTS, SMALL
from models.toy import CPU, RAW, random_tensors, write_checkpoint
from octavo.checkpoints import safetensors
from octavo.checkpoints.fused_experts import find_members, shape_of
from octavo.config.format_choice import AS_STATED, FormatChoice
from octavo.errors import CheckpointError
from octavo.models.load import fill_parameters
from octavo.models.placing import fresh_memory
from octavo.models.registry import read_config, read_folder

FAMILIES = ["qwen3_moe", "qwen2_moe", "olmoe", "glm4_moe", "qwen3_next", "qwen3_5_moe_text"]
"""Whose experts are gates, ups and downs of `mlp.experts`."""
ONLINE = FormatChoice(quantization="fp8")
LAYER = "model.layers.2.mlp.experts"


def fuse(
    tensors: dict[str, torch.Tensor], order: tuple[str, str] = ("gate_proj", "up_proj")
) -> dict[str, torch.Tensor]:
    """`tensors` with the experts of each layer in one tensor of the rows that `order` names, and one of downs."""
    layers = {name.partition(".experts.")[0] for name in tensors if ".experts." in name}
    fused = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for layer in layers:
        count = sum(name.startswith(f"{layer}.experts.") and name.endswith("down_proj.weight") for name in tensors)
        experts = [f"{layer}.experts.{expert}" for expert in range(count)]
        both = [torch.cat([tensors[f"{expert}.{part}.weight"] for part in order]) for expert in experts]
        fused[f"{layer}.experts.gate_up_proj"] = torch.stack(both)
        fused[f"{layer}.experts.down_proj"] = torch.stack([tensors[f"{expert}.down_proj.weight"] for expert in experts])
    return fused


def parameters_of(folder: Path, choice: FormatChoice = AS_STATED) -> dict[str, torch.Tensor]:
    config = read_folder(folder, choice=choice)
    parameters = config.place_parameters(fresh_memory(CPU))
    fill_parameters(parameters, config, folder, load_format="auto", seed=0, progress=False)
    return dict(parameters.sources)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name].view(torch.uint8), other[name].view(torch.uint8)) for name in one)


@pytest.mark.parametrize("choice", [AS_STATED, ONLINE], ids=["bf16", "online-fp8"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_bits_of_experts_stored_by_themselves(
    family: str, dtype: torch.dtype, choice: FormatChoice, tmp_path: Path
) -> None:
    raw = RAW[family](quantization_config=None)
    tensors = random_tensors(read_config(raw), 2)
    tensors = {n: t if n.endswith("correction_bias") else t.to(dtype) for n, t in tensors.items()}
    fused = fuse(tensors)
    assert len(fused) < len(tensors)
    write_checkpoint(tmp_path / "each", raw, tensors)
    write_checkpoint(tmp_path / "fused", raw, fused, shards=3)
    expected = parameters_of(tmp_path / "each", choice)
    assert same(parameters_of(tmp_path / "fused", choice), expected)
    # the twins: ups before gates, and two experts that change places
    write_checkpoint(tmp_path / "turned", raw, fuse(tensors, ("up_proj", "gate_proj")))
    assert not same(parameters_of(tmp_path / "turned", choice), expected)
    write_checkpoint(tmp_path / "moved", raw, fused | {f"{LAYER}.down_proj": fused[f"{LAYER}.down_proj"].roll(1, 0)})
    assert not same(parameters_of(tmp_path / "moved", choice), expected)


def test_transformers_computes_the_same_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = in_bf16("qwen3_5_moe_text", 20)
    config = read_config(raw)
    fused = fuse(random_tensors(config, 20))
    write_checkpoint(tmp_path / "fused", raw, fused)
    Pair(tmp_path / "fused", tmp_path / "fused", config, monkeypatch).assert_agree()
    # the twin: gates and ups of one expert change places in transformers' copy
    layers = [name for name in fused if name.endswith("gate_up_proj")]
    turned = fused | {name: fused[name].roll(fused[name].shape[1] // 2, 1) for name in layers}
    write_checkpoint(tmp_path / "turned", raw, turned)
    with pytest.raises(AssertionError, match="relative error"):
        Pair(tmp_path / "fused", tmp_path / "turned", config, monkeypatch).assert_agree()


def raw_qwen35(**changes: Any) -> dict[str, Any]:
    """That of Qwen3.6-35B-A3B-FP8 without its format: Qwen3.5-35B-A3B and Qwen3.6-35B-A3B are published in bf16 too."""
    raw = CHECKPOINTS["qwen3.6-35b-a3b-fp8"].raw(**changes)
    return {name: value for name, value in raw.items() if name != "quantization_config"}


def test_names_and_shapes_are_those_of_the_model_that_sees() -> None:
    """Of transformers' own modules, at full size: what is not read of them is what sees."""
    raw = raw_qwen35(num_hidden_layers=4)
    with torch.device("meta"):
        theirs = Qwen3_5MoeForConditionalGeneration(AutoConfig.for_model(**raw)).state_dict()
    sources = read_config(raw).place_parameters(fresh_memory(torch.device("meta"))).sources
    held = {name: members for name in theirs if (members := find_members(name, sources))}
    assert sorted(held) == [
        f"model.language_model.layers.{layer}.mlp.experts.{part}"
        for layer in range(4)
        for part in ("down_proj", "gate_up_proj")
    ]
    for name, members in held.items():
        assert shape_of(members, sources) == theirs[name].shape
    read = {member for members in held.values() for each in members for member in each}
    read |= {name for name in theirs if name not in held and not name.startswith("model.visual.")}
    assert read == sources.keys()


@pytest.mark.parametrize("choice", [AS_STATED, ONLINE], ids=["bf16", "online-fp8"])
def test_a_published_folder_loads(choice: FormatChoice, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With MTP layers whose experts are in one tensor, too, and what sees: they are left out."""
    raw = raw_qwen35(**SMALL | CHECKPOINTS["qwen3.6-35b-a3b-fp8"].small)
    tensors = random_tensors(read_config(raw), 3)
    further = ("mtp.layers.0.mlp.experts.gate_up_proj", "model.visual.merger.norm.weight")
    write_checkpoint(tmp_path, raw, fuse(tensors) | {name: torch.ones(4, 6, 5).bfloat16() for name in further})
    loaded = parameters_of(tmp_path, choice)
    assert f"{further[1]} and 1 more" in caplog.text
    name = "model.language_model.layers.3.mlp.experts.3.up_proj.weight"
    assert (loaded[name].dtype == torch.float8_e4m3fn) == (choice is ONLINE)
    if choice is AS_STATED:
        assert torch.equal(loaded[name], tensors[name])


def refused(folder: Path, choice: FormatChoice = AS_STATED) -> CheckpointError:
    with pytest.raises(CheckpointError) as info:
        parameters_of(folder, choice)
    return info.value


def bf16_and_fused() -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    raw = RAW["qwen3_5_moe_text"](quantization_config=None)
    tensors = random_tensors(read_config(raw), 2)
    return raw, tensors, fuse(tensors)


@pytest.mark.parametrize("part", ["gate_up_proj", "down_proj"])
@pytest.mark.parametrize("wrong", ["an expert too few", "an expert too many", "turned", "a row too few", "flat"])
def test_another_shape_is_refused(wrong: str, part: str, tmp_path: Path) -> None:
    raw, _, fused = bf16_and_fused()
    name = f"{LAYER}.{part}"
    whole = fused[name]
    changed = {
        "an expert too few": whole[:-1],
        "an expert too many": torch.cat([whole, whole[:1]]),
        "turned": whole.transpose(1, 2),
        "a row too few": whole[:, :-1],
        "flat": whole.flatten(0, 1),
    }[wrong]
    write_checkpoint(tmp_path, raw, fused | {name: changed.contiguous()})
    error = refused(tmp_path)
    assert error.tensor == name
    assert error.reason == f"has shape {tuple(changed.shape)}, config.json asks for {tuple(whole.shape)}"


@pytest.mark.parametrize("own", [f"{LAYER}.3.up_proj.weight", f"{LAYER}.0.down_proj.weight"])
def test_an_expert_that_is_there_in_both_forms_is_refused(own: str, tmp_path: Path) -> None:
    """Whichever comes first: in one file experts by themselves do, in two that which the first file has."""
    raw, tensors, fused = bf16_and_fused()
    name = f"{LAYER}.{'down' if 'down' in own else 'gate_up'}_proj"
    for number, (first, second) in enumerate([(own, name), (name, own)]):
        folder = tmp_path / str(number)
        write_checkpoint(folder, raw, fused | {own: tensors[own]})
        (folder / "model.safetensors").unlink()
        rest = {other: tensor for other, tensor in fused.items() if other != name} | {second: (tensors | fused)[second]}
        save_file({first: (tensors | fused)[first]}, folder / "model-1.safetensors")
        save_file(rest, folder / "model-2.safetensors")
        files = {first: "model-1.safetensors"} | dict.fromkeys(rest, "model-2.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
        error = refused(folder)
        assert error.tensor == second
        assert (
            f"holds {own}, which is there already" if second == name else "in a tensor of all experts"
        ) in error.reason


def test_all_experts_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    raw, _, fused = bf16_and_fused()
    write_checkpoint(tmp_path, raw, fused)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    name = f"{LAYER}.down_proj"
    save_file({name: fused[name]}, tmp_path / "model-2.safetensors")
    files = dict.fromkeys(fused, "model-1.safetensors") | {name: "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert f"holds {LAYER}.0.down_proj.weight, which is there already" in refused(tmp_path).reason


@pytest.mark.parametrize("choice", [AS_STATED, ONLINE], ids=["bf16", "online-fp8"])
@pytest.mark.parametrize("form", ["each", "fused"])
def test_the_bar_ends_when_all_is_there(
    form: str, choice: FormatChoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, tensors, fused = bf16_and_fused()
    write_checkpoint(tmp_path, raw, tensors if form == "each" else fused)
    bars = []

    def make(**options: Any) -> Any:
        bars.append(tqdm(**options | {"disable": False, "file": io.StringIO()}))
        return bars[-1]

    monkeypatch.setattr(safetensors, "tqdm", make)
    parameters_of(tmp_path, choice)
    [bar] = bars
    assert bar.n == bar.total == len(tensors)


def test_experts_that_lack_are_named(tmp_path: Path) -> None:
    raw, _, fused = bf16_and_fused()
    del fused[f"{LAYER}.gate_up_proj"]
    write_checkpoint(tmp_path, raw, fused)
    assert refused(tmp_path).tensor == f"{LAYER}.0.gate_proj.weight"


def test_those_of_a_layer_that_the_config_lacks_are_refused(tmp_path: Path) -> None:
    raw, _, fused = bf16_and_fused()
    name = "model.layers.3.mlp.experts.down_proj"
    write_checkpoint(tmp_path, raw, fused | {name: fused[f"{LAYER}.down_proj"].clone()})
    error = refused(tmp_path)
    assert (error.tensor, "is not expected" in error.reason) == (name, True)


def test_an_expert_that_no_scale_fits_is_named(tmp_path: Path) -> None:
    raw, _, fused = bf16_and_fused()
    name = f"{LAYER}.gate_up_proj"
    fused[name][5, -1, 2] = torch.nan
    write_checkpoint(tmp_path, raw, fused)
    error = refused(tmp_path, ONLINE)
    assert error.tensor == f"{name} ({LAYER}.5.up_proj.weight)"
    assert "holds NaN" in error.reason


@pytest.mark.parametrize("first", ["down_proj", "down_proj_scale_inv"])
def test_codes_of_all_experts_in_one_tensor_are_refused(first: str, tmp_path: Path) -> None:
    """By a name that says so, whether they are found first or their scales."""
    raw = RAW["qwen3_5_moe_text"]()
    tensors = random_tensors(read_config(raw), 2)
    codes = [tensors.pop(f"{LAYER}.{expert}.down_proj.weight") for expert in range(8)]
    held = {
        "down_proj": torch.stack([code.view(torch.uint8) for code in codes]).view(torch.float8_e4m3fn),
        "down_proj_scale_inv": torch.ones(8, 1, 1),
    }
    write_checkpoint(tmp_path, raw, tensors | {f"{LAYER}.{first}": held[first]})
    error = refused(tmp_path)
    assert error.tensor == f"{LAYER}.{first}"
    assert "FP8 codes of all experts" in error.reason


def test_experts_in_bf16_where_codes_are_asked_for_are_told_so(tmp_path: Path) -> None:
    fused = bf16_and_fused()[-1]
    tensors = random_tensors(read_config(RAW["qwen3_5_moe_text"]()), 2)
    experts = {name: tensor for name, tensor in fused.items() if ".experts." in name}
    others = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    write_checkpoint(tmp_path, RAW["qwen3_5_moe_text"](), others | experts)
    assert refused(tmp_path).reason == "is bfloat16, but config.json asks for float8_e4m3fn"


def test_experts_that_an_fp8_checkpoint_leaves_in_bf16_may_be_in_one_tensor(tmp_path: Path) -> None:
    raw = RAW["qwen3_5_moe_text"]()
    raw["quantization_config"] |= {"ignore": [*raw["quantization_config"]["ignore"], "re:.*mlp.experts.*"]}
    tensors = random_tensors(read_config(raw), 2)
    write_checkpoint(tmp_path / "each", raw, tensors)
    write_checkpoint(tmp_path / "fused", raw, fuse(tensors))
    assert same(parameters_of(tmp_path / "fused"), parameters_of(tmp_path / "each"))
