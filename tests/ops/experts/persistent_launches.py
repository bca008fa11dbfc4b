"""Compiles the persistent kernel of a format in each of its forms: python -m ops.experts.persistent_launches FOLDER KIND FORM..."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

from octavo.ops.activations import Activations, GroupScaled, StaticScaled, TokenScaled
from octavo.ops.experts.grouped_gemm import PersistentTile, persistent
from octavo.ops.experts.grouped_gemm.block_kernel import grouped_block_kernel
from octavo.ops.experts.grouped_gemm.channel_kernel import grouped_channel_kernel
from octavo.ops.experts.permute import Permutation
from octavo.ops.formats import Fp8Block, Fp8Channel, Fp8Static, Weights
from ops.hopper import compile_launches

EXPERTS, TOKENS, TOP_K = 4, 256, 8


def fp8(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float8_e4m3fn)


def operands(kind: str, rows: int, columns: int, width: int) -> tuple[Activations, Weights]:
    scales = torch.empty(EXPERTS, columns)
    match kind:
        case "channel":
            return TokenScaled(fp8(rows, width), torch.empty(rows)), Fp8Channel(fp8(EXPERTS, columns, width), scales)
        case "static":
            x = StaticScaled(fp8(rows, width), torch.ones(1))
            return x, Fp8Static(fp8(EXPERTS, columns, width), scales, input_scales=torch.ones(1))
    blocks = torch.empty(EXPERTS, columns // 128, width // 128)
    return GroupScaled(fp8(rows, width), torch.empty(rows, width // 128)), Fp8Block(
        fp8(EXPERTS, columns, width), blocks
    )


def launch(kind: str, *, gated: bool) -> None:
    rows, width, columns = (TOKENS, 2048, 2 * 768) if gated else (TOKENS * TOP_K, 768, 2048)
    x, w = operands(kind, rows, columns, width)
    assignments = TOKENS * TOP_K
    permutation = Permutation.allocate(assignments, EXPERTS, torch.device("cpu"))
    out = torch.empty((assignments, columns), dtype=torch.bfloat16)
    rounded = GroupScaled(fp8(assignments, columns // 2), torch.empty(assignments, columns // 2 // 128))
    persistent.launch_persistent(
        x, w, permutation, top_k=TOP_K, tile=PersistentTile(), out=rounded if gated else out, assignments=assignments
    )


def launch_dense(kind: str) -> None:
    rows, width, columns = TOKENS, 2048, 5120
    match operands(kind, rows, columns, width):
        case x, (Fp8Channel() | Fp8Static() | Fp8Block()) as stacked:
            persistent.launch_persistent_dense(x, stacked.expert(0), out=torch.empty(rows, columns).bfloat16())


def main(folder: str, kind: str, *forms: str) -> None:
    persistent.multiprocessors = lambda device: 132  # type: ignore[assignment, attr-defined]
    kernel = grouped_block_kernel if kind == "block" else grouped_channel_kernel
    launches = {form: functools.partial(launch, kind, gated=form == "gated") for form in forms if form != "dense"}
    if "dense" in forms:
        launches["dense"] = functools.partial(launch_dense, kind)
    compile_launches(kernel, launches, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
