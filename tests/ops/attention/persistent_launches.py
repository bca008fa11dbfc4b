"""Compiles the persistent kernel of attention for some shapes and plans: python -m ops.attention.persistent_launches FOLDER"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch

from octavo.ops.attention import persistent
from octavo.ops.attention.persistent_kernel import persistent_attend_kernel
from octavo.ops.attention.plan import WORK, PagedPlan
from ops.hopper import compile_launches

SHARED = {"32 of 4": 8, "16 of 16": 1, "a fixed plan of 8 of 2": 4, "64 of 1": 64}


def launch(shared: int, *, fixed: bool) -> None:
    def numbers(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.int32)

    plan = PagedPlan(
        tables=numbers(4, 32), work=numbers(64, WORK), small_work=numbers(0, WORK), merges=numbers(0, 4), num_split_results=0,
        rows=64, block_size=64, shared=shared, lines_in_use=numbers(3) if fixed else None,
    )  # fmt: skip
    heads = 2 * shared
    queries = torch.empty((64, heads, 128), dtype=torch.bfloat16)
    cache = torch.empty((2, 16, 64, 2, 128), dtype=torch.bfloat16)
    stats, accs = torch.empty((64, heads, 2)), torch.empty((64, heads, 128))
    persistent.launch_persistent(queries, cache, plan, stats, accs, torch.empty_like(queries), scale=0.1)


def main(folder: str) -> None:
    persistent.multiprocessors = lambda device: 132  # type: ignore[assignment, attr-defined]
    launches = {name: functools.partial(launch, shared, fixed="fixed" in name) for name, shared in SHARED.items()}
    compile_launches(persistent_attend_kernel, launches, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
