"""Model <-> Hugging Face folder, in the format in which the checkpoints of its architecture are published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.tiny import tokenizer
from tools.tiny.model import Model, Shape
from tools.tiny.published import published
from tools.tiny.rounding import dequantize_blocks


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_texts(folder: Path, shape: Shape) -> None:
    """Write everything but the weights and the model card."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", published(shape).config())
    stops = [tokenizer.IM_END, tokenizer.END_OF_TEXT]
    generation = {"do_sample": False, "eos_token_id": stops, "pad_token_id": tokenizer.END_OF_TEXT}
    _write_json(folder / "generation_config.json", generation)
    tokenizer.write(folder, context=shape.context)


def save(model: Model, folder: Path) -> None:
    """Write `model` as a complete folder."""
    write_texts(folder, model.shape)
    form = published(model.shape)
    parameters = {name: p.detach().float().cpu() for name, p in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for name, source in form.sources().items():
        value = source.of(parameters) - source.offset
        if form.is_quantized(name):
            tensors[name], tensors[name.removesuffix("weight") + form.scale] = (
                x.contiguous() for x in form.quantize(value)
            )
        else:
            tensors[name] = (value[:, None] if name.endswith("conv1d.weight") else value).to(source.dtype).contiguous()
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})


@torch.no_grad()
def load(folder: Path, model: Model) -> None:
    """Fill `model` with the weights of a folder that `save` wrote."""
    form, tensors = published(model.shape), load_file(str(folder / "model.safetensors"))
    parameters = dict(model.named_parameters())
    for name, source in form.sources().items():
        value = tensors[name]
        if form.is_quantized(name):
            value = form.dequantize(value, tensors[name.removesuffix("weight") + form.scale])
        part = source.of(parameters)
        part.copy_(value.float().view(part.shape) + source.offset)


def save_bf16(source: Path, folder: Path) -> None:
    """Write the folder `source` again with its weights dequantised to plain bf16."""
    for path in source.iterdir():
        if path.suffix == ".json" and path.name != "config.json":
            shutil.copy(path, folder)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    del config["quantization_config"]
    _write_json(folder / "config.json", config)
    tensors = load_file(str(source / "model.safetensors"))
    plain: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if f"{name}_scale" in tensors:
            plain[name] = (value.float() * tensors[f"{name}_scale"].float()).bfloat16()
        elif f"{name}_scale_inv" in tensors:
            plain[name] = dequantize_blocks(value, tensors[f"{name}_scale_inv"]).bfloat16()
        elif not name.endswith(("_scale", "_scale_inv")):
            plain[name] = value
    save_file(plain, str(folder / "model.safetensors"), metadata={"format": "pt"})
