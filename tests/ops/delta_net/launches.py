"""Compiles the kernels of Gated DeltaNet for Hopper: python -m ops.delta_net.launches FOLDER [KERNEL ...]"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from octavo.config.delta_shape import SPAN, DeltaShape
from octavo.ops.delta_net.convolve_kernel import convolve_kernel
from octavo.ops.delta_net.cuda import CHANNELS_OF_WARP, COLUMNS, FACTORS, PROGRAM_CHANNELS, STAGES
from octavo.ops.delta_net.kernel import factors_kernel, spans_kernel
from octavo.ops.delta_net.paired_kernel import paired_kernel
from octavo.ops.delta_net.rows_kernel import rows_kernel
from octavo.ops.launch import LAUNCH
from ops.hopper import compile_launches

SHAPE = DeltaShape(2, 4, 128, 128, 4)
GROUP = 2 * SHAPE.key_dim + 2 * 2 * SHAPE.value_dim
"""Numbers of a key head, where a projection gives inputs by key head with gates behind them."""
NUMBERS = {"KEY_HEADS": 2, "VALUE_HEADS": 4, "NUMBERS": SHAPE.state.numbers} | LAUNCH
SIZES = {"KEY": 128, "VALUE": 128, "TAPS": 4, "SPAN": SPAN}
COUNTS = (128, 4, 2, 8)
"""Rows, states, chunks and spans."""


def integers(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32)


def halves(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.bfloat16)


CONVOLVED, FLOATS, STATES = (
    halves(128, SHAPE.channels),
    torch.empty((8, 4, FACTORS)),
    torch.empty((4, SHAPE.state.numbers)),
)
MATRICES, BITS, OUT = FLOATS.view(torch.bfloat16), STATES.view(torch.bfloat16), halves(128, 512)
PLAN = integers(2, 8), integers(1)


def inputs(by_key_head: bool) -> dict[str, int]:
    """Where a row's inputs stand."""
    return {"STRIDE": 2 * GROUP, "GROUP": GROUP if by_key_head else 0}


def convolve(by_key_head: bool) -> None:
    convolve_kernel[(8,)](
        halves(128, 2 * GROUP), halves(SHAPE.channels, 4), BITS, *PLAN, integers(8), CONVOLVED, *COUNTS,
        WIDE=PROGRAM_CHANNELS, num_warps=PROGRAM_CHANNELS // CHANNELS_OF_WARP, **inputs(by_key_head), **NUMBERS, **SIZES,
    )  # fmt: skip


def factors(by_key_head: bool) -> None:
    logits, vector = torch.empty((128, 8)), torch.empty(4)
    factors_kernel[(32,)](
        CONVOLVED, logits, logits, vector, vector, STATES, BITS, *PLAN, integers(8), FLOATS, MATRICES, *COUNTS, 128**-0.5, 1e-6,
        KEY_BLOCK=128, FACTORS=FACTORS, WRITE_STRIDE=8, DECAY_STRIDE=8, LOGIT_GROUP=4 if by_key_head else 0, num_warps=1, **NUMBERS, **SIZES,
    )  # fmt: skip


def spans(by_key_head: bool) -> None:
    spans_kernel[(256,)](
        halves(128, 2 * GROUP), CONVOLVED, FLOATS, MATRICES, STATES, BITS, *PLAN, OUT, *COUNTS,
        KEY_BLOCK=128, VALUE_BLOCK=COLUMNS, FACTORS=FACTORS, ONE_IS_PAIRED=True, num_warps=1, num_stages=STAGES,
        **inputs(by_key_head), **NUMBERS, **SIZES,
    )  # fmt: skip


def rows(tiles: int) -> None:
    rows_kernel[(32,)](
        CONVOLVED, FLOATS, STATES, BITS, *PLAN, OUT, *COUNTS,
        KEY_BLOCK=128, VALUE_BLOCK=COLUMNS, TILES=tiles, FACTORS=FACTORS, num_warps=1, **NUMBERS, **SIZES,
    )  # fmt: skip


def paired() -> None:
    paired_kernel[(32,)](
        CONVOLVED, FLOATS, MATRICES, STATES, *PLAN, OUT, *COUNTS, FACTORS=FACTORS, num_warps=2, **NUMBERS
    )


def both(name: str, launch: Callable[[bool], None]) -> dict[str, Callable[[], None]]:
    """The launches of a kernel for both ways in which inputs lie."""
    return {name: functools.partial(launch, False), f"{name}-by-key-head": functools.partial(launch, True)}


LAUNCHES: dict[str, tuple[Any, dict[str, Callable[[], None]]]] = {
    "convolve": (convolve_kernel, both("convolve", convolve)),
    "factors": (factors_kernel, both("factors", factors)),
    "spans": (spans_kernel, both("spans", spans)),
    "rows": (rows_kernel, {f"rows-{tiles}": functools.partial(rows, tiles) for tiles in (1, 2)}),
    "paired": (paired_kernel, {"paired": paired}),
}


def main(folder: str, *names: str) -> None:
    for name in names or LAUNCHES:
        kernel, launches = LAUNCHES[name]
        compile_launches(kernel, launches, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
