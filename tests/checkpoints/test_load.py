"""Loading: what fills the parameters, and what is said of folders that are wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from models.toy import (
    CPU,
    FP8_BLOCK,
    allocate_cache,
    make_batch,
    random_tensors,
    raw_config,
    raw_qwen3,
    write_checkpoint,
)
from octavo.checkpoints import safetensors
from octavo.checkpoints.dummy import fill_dummy
from octavo.config import WeightFormat
from octavo.errors import CheckpointError, ConfigError
from octavo.models.load import LoadedModel, load_model
from octavo.models.placing import fresh_memory
from octavo.models.registry import read_config, read_folder
from octavo.ops.activations import FP8

EXPERT = "model.layers.1.mlp.experts.3.down_proj.weight"


def load(folder: Path, load_format: str = "auto", seed: int = 0) -> LoadedModel:
    return load_model(folder, load_format=load_format, device=CPU, seed=seed, progress=False)


def hidden_of(loaded: LoadedModel) -> torch.Tensor:
    batch = make_batch([([5, 9, 3, 70], 0, 4, [0])], block_size=16, columns=1)
    return loaded.model.forward(batch, allocate_cache(loaded.config, num_blocks=1, block_size=16))


def write(folder: Path, *, shards: int = 1, **changes: Any) -> dict[str, torch.Tensor]:
    raw = raw_config(**changes)
    tensors = random_tensors(read_config(raw), 1)
    write_checkpoint(folder, raw, tensors, shards=shards)
    return tensors


@pytest.mark.parametrize("changes", [{}, {"quantization_config": None}], ids=["fp8", "bf16"])
def test_shards_and_one_file_give_the_same(changes: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path / "one", **changes)
    write(tmp_path / "three", shards=3, **changes)
    one, three = load(tmp_path / "one"), load(tmp_path / "three")
    assert torch.equal(hidden_of(one), hidden_of(three))
    assert one.config.quantization.format is (WeightFormat.BF16 if changes else WeightFormat.FP8_DYNAMIC)


def test_the_next_file_is_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file once, whole, and before the one in front of it is opened to be copied."""
    write(tmp_path, shards=3)
    seen: list[str] = []

    def advise(file: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_WILLNEED)
        seen.append("ask for " + Path(f"/proc/self/fd/{file}").readlink().name)

    def opened(path: Path, **options: Any) -> Any:
        seen.append("copy " + path.name)
        return safe_open(path, **options)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    monkeypatch.setattr(safetensors, "safe_open", opened)
    load(tmp_path)
    first, second, third = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert seen == [
        f"ask for {first}", f"ask for {second}", f"copy {first}", f"ask for {third}", f"copy {second}", f"copy {third}",
    ]  # fmt: skip


def test_a_system_without_reading_ahead_and_a_file_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safetensors.read_ahead([tmp_path / "gone.safetensors"])
    monkeypatch.delattr(os, "posix_fadvise")
    write(tmp_path, shards=2)
    load(tmp_path)


def test_what_goes_to_a_gpu_by_pinned_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices as they are stored; no scale of a whole matrix, whose one number stands for each of 16,384 rows, and nothing that is converted."""
    raw = raw_qwen3(intermediate_size=16384, quantization_config={"quant_method": "modelopt", "quant_algo": "FP8"})
    tensors = random_tensors(read_config(raw), 1)
    embedding = "model.embed_tokens.weight"
    tensors[embedding] = tensors[embedding].repeat(1, 1).float()
    write_checkpoint(tmp_path, raw, tensors)
    pinned: list[torch.Tensor] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _tensor: True))
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(safetensors, "PINNED_BYTES", range(16 * 1024, 64 * 1024**2))
    load(tmp_path)
    assert len(pinned) > 3
    assert all(tensor.is_contiguous() and tensor.dtype in (FP8, torch.bfloat16) for tensor in pinned)


def test_every_tensor_lands_in_its_place(tmp_path: Path) -> None:
    """Written with a number of its own in each, every view of the parameters holds its own number."""
    tensors = write(tmp_path)
    numbered = {}
    for i, name in enumerate(sorted(tensors)):
        tensor = tensors[name]
        numbered[name] = torch.full(tensor.shape, float(i % 200 + 1)).to(tensor.dtype)
    save_file(numbered, tmp_path / "model.safetensors")
    config = read_folder(tmp_path)
    from octavo.checkpoints.fp8 import Fp8Format
    from octavo.checkpoints.safetensors import fill_from_folder

    parameters = config.place_parameters(fresh_memory(CPU))
    fill_from_folder(tmp_path, parameters.sources, Fp8Format(), progress=False)
    for name, view in parameters.sources.items():
        assert torch.equal(view.float(), numbered[name].float()), name
    assert sum(view.numel() for view in parameters.sources.values()) == sum(t.numel() for t in tensors.values())


def test_weight_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    tensors = write(tmp_path)
    assert load(tmp_path).weight_bytes == sum(t.numel() * t.element_size() for t in tensors.values())


def change(folder: Path, edit: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


FREQUENCIES = ("model.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq")


@pytest.mark.parametrize("shards", [1, 2])
def test_what_the_model_computes_without_is_left_out_and_named_once(
    shards: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A tied head stored a second time, and the frequencies of rotary embeddings, which old writers stored."""
    raw = raw_config(tie_word_embeddings=True)
    tensors = random_tensors(read_config(raw), 1)
    assert "lm_head.weight" not in tensors
    write_checkpoint(tmp_path / "plain", raw, tensors)
    surplus = {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    surplus |= {name: torch.ones(8) for name in FREQUENCIES}
    write_checkpoint(tmp_path / "surplus", raw, tensors | surplus, shards=shards)
    plain = load(tmp_path / "plain")
    assert caplog.records == []
    assert torch.equal(hidden_of(load(tmp_path / "surplus")), hidden_of(plain))
    assert [record.getMessage().count("lm_head.weight and 2 more") for record in caplog.records] == [1]


@pytest.mark.parametrize("shards", [1, 3])
def test_a_tied_head_that_is_another_is_refused(shards: int, tmp_path: Path) -> None:
    """transformers computes with it, and says so; one number is enough, and so is a shape."""
    raw = raw_config(tie_word_embeddings=True)
    tensors = random_tensors(read_config(raw), 1)
    head = tensors["model.embed_tokens.weight"].clone()
    head[-1, -1] += 1
    for number, other in enumerate((head, head[:-1].clone())):
        folder = tmp_path / str(number)
        write_checkpoint(folder, raw, tensors | {"lm_head.weight": other}, shards=shards)
        with pytest.raises(CheckpointError, match="tie_word_embeddings") as info:
            load(folder)
        assert info.value.tensor == "lm_head.weight"
    untied = raw | {"tie_word_embeddings": False}
    write_checkpoint(tmp_path / "untied", untied, tensors | {"lm_head.weight": head})
    load(tmp_path / "untied")


def test_a_head_that_is_not_tied_is_not_left_out(tmp_path: Path) -> None:
    tensors = write(tmp_path)
    load(tmp_path)
    write_checkpoint(tmp_path, raw_config(), {n: t for n, t in tensors.items() if n != "lm_head.weight"})
    with pytest.raises(CheckpointError) as info:
        load(tmp_path)
    assert info.value.tensor == "lm_head.weight"


def misshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors[EXPERT] = tensors[EXPERT][:-1].contiguous()


def flatten_scale(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{EXPERT}_scale"] = tensors[f"{EXPERT}_scale"].view(-1)


def widen(tensors: dict[str, torch.Tensor]) -> None:
    tensors[EXPERT] = tensors[EXPERT].float().bfloat16()


def spoil_scale(value: float) -> Any:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{EXPERT}_scale"][2] = value

    return edit


WRONG: dict[str, tuple[Any, str]] = {
    "missing": (lambda t: t.pop(EXPERT), rf"tensor {EXPERT}: missing; expected with shape \(64, 48\) \(1 tensors"),
    "missing-scale": (
        lambda t: t.pop(f"{EXPERT}_scale"),
        rf"tensor {EXPERT}_scale: missing; expected with shape \(64, 1\)",
    ),
    "surplus": (
        lambda t: t.update({"model.layers.9.extra.weight": torch.zeros(2, 3)}),
        r"tensor model.layers.9.extra.weight: shape \(2, 3\), is not expected",
    ),
    "misshapen": (misshape, rf"tensor {EXPERT}: has shape \(63, 48\), config.json asks for \(64, 48\)"),
    "flat-scale": (flatten_scale, r"weight_scale: has shape \(64,\), config.json asks for \(64, 1\)"),
    "not-quantized": (widen, rf"tensor {EXPERT}: is bfloat16, but config.json asks for float8_e4m3fn"),
    "nan-scale": (spoil_scale(torch.nan), "scale of row 2 is nan; scales must be positive"),
    "negative-scale": (spoil_scale(-1.0), r"scale of row 2 is -1.0; scales must be positive"),
    "zero-scale": (spoil_scale(0.0), r"scale of row 2 is 0.0; scales must be positive"),
}


@pytest.mark.parametrize(("edit", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_tensor_is_named(edit: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path)
    change(tmp_path, edit)
    with pytest.raises(CheckpointError, match=message) as info:
        load(tmp_path)
    assert str(tmp_path / "model.safetensors") in str(info.value)


def test_class_f_a_block_scale_is_refused(tmp_path: Path) -> None:
    """[F] weight_scale of (N/128, K/128) blocks where one per channel is expected."""
    write(tmp_path)
    change(tmp_path, lambda t: t.update({f"{EXPERT}_scale": torch.ones(1, 1)}))
    with pytest.raises(CheckpointError, match=r"\(1, 1\).*\(64, 1\)"):
        load(tmp_path)


def test_quantized_tensors_without_a_quantization_config(tmp_path: Path) -> None:
    tensors = write(tmp_path)
    raw = raw_config(quantization_config=None)
    write_checkpoint(tmp_path, raw, {n: t for n, t in tensors.items() if not n.endswith("_scale")})
    with pytest.raises(CheckpointError, match=r"float8_e4m3fn.* bfloat16"):
        load(tmp_path)


def test_a_block_of_zeros_may_have_a_scale_of_zero(tmp_path: Path) -> None:
    """As some writers store it; what is no number or negative is refused there too."""
    blocks: dict[str, Any] = {"quantization_config": FP8_BLOCK, "num_attention_heads": 4, "num_key_value_heads": 4}
    tensors = write(tmp_path, **blocks, head_dim=32)
    scale = f"{EXPERT}_scale_inv"
    whole = hidden_of(load(tmp_path))
    change(tmp_path, lambda t: t.update({EXPERT: torch.zeros_like(t[EXPERT])}))
    zeros = hidden_of(load(tmp_path))
    change(tmp_path, lambda t: t[scale].zero_())
    loaded = load(tmp_path)
    assert torch.equal(hidden_of(loaded), zeros)
    assert not torch.equal(whole, zeros)
    for bad in (-1.0, torch.nan, torch.inf):
        change(tmp_path, lambda t, bad=bad: t[scale].fill_(bad))
        with pytest.raises(CheckpointError, match="at least 0") as info:
            load(tmp_path)
        assert info.value.tensor == scale
    assert tensors[scale].shape == (1, 1)


def test_shards(tmp_path: Path) -> None:
    """A shard that is missing, lacks a tensor, repeats one, or is cut off; an index that points outside."""
    write(tmp_path, shards=2)
    index = tmp_path / "model.safetensors.index.json"
    first, second = (tmp_path / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    kept = first.read_bytes()
    tensors = load_file(first)
    name = min(tensors)

    save_file({n: t for n, t in tensors.items() if n != name}, first)
    with pytest.raises(CheckpointError, match="index") as info:
        load(tmp_path)
    assert info.value.tensor == name
    save_file({**tensors, **load_file(second)}, first)
    with pytest.raises(CheckpointError, match="twice"):
        load(tmp_path)
    first.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(CheckpointError, match="whole"):
        load(tmp_path)
    first.unlink()
    with pytest.raises(CheckpointError, match="not found"):
        load(tmp_path)
    for bad in ("../model.safetensors", "/etc/passwd", "model.bin", 7):
        index.write_text(json.dumps({"weight_map": {name: bad}}))
        with pytest.raises(CheckpointError, match="of its folder"):
            load(tmp_path)
    for bad, word in (("[]", "JSON object"), ("{", "JSON"), ("{}", "weight_map"), ('{"weight_map": []}', "weight_map")):
        index.write_text(bad)
        with pytest.raises(CheckpointError, match=word) as info:
            load(tmp_path)
        assert info.value.file == str(index)


def test_pickles_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickle"):
        load(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="--load-format dummy"):
        load(tmp_path)


def test_dummy_weights(tmp_path: Path) -> None:
    """Of order-one activations, equal for equal seeds only, from config.json alone."""
    (tmp_path / "config.json").write_text(json.dumps(raw_config()))
    one, again, other = load(tmp_path, "dummy"), load(tmp_path, "dummy"), load(tmp_path, "dummy", seed=1)
    assert torch.equal(hidden_of(one), hidden_of(again))
    assert not torch.equal(hidden_of(one), hidden_of(other))
    logits = one.model.logits(hidden_of(one))
    assert 0.3 < logits.std() < 3
    parameters = one.config.place_parameters(fresh_memory(CPU))
    fill_dummy(parameters.sources, seed=0, progress=False)
    for name, view in parameters.sources.items():
        assert view.float().isfinite().all()
        assert view.float().std() > 0, name
        if view.dtype == FP8:
            weight = view.float() * parameters.sources[f"{name}_scale"]
            assert 0.8 < float(weight.std() * view.shape[1] ** 0.5) < 1.2


def test_unknown_load_format(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(raw_config()))
    with pytest.raises(ConfigError, match=r"load_format: .*'pickle'"):
        load(tmp_path, "pickle")


def test_layers_computed_together_must_be_stored_alike(tmp_path: Path) -> None:
    quantization = {**raw_config()["quantization_config"], "ignore": ["model.layers.0.self_attn.k_proj", "lm_head"]}
    (tmp_path / "config.json").write_text(json.dumps(raw_config(quantization_config=quantization)))
    with pytest.raises(CheckpointError, match="stored alike"):
        load(tmp_path, "dummy")


def test_a_bar_is_shown_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    load_model(tmp_path, load_format="auto", device=CPU, seed=0)
    assert "Loading weights: 100%" in capsys.readouterr().err
    load(tmp_path)
    assert capsys.readouterr().err == ""


def test_no_device_but_a_cpu_has_operations_by_default(tmp_path: Path) -> None:
    """Layers whose bits change with the batch must not come without being asked for."""
    write(tmp_path)
    with pytest.raises(ValueError, match="operations"):
        load_model(tmp_path, load_format="auto", device=torch.device("meta"), seed=0)
