"""What `tools.tune_moe` times: both products, each with whatever rounding lies behind it, and a check of their bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from benchmarks.measurement import Timing
from tools.tune_dense import Before

from cases import ROUTINGS, SMALL, exact_rows, make_weights, to_device
from octavo.ops.activations import GroupScaled
from octavo.ops.experts.grouped_gemm import Tile
from octavo.ops.experts.moe import moe_workspace
from octavo.ops.experts.permute import permute
from octavo.ops.formats import Fp8Block, Fp8Channel, Fp8Static
from tools import tune_moe

TOKENS, SHAPE = 5, SMALL[1]
NARROW, WIDE = (Tile(16, columns, 4, 3) for columns in (64, 128))


def products(kind: type, device: torch.device) -> tune_moe.Products:
    """Of `TOKENS` tokens, in one routing."""
    generator = torch.Generator().manual_seed(1)
    experts, hidden, intermediate = SHAPE.experts, SHAPE.hidden, SHAPE.intermediate
    gate_up = to_device(make_weights(kind, experts, 2, intermediate, hidden, generator), device)
    down = to_device(make_weights(kind, experts, 1, hidden, intermediate, generator), device)
    workspace = moe_workspace(TOKENS, SHAPE.top_k, gate_up, down)
    ids = ROUTINGS["uniform"](TOKENS, experts, SHAPE.top_k, generator).to(device)
    gate_up.activate(exact_rows(TOKENS, hidden, generator).to(device), workspace.input.quantizer(None))
    made = permute(ids, experts, tile_rows=16)
    return tune_moe.Products([(gate_up, down)], workspace, [ids], {16: [made]})


class Nothing(Before):
    """Launches nothing before a product."""

    def __init__(self) -> None: ...

    def behind(self, product: Callable[[], object]) -> Callable[[], object]:
        return product


def tuned(kind: type, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> tune_moe.Found:
    """What is found of two tiles for each product, without a clock; `draw` would have written the second one's rows."""
    it = products(kind, device)
    it.calls(NARROW, True)[0]()
    monkeypatch.setattr(tune_moe, "replay", lambda calls, replays: Timing(1.0, 1.0, 1.0))
    monkeypatch.setattr(tune_moe, "candidates", lambda *_: [NARROW, WIDE])
    monkeypatch.setattr(tune_moe, "tuned_tiles", lambda *_: (NARROW, NARROW))
    shape = (SHAPE.experts, SHAPE.top_k, SHAPE.hidden, SHAPE.intermediate)
    return tune_moe.best_tiles(it, TOKENS, shape, kind.__name__, Nothing())


EACH = {f"{product} {tile}" for product in ("gate_up", "down") for tile in (NARROW, WIDE)}
each_format = pytest.mark.parametrize("kind", [Fp8Channel, Fp8Static, Fp8Block], ids=lambda kind: kind.__name__)


@each_format
def test_every_tile_of_both_products_has_the_bits_and_is_timed(
    kind: type, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks, too, where one tile rounds what it stores and another has a launch behind it."""
    assert tuned(kind, device, monkeypatch).times.keys() == EACH


@each_format
@pytest.mark.parametrize("name", ["hidden_rows", "grouped_gemm"])
def test_a_tile_that_writes_nothing_is_left_out(
    name: str, kind: type, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory holds the right rows of the tile before, but for NaN in it."""
    run = getattr(tune_moe, name)

    def lazy(*args: Any, tile: Tile, **options: Any) -> Any:
        if tile != WIDE:
            return run(*args, tile=tile, **options)
        if name == "grouped_gemm":
            return options["out"]
        return options["workspace"].hidden_quantized.held(options["assignments"], args[2])

    monkeypatch.setattr(tune_moe, name, lazy)
    product = "gate_up" if name == "hidden_rows" else "down"
    assert tuned(kind, device, monkeypatch).times.keys() == EACH - {f"{product} {WIDE}"}


def test_one_other_code_or_scale_is_seen(device: torch.device) -> None:
    it = products(Fp8Block, device)
    made = it.calls(NARROW, True)[0]()
    assert isinstance(made, GroupScaled)
    rows = [part.clone() for part in tune_moe.parts(made)]
    assert tune_moe.same(made, rows)
    made.data.view(torch.uint8)[-1, -1] ^= 1
    assert not tune_moe.same(made, rows)
    made.data.view(torch.uint8)[-1, -1] ^= 1
    made.scale[-1, -1] *= 2
    assert not tune_moe.same(made, rows)


def test_candidates_hold_tiles_that_round() -> None:
    """Of few tokens too, in blocks; with a scale for each row there are none that could."""
    for kind, wide in (("Fp8Block", True), ("Fp8Channel", False)):
        tiles = tune_moe.candidates(16, True, 2048, 1, kind)
        assert any(tile.cols == 128 for tile in tiles) == wide
