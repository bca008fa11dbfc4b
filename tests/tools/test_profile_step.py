"""How the time of a step is shared out among its kernels, and the steps that are timed."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from benchmarks.profile_step import BLOCK_SIZE, FLOOR_COLUMNS, STEPS, Step, by_kernel, floor_parts, floor_row
from benchmarks.step_floor import Floor, Rows

from octavo.checkpoints.folder import resolve_folder
from octavo.models.kv_cache import KVCache
from octavo.models.load import load_model
from octavo.ops.delta_net import StateUse


def test_what_overlaps_is_counted_once() -> None:
    spans = [(0.0, 10.0, "product<1>"), (2.0, 13.0, "norm"), (3.0, 12.0, "quantize"), (20.0, 24.0, "product<2>")]
    found = by_kernel(spans, runs=2)
    assert {name: times.us for name, times in found.items()} == {"product": 7.0, "norm": 1.5, "quantize": 0.0}
    assert found["product"].calls == pytest.approx(1.0)


def test_a_row_says_the_share_of_the_floor() -> None:
    cells = floor_row("decode, 1", [900.0, 1000.0, 1400.0], 1100.4, Floor(bytes_us=690.0, operations_us=4.2, us=694.0))
    assert dict(zip(FLOOR_COLUMNS, cells, strict=True)) == {
        "step": "decode, 1",
        "us by itself": 1000,
        "us traced": 1100,
        "us of bytes": 690,
        "us of operations": 4,
        "floor, us": 694,
        "share of the floor": "0.69",
    }


def test_a_floor_is_of_the_rows_of_its_step() -> None:
    assert Step("decode, 3", 3, 1, 256).rows == Rows(requests=3, tokens=1, before=255, wanted=1)
    parts = floor_parts("octavo-tiny", STEPS)
    assert list(parts) == [step.name for step in STEPS]
    sizes = [sum(part.num_bytes for part in parts[f"decode, {count}"]) for count in (1, 8, 256)]
    assert sizes == sorted(set(sizes))


def test_a_prompt_goes_on_from_no_state() -> None:
    assert Step("prompts", 2, 5, 5).batch(columns=1).states == (StateUse(-1, 0), StateUse(-1, 1))
    assert Step("decode", 2, 1, 5).batch(columns=1).states == (StateUse(0, 0), StateUse(1, 1))


@pytest.mark.parametrize("name", ["octavo-tiny", "octavo-tiny-hybrid"])
@pytest.mark.parametrize("step", [Step("decode, 3", 3, 1, 70), Step("prompts", 2, 5, 5)], ids=lambda step: step.name)
def test_a_step_is_computed_with_states_and_without(name: str, step: Step) -> None:
    loaded = load_model(
        resolve_folder(name, None), load_format="dummy", device=torch.device("cpu"), seed=0, progress=False
    )
    cache = KVCache.allocate(
        loaded.config.cache, num_blocks=6, num_states=3, block_size=BLOCK_SIZE, device=torch.device("cpu")
    )
    batch = step.batch(columns=2)
    batch = dataclasses.replace(batch, token_ids=batch.token_ids % loaded.config.vocab_size)
    hidden = loaded.model.forward(batch, cache)
    assert hidden.shape == (step.requests, loaded.config.hidden_size)
    assert hidden.isfinite().all()
