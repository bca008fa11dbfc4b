"""Run in a process of its own, as a fault ends it: one group of calls with every tensor at the edges of mappings.

python tests/guarded.py GROUP...      a count of placements for each group, or the end of the process
python tests/guarded.py MUTANT        one access outside a tensor: the process must not live
"""

from __future__ import annotations

import dataclasses
import os
import sys

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import triton
import triton.language as tl
from torch.utils._python_dispatch import _disable_current_modes

from guard_pages import Edge, End, Midst, Pages, Placed, Start, owned, pages_of
from octavo.ops import bulk_copy

MUTANTS: dict[str, tuple[Edge, tuple[int, int, int, int]]] = {
    "reads-past-the-end": (End(), (0, 1, 0, 0)),
    "writes-past-the-end": (End(), (0, 0, 0, 1)),
    "reads-before-the-start": (Start(), (1, 0, 0, 0)),
    "writes-before-the-start": (Start(), (0, 0, 1, 0)),
}
"""Where the tensors lie, and how many elements too many are read before and behind, and written before and behind."""


@triton.jit
def copy_kernel(x, y, width, read_before, read_behind, written_before, written_behind, BLOCK: tl.constexpr):
    """Grid (1,). y (width,) = x, and elements too many."""
    at = tl.arange(0, BLOCK) - 1
    value = tl.load(x + at, mask=(at >= -read_before) & (at < width + read_behind), other=0.0)
    tl.store(y + at, value, mask=(at >= -written_before) & (at < width + written_behind))


def copy(pages: Pages, edge: Edge, too_many: tuple[int, int, int, int]) -> None:
    """5 elements, of which no vector is made, from one guarded tensor to another."""
    with Placed(pages, edge):
        x, y = (torch.zeros(5, device=pages.device) + number for number in (1, 2))
    copy_kernel[(1,)](x, y, 5, *too_many, BLOCK=16)
    assert y.tolist() == [1.0] * 5


def mutate(name: str, pages: Pages) -> None:
    edge, too_many = MUTANTS[name]
    copy(pages, edge, (0, 0, 0, 0))
    print("the right kernel ran", flush=True)
    copy(pages, edge, too_many)
    print("the wrong kernel ran", flush=True)


def compare(group: str, pages: Pages) -> None:
    """Each call with its tensors at the ends of mappings, at their starts, and on a GPU unguarded: the same bits."""
    from placements import GPU_GROUPS

    placements, calls = 0, 0
    edges: list[Edge] = [End(), Start()] if pages.device.type == "cpu" else [Midst(), End(), Start()]
    for scenario in GPU_GROUPS[group](pages.device):
        expected: list[torch.Tensor] = []
        for edge in edges:
            print(f"{type(edge).__name__}: {scenario.name}", file=sys.stderr, flush=True)
            with Placed(pages, edge) as placed:
                outs = scenario.run(*owned(scenario.inputs))
            outs = [out.to("cpu", copy=True) for out in outs]  # waits, and a fault is known here
            pages.release()
            placements += 0 if isinstance(edge, Midst) else placed.count
            expected = expected or outs
            for number, (out, wanted) in enumerate(zip(outs, expected, strict=True)):
                same = torch.equal(out.contiguous().view(torch.uint8), wanted.contiguous().view(torch.uint8))
                assert same, f"{type(edge).__name__}: {scenario.name}: other bits in result {number}"
        calls += 1
    assert placements > 2 * calls
    print(f"{group}: {placements} placements in {calls} calls, no fault, the same bits", flush=True)


def interpret() -> None:
    """Have kernels compute on the host as on the device; what the interpreter allocates is no tensor of ours."""
    from triton.runtime.interpreter import GridExecutor

    from octavo.ops.attention import cuda as paged_attention
    from ops.interpreter import repair

    repair()
    # here one program runs at a time, and each goes through several pieces of work
    paged_attention.LARGE = dataclasses.replace(paged_attention.LARGE, resident=3)
    paged_attention.SMALL = dataclasses.replace(paged_attention.SMALL, resident=3)
    paged_attention.RESIDENT_MERGES = 3
    launch = GridExecutor.__call__

    def apart(self: GridExecutor, *args: object, **kwargs: object) -> None:
        with _disable_current_modes():
            launch(self, *args, **kwargs)

    GridExecutor.__call__ = apart
    np.seterr(all="ignore")


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        interpret()
    bulk_copy.ROOM_ROWS = 1  # with room behind it, a tensor would not end where its mapping does
    pages = pages_of(device)
    for name in sys.argv[1:]:
        if name in MUTANTS:
            mutate(name, pages)
        else:
            compare(name, pages)


if __name__ == "__main__":
    main()
