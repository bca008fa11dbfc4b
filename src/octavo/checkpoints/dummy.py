"""Random weights of realistic scale."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tqdm import tqdm

FP8 = torch.float8_e4m3fn
SPREAD = 100.0
"""Standard deviation of FP8 codes: the largest of a row then lie near the format's limit of 448, as in real files."""


def fill_dummy(parameters: Mapping[str, torch.Tensor], *, seed: int, progress: bool = True) -> None:
    """Fill every parameter on its own device so that activations stay of order one.

    Weights of K inputs get standard deviation 1/sqrt(K), norms 1 +- 0.1, biases 0.1; recurrent states are remembered for some
    ten tokens. The numbers depend on the seed,
    the shapes and the kind of device.

    Args:
        parameters: checkpoint name -> parameter; written.
        seed: of the generator.
        progress: whether to show a bar on standard error.
    """
    generators: dict[torch.device, torch.Generator] = {}
    for name, parameter in tqdm(parameters.items(), desc="Making weights", unit="tensor", disable=not progress):
        device = parameter.device
        if device not in generators:
            generators[device] = torch.Generator(device).manual_seed(seed)
        noise = torch.randn(parameter.shape, generator=generators[device], device=device)
        parameter.copy_(_scaled(name, parameter, noise, parameters))


def _scaled(
    name: str, parameter: torch.Tensor, noise: torch.Tensor, parameters: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    if name.endswith((".weight_scale", ".weight_scale_inv")):
        inputs = parameters[name.rpartition("_scale")[0]].shape[1]
        return noise.mul_(0.1).clamp_(-0.5, 0.5).add_(1.0).div_(SPREAD * inputs**0.5)
    if name.endswith(".input_scale"):
        return noise.mul_(0.1).clamp_(-0.5, 0.5).add_(1.0).div_(SPREAD)
    if name.endswith("bias"):
        return noise.mul_(0.1)
    if name.endswith("A_log"):
        return noise.mul_(0.5).sub_(2.0)
    if parameter.ndim == 1:
        return noise.mul_(0.1).add_(1.0)
    if parameter.dtype == FP8:
        return noise.mul_(SPREAD).clamp_(-448.0, 448.0)
    return noise.div_(parameter.shape[1] ** 0.5)
