"""Where a training run stands, in one safetensors file, so that a later call goes on from there."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tools.tiny.model import Model

MOMENTS = ("exp_avg", "exp_avg_sq")


def save(path: Path, model: Model, adam: torch.optim.AdamW, step: int) -> None:
    """Write weights and moments, all in bf16: 6 bytes per parameter, and FP8 rounds the weights far more."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight.{name}"] = parameter.detach()
        for moment in MOMENTS:
            tensors[f"{moment}.{name}"] = adam.state[parameter][moment]
    tensors = {name: value.to("cpu", torch.bfloat16).contiguous() for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(path), metadata={"step": str(step)})


def load(path: Path, model: Model, adam: torch.optim.AdamW) -> int:
    """Fill `model` and `adam` with what `save` wrote; returns the step."""
    with safe_open(str(path), framework="pt") as file, torch.no_grad():
        step = int(file.metadata()["step"])
        for name, parameter in model.named_parameters():
            parameter.copy_(file.get_tensor(f"weight.{name}"))
            moments = {moment: file.get_tensor(f"{moment}.{name}").to(parameter) for moment in MOMENTS}
            # fused AdamW keeps its count on the device
            adam.state[parameter] = {"step": torch.tensor(float(step), device=parameter.device), **moments}
    return step
