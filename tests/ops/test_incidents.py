"""Public faults of other expert layers, by class; the classes are those of the project's list of faults.

A  32-bit overflow         B  buffers and limits        C  routing ids and permutation maps
D  zero-size groups        E  uninitialised padding     F  scales, shapes, tiles
"""

from __future__ import annotations

import torch

from cases import LayerShape, exact_rows, make_weights, to_device
from compare import assert_rows, tolerance
from memory import Guard
from octavo.ops.activations import TokenScaled
from octavo.ops.experts.grouped_gemm import Tile, grouped_gemm
from octavo.ops.experts.grouped_gemm.reference import grouped_gemm_reference
from octavo.ops.experts.moe import moe, moe_workspace
from octavo.ops.experts.permute import permute
from octavo.ops.experts.permute.reference import permute_reference
from octavo.ops.experts.reference import moe_reference
from octavo.ops.formats import Fp8Channel


def layer_out(shape: LayerShape, ids: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """The layer's out and its reference for `ids`; scales of experts and channels are powers of two."""
    generator = torch.Generator().manual_seed(11)
    gate_up = make_weights(Fp8Channel, shape.experts, 2, shape.intermediate, shape.hidden, generator)
    down = make_weights(Fp8Channel, shape.experts, 1, shape.hidden, shape.intermediate, generator)
    x, weights = exact_rows(len(ids), shape.hidden, generator), torch.rand(ids.shape, generator=generator) + 0.1
    expected = moe_reference(x, ids, weights, gate_up, down)
    guard = Guard(device)
    workspace = moe_workspace(len(ids), ids.shape[1], to_device(gate_up, device), to_device(down, device))
    out, flags = guard.empty((len(ids), shape.hidden), torch.bfloat16), guard.empty((len(ids),), torch.bool)
    moe(
        guard.copy(x), guard.copy(ids), guard.copy(weights), guard.rebuild_copy(gate_up), guard.rebuild_copy(down),
        workspace=guard.rebuild(workspace), out=out, flags=flags,
    )  # fmt: skip
    guard.check()
    return out, expected


def test_c_vllm_45492_sentinel_at_the_first_slot_of_a_map_of_1032(device: torch.device) -> None:
    ids = torch.randint(0, 64, (129, 8), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    ids[0, 0] = 1032
    guard = Guard(device)
    got = permute(guard.copy(ids), 64, tile_rows=16)
    guard.check()
    order, _ = permute_reference(ids, 64, rows=16)
    assert got.order[: len(order)].tolist() == order
    assert got.rows_in_use.tolist() == [len(order)]


def test_c_transformer_engine_2908_one_sentinel_at_first_middle_and_last_slot(device: torch.device) -> None:
    for at in (0, 4, 9):
        ids = torch.arange(10, dtype=torch.int32).reshape(5, 2) % 4
        ids.view(-1)[at] = -1
        out, expected = layer_out(LayerShape("", 4, 2, 128, 64), ids, device)
        assert_rows(out, expected, 2 * tolerance(device))


def test_c_xpu_571_ids_at_both_ends_of_int32(device: torch.device) -> None:
    ids = torch.tensor([[-1, 0], [7, 8], [2**31 - 1, -(2**31)]], dtype=torch.int32)
    out, expected = layer_out(LayerShape("", 8, 2, 128, 64), ids, device)
    assert_rows(out, expected, 2 * tolerance(device))
    assert out[2].eq(0).all()


def test_c_xpu_453_one_expert_keeps_every_token(device: torch.device) -> None:
    got = permute(torch.zeros((4, 1), dtype=torch.int32, device=device), 1, tile_rows=16)
    assert got.order.tolist() == [0, 1, 2, 3]


def test_c_flashinfer_3011_equal_ids_of_a_token_are_all_summed(device: torch.device) -> None:
    ids = torch.tensor([[5] * 4, [5, 6, 5, 7], [1, 2, 3, 4]], dtype=torch.int32)
    out, expected = layer_out(LayerShape("", 8, 4, 128, 64), ids, device)
    assert_rows(out, expected, 2 * tolerance(device))


def test_d_vllm_27514_most_of_160_experts_empty(device: torch.device) -> None:
    groups = [0, 2, 2, 2, 4, 5, 5, 8, 8, 159]
    ids = torch.tensor(groups, dtype=torch.int32)[:, None]
    out, expected = layer_out(LayerShape("", 160, 1, 128, 64), ids, device)
    assert_rows(out, expected, 2 * tolerance(device))


def test_f_vllm_57092_each_expert_has_its_own_scale(device: torch.device) -> None:
    """Weight scales 1, 2, 4, ...: an expert that used another's would be off by a power of two."""
    generator = torch.Generator().manual_seed(12)
    data = make_weights(Fp8Channel, 8, 1, 64, 128, generator).data
    w = Fp8Channel(data, (2.0 ** torch.arange(8))[:, None].expand(-1, 64).contiguous())
    x = TokenScaled(make_weights(Fp8Channel, 1, 1, 8, 128, generator).data[0].contiguous(), torch.ones(8))
    ids = torch.arange(8, dtype=torch.int32)[:, None]
    plan = permute(ids.to(device), 8, tile_rows=16)
    out = torch.full((8, 64), torch.nan, dtype=torch.bfloat16, device=device)
    on_device = TokenScaled(x.data.to(device), x.scale.to(device))
    grouped_gemm(on_device, to_device(w, device), plan, tile=Tile(16, 64, 4, 4), out=out, assignments=8)
    assert_rows(out, grouped_gemm_reference(x, w, ids.flatten()), tolerance(device))


def test_f_deep_gemm_268_groups_just_below_at_and_above_a_tile(device: torch.device) -> None:
    ids = torch.repeat_interleave(torch.arange(4), torch.tensor([1, 15, 16, 17])).to(torch.int32)[:, None]
    out, expected = layer_out(LayerShape("", 4, 1, 128, 64), ids, device)
    assert_rows(out, expected, 2 * tolerance(device))
