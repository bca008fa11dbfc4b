"""Penalties and masks in one pass over the logits of the rows that have any."""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.adjust import settings
from octavo.ops.device import wait_for_previous

MADE = tl.constexpr(settings.IN_PROMPT - 1)
LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit(do_not_specialize=["rows", "slot_count", "allowed_count"])
def adjust_kernel(
    logits, out, counts, penalties, slots, allowed, allowed_rows, rows, width, slot_count, allowed_count, segments,
    SEGMENT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (R x segments,): SEGMENT columns of a row of logits (R, width) f32, to `out`, which may be the same. See `adjust`."""
    wait_for_previous(PDL)
    row = (tl.program_id(0) // segments).to(tl.int64)
    slot, place = tl.load(slots + row).to(tl.int64), tl.load(allowed_rows + row).to(tl.int64)
    has_counts = (slot >= 0) & (slot < slot_count)
    is_masked = (place >= 0) & (place < allowed_count)
    column = tl.program_id(0) % segments * SEGMENT + tl.arange(0, SEGMENT)
    inside = column < width
    x = tl.load(logits + row * width + column, mask=inside, other=0.0)
    if has_counts:
        count = tl.load(counts + slot * width + column, mask=inside, other=0)
        made = count & MADE
        repetition = tl.load(penalties + row)
        frequency, presence = tl.load(penalties + rows + row), tl.load(penalties + 2 * rows + row)
        value = x.to(tl.float64)
        value = tl.where(value > 0, value / repetition, value * repetition)
        value = value - frequency * made.to(tl.float64) - presence * (made > 0).to(tl.float64)
        # written out: tl.clamp takes no float64
        value = tl.where(value > LARGEST, LARGEST, tl.where(value < -LARGEST, -LARGEST, value))
        x = tl.where(count != 0, value.to(tl.float32), x)
    if is_masked:
        byte = tl.load(allowed + place * tl.cdiv(width, 8) + column // 8, mask=inside, other=0).to(tl.int32)
        x = tl.where((byte >> (column % 8)) & 1 != 0, x, float("-inf"))
    tl.store(out + row * width + column, x, mask=inside)
