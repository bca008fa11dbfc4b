"""FP8 made of a plain checkpoint as it is loaded: the bits of the same weights quantized beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.toy import CPU, FP8_DYNAMIC, RAW, allocate_cache, make_batch, random_tensors, write_checkpoint
from octavo.config.format_choice import FormatChoice
from octavo.errors import CheckpointError, ConfigError
from octavo.models.load import LoadedModel, load_model
from octavo.models.registry import read_config
from octavo.ops.quantize.reference import quantize_reference

IGNORE = ["lm_head", "re:.*gate$"]
ONLINE = FormatChoice(quantization="fp8")


def load(folder: Path, choice: FormatChoice) -> LoadedModel:
    return load_model(folder, load_format="auto", device=CPU, seed=0, progress=False, choice=choice)


def hidden_of(loaded: LoadedModel) -> torch.Tensor:
    batch = make_batch([([5, 9, 3, 70], 0, 4, [0])], block_size=16, columns=1)
    return loaded.model.forward(batch, allocate_cache(loaded.config, num_blocks=1, block_size=16))


def is_quantized(name: str, tensor: torch.Tensor) -> bool:
    module = name.removesuffix(".weight")
    return tensor.ndim == 2 and "embed_tokens" not in name and not module.endswith(("lm_head", "gate"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("family", RAW)
def test_the_bits_of_what_was_quantized_beforehand(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    plain = RAW[family](quantization_config=None)
    tensors = random_tensors(read_config(plain), 2)
    changed = {n: t if n.endswith("correction_bias") else t.to(dtype) for n, t in tensors.items()}
    write_checkpoint(tmp_path / "plain", plain, changed)
    before = dict(changed)
    for name, tensor in changed.items():
        if is_quantized(name, tensor):
            codes, scale = quantize_reference(tensor.bfloat16())
            before |= {name: codes, f"{name}_scale": scale[:, None].contiguous()}
    write_checkpoint(
        tmp_path / "fp8", RAW[family](quantization_config=FP8_DYNAMIC | {"ignore": IGNORE}), before, shards=2
    )
    online, expected = load(tmp_path / "plain", ONLINE), load(tmp_path / "fp8", FormatChoice())
    assert online.weight_bytes == expected.weight_bytes
    assert torch.equal(hidden_of(online), hidden_of(expected))
    # the twin: the checkpoint as it is
    assert not torch.equal(hidden_of(load(tmp_path / "plain", FormatChoice())), hidden_of(expected))


@pytest.mark.parametrize("value", [torch.nan, -torch.inf, 3.4e38])
def test_what_is_not_finite_as_bfloat16_is_refused(value: float, tmp_path: Path) -> None:
    plain = RAW["qwen3_moe"](quantization_config=None)
    tensors = random_tensors(read_config(plain), 2)
    name = "model.layers.1.mlp.experts.3.up_proj.weight"
    tensors[name] = tensors[name].float()
    tensors[name][2, 3] = value
    write_checkpoint(tmp_path, plain, tensors)
    with pytest.raises(CheckpointError) as info:
        load(tmp_path, ONLINE)
    assert info.value.tensor == name


def test_a_file_that_has_scales_beside_plain_weights_is_told_from_one_that_has_a_tensor_twice(tmp_path: Path) -> None:
    plain = RAW["qwen3"](quantization_config=None)
    tensors = random_tensors(read_config(plain), 2)
    name = "model.layers.0.self_attn.q_proj.weight_scale"
    tensors[name] = torch.ones(len(tensors[name.removesuffix("_scale")]), 1)
    write_checkpoint(tmp_path, plain, tensors)
    with pytest.raises(CheckpointError, match="--quantization") as info:
        load(tmp_path, ONLINE)
    assert info.value.tensor == name


@pytest.mark.parametrize(
    ("stated", "asked"), [(FP8_DYNAMIC, "fp8"), (None, "compressed-tensors")], ids=["another", "none"]
)
def test_what_the_checkpoint_is_not_is_refused(stated: dict[str, object] | None, asked: str, tmp_path: Path) -> None:
    raw = RAW["qwen3"](quantization_config=stated)
    write_checkpoint(tmp_path, raw, random_tensors(read_config(raw), 2))
    load(tmp_path, FormatChoice(quantization="compressed-tensors" if stated else "auto"))
    with pytest.raises(ConfigError) as info:
        load(tmp_path, FormatChoice(quantization=asked))
    assert info.value.setting == "quantization"
