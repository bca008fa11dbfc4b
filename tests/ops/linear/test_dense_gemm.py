"""One product against float64, per row, and a row's bits at every number of rows and tile."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import pytest
import torch

from cases import exact_fp8, powers_of_two, to_device
from compare import assert_rows, row_errors, tolerance
from memory import Guard
from octavo.errors import KernelContractError
from octavo.ops.activations import FP8, GroupScaled, StaticScaled, TokenScaled, Unscaled, blocks
from octavo.ops.experts.grouped_gemm import STEP, PersistentTile
from octavo.ops.formats import Bf16, Fp8Block, Fp8Channel, Fp8Static, LinearWeight
from octavo.ops.linear.choice import PERSISTENT_ITEMS, choose_block_tile, choose_tile, is_for_persistent
from octavo.ops.linear.cuda import KernelLinear
from octavo.ops.linear.dense_gemm import AnyTile, DenseTile, EarlyTile, dense_gemm
from octavo.ops.linear.reference import dense_gemm_reference, linear_reference
from octavo.ops.persistent import runs_persistent_kernels

SHAPES = [(80, 128), (64, 192), (200, 72), (1, 256), (300, 300)]
"""N, K: columns and steps that do not fill the last tile."""
TILES = [
    DenseTile(16, 64, 4, 4),
    DenseTile(32, 128, 4, 3),
    DenseTile(64, 64, 4, 3, tma=True),
    DenseTile(128, 128, 8, 3),
]
LONG_STEPS = [
    DenseTile(16, 64, 4, 3, step_factor=2),
    DenseTile(64, 64, 4, 3, tma=True, step_factor=4),
    DenseTile(128, 128, 8, 2, step_factor=2),
]
"""Not for scales per block."""
each_kind = pytest.mark.parametrize("kind", [Fp8Channel, Fp8Static, Fp8Block, Bf16], ids=lambda kind: kind.__name__)


@dataclasses.dataclass
class Case:
    """A product on the device."""

    x: TokenScaled | StaticScaled | GroupScaled | Unscaled
    w: LinearWeight

    @classmethod
    def draw(cls, kind: type, rows: int, columns: int, width: int, device: torch.device, *, bias: bool = False) -> Case:
        noise = torch.Generator().manual_seed(rows + columns + width)
        x, w = (exact_fp8((n, width), noise) for n in (rows, columns))
        scales = [powers_of_two((n,), noise, -6, -3) for n in (rows, columns)]
        added = exact_fp8((columns,), noise).bfloat16().to(device) if bias else None
        if kind is Fp8Channel:
            scaled = TokenScaled(x.to(device), scales[0].to(device))
            return cls(scaled, Fp8Channel(w.to(device), scales[1].to(device), added))
        if kind is Fp8Static:
            inputs = torch.tensor([2.0**-9, 2.0**-7, 2.0**-8], device=device)
            static = Fp8Static(w.to(device), scales[1].to(device), added, input_scales=inputs)
            return cls(StaticScaled(x.to(device), static.input_scale), static)
        if kind is Fp8Block:
            grid = [powers_of_two((n, blocks(width)), noise, -6, -3).to(device) for n in (rows, blocks(columns))]
            return cls(GroupScaled(x.to(device), grid[0]), Fp8Block(w.to(device), grid[1], added))
        halves = [(side.float() / 16).bfloat16().to(device) for side in (x, w)]
        return cls(Unscaled(halves[0]), Bf16(halves[1], added))

    def rows(self, some: slice) -> Case:
        match self.x:
            case TokenScaled(data, scale):
                return Case(TokenScaled(data[some], scale[some]), self.w)
            case StaticScaled(data, scale):
                return Case(StaticScaled(data[some], scale), self.w)
            case GroupScaled(data, scale):
                return Case(GroupScaled(data[some], scale[some]), self.w)
            case Unscaled(data):
                return Case(Unscaled(data[some]), self.w)

    def run(self, tile: AnyTile | None = None, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        guard = Guard(self.w.data.device)
        out = guard.empty((len(self.x.data), len(self.w.data)), dtype)
        x, w = guard.rebuild_copy(self.x), guard.rebuild_copy(self.w)
        if out.is_cuda:
            torch.cuda.synchronize()  # weights must be complete before the kernel before begins, and the copies are that one
        dense_gemm(x, w, out=out, tile=tile)
        guard.check()
        return out


@each_kind
@pytest.mark.parametrize(("columns", "width"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_against_float64(kind: type, columns: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
    case = Case.draw(kind, 37, columns, width, device, bias=True)
    out = case.run(dtype=dtype)
    assert_rows(out, dense_gemm_reference(case.x, case.w), tolerance(device))
    # 256 in FP8, beside which a bias is little.
    breaks: list[Callable[[], object]] = [lambda: case.x.data[5].view(torch.uint8).fill_(0x78)]
    if case.w.bias is not None and columns > 1:
        bias = case.w.bias
        breaks.append(lambda: bias[columns // 2].add_(64))
    for number, change in enumerate(breaks):
        change()
        errors = row_errors(out, dense_gemm_reference(case.x, case.w))
        assert float(errors[5 if number == 0 else 0]) > tolerance(device)


@each_kind
def test_any_number_of_rows_and_any_tile(kind: type, device: torch.device) -> None:
    noise = torch.Generator().manual_seed(1)
    case = Case.draw(kind, 300, 80, 592, device)
    for side in (case.x, case.w):  # numbers whose sums round
        side.data.copy_(torch.randn(side.data.shape, generator=noise).to(side.data.dtype))
    whole = case.run(dtype=torch.float32)
    for tile in TILES if kind is Fp8Block else [*TILES, *LONG_STEPS]:
        assert torch.equal(case.run(tile, torch.float32), whole), tile
    for some in (slice(0, 1), slice(7, 8), slice(299, 300), slice(3, 20), slice(40, 105), slice(0, 128)):
        assert torch.equal(case.rows(some).run(dtype=torch.float32), whole[some]), some


@each_kind
def test_a_bad_row_stays_alone(kind: type, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(2)
    case = Case.draw(kind, 1, 80, 128, device)
    layer = KernelLinear(case.w)
    x = torch.randn((20, 128), generator=generator).bfloat16().to(device)
    expected = layer(x)
    assert_rows(expected, linear_reference(x.cpu(), to_device(case.w, torch.device("cpu"))), 2 * tolerance(device))
    x[7, 3] = torch.nan
    out = layer.float32(x)
    assert out[7].isnan().all()
    good = [row for row in range(20) if row != 7]
    assert torch.equal(out[good].bfloat16(), expected[good])


@each_kind
def test_no_rows(kind: type, device: torch.device) -> None:
    assert KernelLinear(Case.draw(kind, 1, 80, 128, device).w)(
        torch.empty((0, 128), dtype=torch.bfloat16, device=device)
    ).shape == (0, 80)


@pytest.mark.parametrize("rows", [1, 16, 17, 32, 33, 64, 65, 256, 257, 10**6])
def test_every_choice_can_run(rows: int) -> None:
    assert choose_block_tile(rows).reasons_against(gated=False, step_bytes=128) == []
    shapes = itertools.product((1, 128, 5120, 151936), (64, 128, 300, 2048, 4096), (FP8, torch.bfloat16))
    for columns, width, kind in shapes:
        tile = choose_tile(rows, columns, width // STEP[kind], kind.itemsize)
        assert tile.reasons_against(gated=False, step_bytes=STEP[kind] * kind.itemsize) == []
        assert tile.step_factor == 1 or tile.step_factor * STEP[kind] <= width


def test_contract(device: torch.device) -> None:
    fp8, plain = (Case.draw(kind, 3, 80, 72, device) for kind in (Fp8Channel, Bf16))
    with pytest.raises(KernelContractError, match="TokenScaled"):
        Case(plain.x, fp8.w).run()
    with pytest.raises(KernelContractError, match=r"x\.data: .*K=72"):
        Case(Unscaled(plain.x.data[:, :64].contiguous()), plain.w).run()
    with pytest.raises(KernelContractError, match="use a tile that needs no bulk copies"):
        fp8.run(DenseTile(16, 64, 4, 4, tma=True))
    with pytest.raises(KernelContractError, match="rows 48"):
        fp8.run(DenseTile(48, 64, 4, 4))
    with pytest.raises(KernelContractError, match="step_factor 3"):
        fp8.run(DenseTile(16, 64, 4, 4, step_factor=3))
    with pytest.raises(KernelContractError, match="early 4: use an EarlyTile"):
        fp8.run(DenseTile(16, 64, 4, 2, tma=True, early=4))
    with pytest.raises(KernelContractError, match="max_halvings"):
        fp8.run(DenseTile(32, 64, 4, 4, max_halvings=1))


def test_tiles_for_hopper_are_refused_with_every_reason(device: torch.device) -> None:
    """Where kernels are interpreted, and of products that they cannot make."""
    plain, fp8 = Case.draw(Bf16, 3, 80, 72, device, bias=True), Case.draw(Fp8Channel, 3, 512, 256, device)
    with pytest.raises(KernelContractError, match=r"Bf16.*K 72.*80 columns.*w\.bias.*out torch\.float32"):
        plain.run(PersistentTile(), torch.float32)
    with pytest.raises(KernelContractError, match="16 bytes of K past whole steps of 128: use a DenseTile"):
        plain.run(EarlyTile(16, 1))
    if not runs_persistent_kernels(device):
        for tile in (PersistentTile(), EarlyTile(16, 1)):
            with pytest.raises(KernelContractError, match=r"cpu: use a DenseTile where.*capability 9\.0"):
                fp8.run(tile)


@pytest.mark.parametrize("kind", [Fp8Channel, Fp8Static, Fp8Block, Bf16], ids=lambda kind: kind.__name__)
def test_products_of_many_items_are_for_persistent_tiles(kind: type) -> None:
    """Of 128 rows and 256 columns each, of as many rows as the largest power of two below has."""
    for rows, columns in itertools.product((2, 129, 1024, 1025, 8192, 8193), (80, 2048, 5120, 12288)):
        items = (2 ** math.ceil(math.log2(rows) - 1) + 127) // 128 * (columns // 256)
        assert is_for_persistent(kind.__name__, rows, columns) == (items >= PERSISTENT_ITEMS.get(kind.__name__, 10**9))
    assert not is_for_persistent(kind.__name__, 1, 12288)


@pytest.mark.parametrize("kind", ["Fp8Channel", "Fp8Static", "Fp8Block"])
@pytest.mark.parametrize("columns", [512, 2048, 5120, 9216, 10240, 16384, 40000])
def test_no_tile_is_chosen_only_between_two_powers_of_two(kind: str, columns: int) -> None:
    """A start compiles what these need (`load_kernels`)."""

    def tile(rows: int) -> object:
        if is_for_persistent(kind, rows, columns):
            return PersistentTile()
        return choose_block_tile(rows) if kind == "Fp8Block" else choose_tile(rows, columns, 64, 1)

    visited = {tile(1 << power) for power in range(14)}
    assert {rows for rows in range(1, 8193) if tile(rows) not in visited} == set()


def test_a_wrong_block_of_scales_shows(device: torch.device) -> None:
    """The twin: one block of weights takes its neighbour's scale along K, or along N."""
    case = Case.draw(Fp8Block, 5, 300, 300, device)
    out = case.run()
    assert isinstance(case.w, Fp8Block)
    for other in ((1, 2), (2, 1)):
        scale = case.w.scale.clone()
        scale[1, 1] = 2 * scale[1, 1] if scale[other] == scale[1, 1] else scale[other]
        changed = dataclasses.replace(case.w, scale=scale)
        assert row_errors(out, dense_gemm_reference(case.x, changed)).max() > tolerance(device)


def test_a_tile_of_two_blocks_is_refused(device: torch.device) -> None:
    case = Case.draw(Fp8Block, 5, 300, 256, device)
    with pytest.raises(KernelContractError, match=r"tile\.cols"):
        case.run(DenseTile(16, 256, 8, 3))
    with pytest.raises(KernelContractError, match=r"tile\.step_factor"):
        case.run(DenseTile(16, 64, 4, 3, step_factor=2))
