"""The expert layer: hidden states and routing in, hidden states out."""

from __future__ import annotations

import torch

from octavo.ops.activations import Activations
from octavo.ops.bulk_copy import takes_bulk_copies
from octavo.ops.contract import check_range
from octavo.ops.experts.combine import combine
from octavo.ops.experts.grouped_gemm import (
    PersistentTile,
    Tile,
    Tiles,
    choose_tiles,
    grouped_gemm,
    grouped_gemm_swiglu,
    grouped_gemm_swiglu_quantize,
)
from octavo.ops.experts.grouped_gemm.choice import rounds
from octavo.ops.experts.permute import Permutation, permute
from octavo.ops.experts.workspace import MoeWorkspace, moe_workspace
from octavo.ops.formats import Fp8Block, Weights
from octavo.ops.inputs import Inputs
from octavo.ops.launch import LaunchDims
from octavo.ops.persistent import runs_persistent_kernels
from octavo.ops.weighted_sum import WeightedSum

__all__ = ["MoeWorkspace", "expert_parts", "hidden_rows", "moe", "moe_workspace"]


def moe(
    x: torch.Tensor | Inputs,
    ids: torch.Tensor,
    weights: torch.Tensor,
    gate_up: Weights,
    down: Weights,
    *,
    workspace: MoeWorkspace,
    out: torch.Tensor,
    flags: torch.Tensor,
    rows_in_use: torch.Tensor | None = None,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """out[t] = sum over k of weights[t, k] * down[e] @ (silu(gate[e] @ x[t]) * (up[e] @ x[t])), e = ids[t, k].

    A row's bits depend on that row, its ids and weights, and the experts' weights: not on T, other rows, position,
    tiles, or whether a graph replays the call. Nothing is allocated and the host never waits, so the call can be
    captured. Assignments whose id is negative or >= E are dropped. Rows from `rows_in_use` on are not read and become zero.

    Args:
        x: (T, H) bf16, or as a norm made it, T <= workspace.max_tokens; read.
        ids: (T, K) int32, any values, K = workspace.top_k; read.
        weights: (T, K) f32; read.
        gate_up: (E, 2I, H), gate rows first; read.
        down: (E, H, I), read.
        workspace: from `moe_workspace` for this shape; overwritten.
        out: (T, H) bf16; every row is written.
        flags: (T,) bool; written: True where a value of the row of `out` is not finite.
        rows_in_use: (1,) int32 on the device, the rows in use; None for all T.
        tiles: sizes of the grouped GEMMs; None chooses by T. A PersistentTile for `gate_up` only where both have scales per block.

    Returns:
        out

    Raises:
        KernelContractError: an argument has another type, shape, dtype, device or range.
    """
    parts = expert_parts(x, ids, weights, gate_up, down, workspace=workspace, rows_in_use=rows_in_use, tiles=tiles)
    return combine(parts.parts, ids, weights, parts.experts, out=out, flags=flags, rows_in_use=rows_in_use)


def expert_parts(
    x: torch.Tensor | Inputs,
    ids: torch.Tensor,
    weights: torch.Tensor,
    gate_up: Weights,
    down: Weights,
    *,
    workspace: MoeWorkspace,
    permutation: Permutation | None = None,
    rows_in_use: torch.Tensor | None = None,
    tiles: Tiles | None = None,
) -> WeightedSum:
    """What `moe` sums, (S, H) bf16 in the workspace; the other arguments are those of `moe`.

    Args:
        permutation: of `ids`, where `route` has written it; read. None: it is made in the workspace.

    Raises:
        KernelContractError: an argument has another type, shape, dtype, device or range.
    """
    dims = LaunchDims()
    inputs = Inputs.of(x)
    if inputs.rows is not None:
        dims.check("x", inputs.rows, ("T", "H"), dtype=torch.bfloat16)
    if inputs.scaled is not None:
        inputs.scaled.check("x", dims, "T", "H")
    dims.check("ids", ids, ("T", workspace.top_k), dtype=torch.int32)
    dims.check("gate_up.data", gate_up.data, ("E", 2 * down.data.shape[-1], "H"), dtype=gate_up.data.dtype)
    dims.check("down.data", down.data, ("E", "H", down.data.shape[-1]), dtype=down.data.dtype)
    tokens, experts = dims["T"], dims["E"]
    check_range("x.shape[0]", tokens, 0, workspace.max_tokens, "allocate the workspace for more tokens")
    assignments = tokens * workspace.top_k
    gated_input = workspace.input.data if inputs.scaled is None else inputs.scaled.data
    tiles = tiles or _choose(gated_input, gate_up, down, workspace, assignments)

    if permutation is None:
        permutation = permute(
            ids, experts, tile_rows=tiles.gate_up.rows, rows_in_use=rows_in_use, out=workspace.permutation
        )
    activated = inputs.activate(gate_up, workspace.input.quantizer(rows_in_use, overlap_previous=True))
    hidden = hidden_rows(
        activated, gate_up, down, permutation, tile=tiles.gate_up, workspace=workspace, assignments=assignments
    )
    grouped_gemm(hidden, down, permutation, tile=tiles.down, out=workspace.expert_out, assignments=assignments)
    return WeightedSum(workspace.expert_out, ids, weights, experts, rows_in_use)


def hidden_rows(
    x: Activations,
    gate_up: Weights,
    down: Weights,
    permutation: Permutation,
    *,
    tile: Tile | PersistentTile,
    workspace: MoeWorkspace,
    assignments: int,
) -> Activations:
    """Computes `grouped_gemm_swiglu` in the format that `down` asks for; the product rounds what it stores where its tile has all columns of a scale.

    Args:
        x: (T, H) in the format that `gate_up` asks for; read at the tokens of the permutation only.
        gate_up: (E, 2I, H), gate rows first; read.
        down: (E, H, I); its format is used alone.
        permutation: of these tokens for tiles of `tile.rows` rows; read.
        tile: a PersistentTile only where both have scales per block.
        workspace: its `hidden` and `hidden_quantized` are written, or the latter alone.
        assignments: most assignments the permutation can hold in this call.

    Returns:
        (assignments, I) in sorted order, in the workspace.

    Raises:
        KernelContractError: an argument has another type, shape, dtype, device or range, or the tile cannot run.
    """
    top_k = workspace.top_k
    if rounds(tile, gate_up) and isinstance(down, Fp8Block):
        grouped_gemm_swiglu_quantize(
            x,
            gate_up,
            permutation,
            top_k=top_k,
            tile=tile,
            out=workspace.hidden_quantized.grouped,
            assignments=assignments,
        )
        return workspace.hidden_quantized.held(assignments, down)
    grouped_gemm_swiglu(x, gate_up, permutation, top_k=top_k, tile=tile, out=workspace.hidden, assignments=assignments)
    return down.activate(workspace.hidden[:assignments], workspace.hidden_quantized.quantizer(permutation.rows_in_use))


def _choose(x: torch.Tensor, gate_up: Weights, down: Weights, workspace: MoeWorkspace, assignments: int) -> Tiles:
    """Chooses the tiles of the layer's shape that its operands allow; x (T, H) is what the first product reads.

    Of two formats, as where one product is left in bf16, both take tiles for scales per block, which are legal for all.
    """
    kinds = {type(gate_up), type(down)}
    # an input that is not quantized is `workspace.hidden` itself
    bulk = takes_bulk_copies(gate_up.data, down.data, workspace.hidden_quantized.data, workspace.hidden)
    persistent = len(kinds) == 1 and runs_persistent_kernels(x.device) and takes_bulk_copies(x)
    kind = kinds.pop() if len(kinds) == 1 else Fp8Block
    return choose_tiles((kind.__name__, *down.data.shape), assignments, bulk=bulk, persistent=persistent)
