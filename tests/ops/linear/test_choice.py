"""Tiles that dense products choose can run: of any format and sizes, for any number of rows, where a device runs persistent kernels and where not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.ops.activations import Activations, GroupScaled, StaticScaled, TokenScaled, Unscaled
from octavo.ops.experts.grouped_gemm import STEP, PersistentTile
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static, LinearWeight
from octavo.ops.linear import dense_gemm, early_tile
from octavo.ops.linear.dense_gemm import AnyTile, choose
from octavo.ops.linear.early_tile import EarlyTile
from octavo.ops.linear.tile import DenseTile

FORMATS = [Fp8Channel, Fp8Static, Fp8Block, Bf16]
META = torch.device("meta")
SIZES = st.one_of(st.integers(1, 600), st.sampled_from([1024, 2048, 2880, 4096, 5120, 8192, 12288, 16384]))


def operands(kind: type, rows: int, columns: int, width: int, *, biased: bool) -> tuple[Activations, LinearWeight]:
    """x (T, K) and w (N, K), without memory."""
    dtype = torch.bfloat16 if kind is Bf16 else torch.float8_e4m3fn
    x, w = (torch.empty((count, width), dtype=dtype, device=META) for count in (rows, columns))
    bias = torch.empty(columns, dtype=torch.bfloat16, device=META) if biased else None
    scale, one = torch.empty(columns, device=META), torch.empty(1, device=META)
    if kind is Bf16:
        return Unscaled(x), Bf16(w, bias)
    if kind is Fp8Channel:
        return TokenScaled(x, torch.empty(rows, device=META)), Fp8Channel(w, scale, bias)
    if kind is Fp8Static:
        return StaticScaled(x, one), Fp8Static(w, scale, bias, input_scales=one)
    blocks = torch.empty((-(-columns // 128), -(-width // 128)), device=META)
    return GroupScaled(x, torch.empty((rows, -(-width // 128)), device=META)), Fp8Block(w, blocks, bias)


def reasons(tile: AnyTile, w: LinearWeight, out: torch.Tensor) -> list[str]:
    """Why `tile` cannot make the product."""
    if isinstance(tile, EarlyTile):
        return tile.reasons_against(w, out.device)
    if isinstance(tile, PersistentTile):
        return dense_gemm._reasons_against_persistent(w, out)
    step_bytes = STEP[w.data.dtype] * w.data.element_size()
    found = [*tile.reasons_against(gated=False, step_bytes=step_bytes)]  # which keeps its list
    if w.blockwise and (tile.cols > 128 or tile.step_factor > 1):
        found.append(f"{tile}: a step is a block of weights, of which a program reads one")
    # bulk copies bring rows of whole 16 bytes, and no step is longer than K
    width = w.data.shape[1] * w.data.element_size()
    if tile.tma and (width % 16 or width < tile.step_factor * step_bytes):
        found.append(f"{tile}: bulk copies of rows of {width} bytes")
    return found


@settings(deadline=None, max_examples=400)
@given(
    kind=st.sampled_from(FORMATS),
    rows=st.one_of(st.integers(1, 300), st.integers(1, 20000)),
    columns=st.one_of(SIZES, st.sampled_from([32000, 151936])),
    width=SIZES,
    biased=st.booleans(),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    hopper=st.booleans(),
)
def test_of_drawn_products(
    kind: type, rows: int, columns: int, width: int, biased: bool, dtype: torch.dtype, hopper: bool
) -> None:
    x, w = operands(kind, rows, columns, width, biased=biased)
    out = torch.empty((rows, columns), dtype=dtype, device=META)
    with pytest.MonkeyPatch.context() as patch:
        for module in (dense_gemm, early_tile):
            patch.setattr(module, "runs_persistent_kernels", lambda _device: hopper)
        tile = choose(x, w, out)
        assert reasons(tile, w, out) == [], tile
    assert hopper or not isinstance(tile, EarlyTile | PersistentTile)


@pytest.mark.parametrize(
    ("tile", "kind", "width"),
    [
        (DenseTile(16, 64, 4, 4, step_factor=2), Fp8Block, 256),
        (DenseTile(16, 64, 4, 4, tma=True), Fp8Channel, 200),
        (DenseTile(256, 256, 4, 8), Bf16, 256),
        (PersistentTile(), Bf16, 256),
        (EarlyTile(16, 40), Fp8Channel, 256),
    ],
    ids=str,
)
def test_tiles_that_cannot_run_are_seen(tile: AnyTile, kind: type, width: int) -> None:
    _, w = operands(kind, 5, 256, width, biased=False)
    assert reasons(tile, w, torch.empty((5, 256), dtype=torch.bfloat16, device=META))
