"""A whole model on the kernels' experts, through the interpreter."""

from __future__ import annotations

from pathlib import Path

import torch

from compare import BF16_ROUNDING, assert_rows, row_errors
from models.toy import CPU, allocate_cache, make_batch, random_tensors, raw_config, write_checkpoint
from octavo.config import ModelConfig
from octavo.kernels.experts import Experts, ExpertWeights
from octavo.models.kernel_operations import KernelOperations
from octavo.models.load import load_model
from octavo.models.operations import CpuOperations, Operations


class KernelsOnCpu(CpuOperations):
    """Everything of the CPU but the experts, so that the whole model runs through the interpreter."""

    def __init__(self) -> None:
        self._kernels = KernelOperations(max_tokens=64)

    def experts(self, weights: ExpertWeights, *, top_k: int, renormalize: bool) -> Experts:
        return self._kernels.experts(weights, top_k=top_k, renormalize=renormalize)


def forward(folder: Path, operations: Operations | None, ids: list[int]) -> torch.Tensor:
    """Hidden states (T, H) of `ids` in one step of a model read from `folder`."""
    loaded = load_model(folder, load_format="auto", device=CPU, seed=0, operations=operations, progress=False)
    cache = allocate_cache(loaded.config, num_blocks=2, block_size=16)
    return loaded.model.forward(make_batch([(ids, 0, len(ids), [0, 1])], block_size=16, columns=2), cache)


def test_a_model_computes_the_same_with_both_backends(tmp_path: Path) -> None:
    """Three layers of a small Qwen3-MoE; another last token is seen, and a prefix alone gives the rows of the whole."""
    raw = raw_config()
    write_checkpoint(tmp_path, raw, random_tensors(ModelConfig.from_json(raw), 3))
    ids = torch.randint(97, (9,), generator=torch.Generator().manual_seed(5)).tolist()
    kernels, expected = forward(tmp_path, KernelsOnCpu(), ids), forward(tmp_path, None, ids)
    assert_rows(kernels, expected, 0.05)
    assert float(row_errors(forward(tmp_path, KernelsOnCpu(), [*ids[:-1], 96 - ids[-1]])[-1:], expected[-1:])) > 0.05
    assert_rows(forward(tmp_path, KernelsOnCpu(), ids[:4]), kernels[:4], BF16_ROUNDING)
