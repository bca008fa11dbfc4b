"""What `tools.tune_moe` times: both products, each with whatever rounding lies behind it, and a check of their bits."""

from __future__ import annotations

import pytest
import torch
from tools.tune_moe import Products, parts, poison, same

from cases import ROUTINGS, SMALL, exact_rows, make_weights, to_device
from octavo.ops.activations import GroupScaled
from octavo.ops.experts.grouped_gemm import Tile
from octavo.ops.experts.moe import moe_workspace
from octavo.ops.experts.permute import permute
from octavo.ops.formats import Fp8Block, Fp8Channel, Fp8Static
from tools import tune_moe

TOKENS, SHAPE = 5, SMALL[1]
NARROW, WIDE = (Tile(16, columns, 4, 3) for columns in (64, 128))


def products(kind: type, device: torch.device) -> Products:
    """Of `TOKENS` tokens, in one routing."""
    generator = torch.Generator().manual_seed(1)
    experts, hidden, intermediate = SHAPE.experts, SHAPE.hidden, SHAPE.intermediate
    gate_up = to_device(make_weights(kind, experts, 2, intermediate, hidden, generator), device)
    down = to_device(make_weights(kind, experts, 1, hidden, intermediate, generator), device)
    workspace = moe_workspace(TOKENS, SHAPE.top_k, gate_up, down)
    ids = ROUTINGS["uniform"](TOKENS, experts, SHAPE.top_k, generator).to(device)
    gate_up.activate(exact_rows(TOKENS, hidden, generator).to(device), workspace.input.quantizer(None))
    made = permute(ids, experts, tile_rows=16)
    return Products([(gate_up, down)], workspace, [ids], {16: [made]})


@pytest.mark.parametrize("kind", [Fp8Channel, Fp8Static, Fp8Block], ids=lambda kind: kind.__name__)
def test_any_tile_gives_what_the_second_product_reads(kind: type, device: torch.device) -> None:
    """In blocks, too, where one tile rounds what it stores and another has a launch behind it; and nothing passes that was not written."""
    it = products(kind, device)
    hidden = it.calls(NARROW, True)[0]
    rows, out = ([part.clone() for part in parts(it.calls(NARROW, gated)[0]())] for gated in (True, False))
    for tile in (NARROW, WIDE):
        poison(it.workspace)
        held = it.workspace.hidden_quantized.held(TOKENS * SHAPE.top_k, it.layers[0][1])
        assert not same(held, rows), "the twin: rows of NaN"
        assert same(it.calls(tile, True)[0](), rows)
        hidden()
        assert same(it.calls(tile, False)[0](), out)


def test_one_other_code_or_scale_is_seen(device: torch.device) -> None:
    it = products(Fp8Block, device)
    made = it.calls(NARROW, True)[0]()
    assert isinstance(made, GroupScaled)
    rows = [part.clone() for part in parts(made)]
    assert same(made, rows)
    made.data.view(torch.uint8)[-1, -1] ^= 1
    assert not same(made, rows)
    made.data.view(torch.uint8)[-1, -1] ^= 1
    made.scale[-1, -1] *= 2
    assert not same(made, rows)


def test_candidates_hold_tiles_that_round() -> None:
    """Of few tokens too, in blocks; with a scale for each row there are none that could."""
    for kind, wide in (("Fp8Block", True), ("Fp8Channel", False)):
        tiles = tune_moe.candidates(16, True, 2048, 1, kind)
        assert any(tile.cols == 128 for tile in tiles) == wide
