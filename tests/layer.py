"""An expert layer on the GPU at a real shape, its pool of rows with exact results, and ways to run parts of it."""

from __future__ import annotations

import dataclasses

import torch

from cases import ROUTINGS, LayerShape
from octavo.ops.activations import BLOCK, FP8, blocks
from octavo.ops.experts.grouped_gemm import Tiles
from octavo.ops.experts.moe import MoeWorkspace, moe, moe_workspace
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static, Weights
from octavo.ops.quantize.reference import scale_reference

CUDA = torch.device("cuda")


def random_weights(kind: type, experts: int, parts: int, rows: int, cols: int) -> Weights:
    """Normally distributed weights (experts, parts x rows, cols) on the GPU in the format `kind`, outputs O(1)."""
    generator = torch.Generator(CUDA).manual_seed(experts + rows + cols)
    data = torch.empty((experts, parts * rows, cols), dtype=torch.bfloat16 if kind is Bf16 else FP8, device=CUDA)
    scale = torch.empty((experts, parts * rows), device=CUDA)
    blockwise = torch.empty((experts, parts * blocks(rows), blocks(cols)), device=CUDA)
    for e in range(experts):
        w = torch.randn((parts * rows, cols), generator=generator, device=CUDA) / cols**0.5
        if kind is Bf16:
            data[e] = w.bfloat16()
        elif kind is Fp8Block:
            tiled = torch.nn.functional.pad(w.reshape(parts, rows, cols), (0, -cols % BLOCK, 0, -rows % BLOCK))
            tiled = tiled.reshape(parts, blocks(rows), BLOCK, blocks(cols), BLOCK)
            blockwise[e] = (tiled.abs().amax((2, 4)) / 448).reshape(parts * blocks(rows), -1)
            codes = tiled / blockwise[e].reshape(parts, blocks(rows), 1, blocks(cols), 1)
            codes = codes.reshape(parts, blocks(rows) * BLOCK, -1)[:, :rows, :cols]
            data[e] = codes.reshape(parts * rows, cols).clamp(-448, 448).to(FP8)
        else:
            scale[e] = scale_reference(w) if kind is Fp8Channel else w.abs().max() / 448
            data[e] = (w / scale[e][:, None]).clamp(-448, 448).to(FP8)
    if kind is Fp8Channel:
        return Fp8Channel(data, scale)
    if kind is Fp8Static:
        return Fp8Static(data, scale, input_scales=torch.tensor([0.02, 0.01], device=CUDA))
    return Fp8Block(data, blockwise) if kind is Fp8Block else Bf16(data)


@dataclasses.dataclass
class GpuLayer:
    """Weights of one layer on the GPU and its workspace."""

    shape: LayerShape
    gate_up: Weights
    down: Weights
    workspace: MoeWorkspace

    @classmethod
    def make(cls, kind: type, shape: LayerShape, max_tokens: int) -> GpuLayer:
        gate_up = random_weights(kind, shape.experts, 2, shape.intermediate, shape.hidden)
        down = random_weights(kind, shape.experts, 1, shape.hidden, shape.intermediate)
        return cls(shape, gate_up, down, moe_workspace(max_tokens, shape.top_k, gate_up, down))

    def __call__(
        self,
        rows: Rows,
        *,
        out: torch.Tensor | None = None,
        rows_in_use: torch.Tensor | None = None,
        tiles: Tiles | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """out and flags; out is filled with NaN beforehand."""
        if out is None:
            out = torch.full_like(rows.x, torch.nan)
        flags = torch.ones((len(rows.x),), dtype=torch.bool, device=CUDA)
        moe(
            rows.x, rows.ids, rows.weights, self.gate_up, self.down,
            workspace=self.workspace, out=out, flags=flags, rows_in_use=rows_in_use, tiles=tiles,
        )  # fmt: skip
        return out, flags


@dataclasses.dataclass
class Rows:
    """Tokens with their routing: x (T, H) bf16, ids (T, K) int32, weights (T, K) f32."""

    x: torch.Tensor
    ids: torch.Tensor
    weights: torch.Tensor

    @classmethod
    def draw(cls, shape: LayerShape, tokens: int, routing: str = "uniform", seed: int = 0) -> Rows:
        generator = torch.Generator().manual_seed(seed)
        on_device = torch.Generator(CUDA).manual_seed(seed)
        ids = ROUTINGS[routing](tokens, shape.experts, shape.top_k, generator).to(CUDA)
        x = torch.randn((tokens, shape.hidden), generator=on_device, device=CUDA).bfloat16()
        weights = torch.rand((tokens, shape.top_k), generator=on_device, device=CUDA)
        return cls(x, ids, weights / weights.sum(-1, keepdim=True))

    def __getitem__(self, at: slice | torch.Tensor) -> Rows:
        return Rows(self.x[at], self.ids[at], self.weights[at])
