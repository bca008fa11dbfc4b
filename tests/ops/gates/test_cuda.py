"""Gates as kernels against float64, a row's bits in any batch, and twins with one wrong row, head or block of columns."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from benchmarks.gates import GATES, Gate

from compare import BF16_ROUNDING, assert_rows
from octavo.errors import KernelContractError
from octavo.ops.activations import GroupScaled, Unscaled
from octavo.ops.gates.cpu import CpuGates
from octavo.ops.gates.cuda import KernelGates, add_share, gate_heads, gate_norm, swiglu
from octavo.ops.gates.reference import add_share_reference, heads_reference, norm_reference, swiglu_reference
from octavo.ops.quantize.cuda import quantize_groups

LIMIT = 2 * BF16_ROUNDING
HEADS = [(5, 1, 1), (1, 3, 16), (5, 8, 37), (7, 32, 128), (2, 5, 256)]
"""Rows, heads and the width of a head."""
SIZES = [(1, 1), (5, 37), (3, 1024), (2, 1500)]


def draw(*shape: int, device: torch.device, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    noise = torch.Generator().manual_seed(sum(shape) + seed)
    return (torch.randn(shape, generator=noise) * 3).to(dtype).to(device)


def apart(rows: int, heads: int, width: int, device: torch.device) -> torch.Tensor:
    """Gates whose rows and heads lie apart; what is between them is NaN."""
    room = torch.full((rows, heads, 2, width + 3), torch.nan, dtype=torch.bfloat16, device=device)
    gates = room[:, :, 1, :width]
    return gates.copy_(draw(rows, heads, width, device=device, seed=1))


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int16), b.view(torch.int16))


@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_swiglu(rows: int, width: int, device: torch.device) -> None:
    gate_up = draw(rows, 2 * width, device=device, dtype=torch.float32)
    out = swiglu(gate_up)
    assert_rows(out, swiglu_reference(gate_up), LIMIT)
    assert_rows(CpuGates().swiglu(gate_up), swiglu_reference(gate_up), LIMIT)
    with pytest.raises(AssertionError):
        assert_rows(out, swiglu_reference(gate_up.roll(width, 1)), LIMIT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(("rows", "heads", "width"), HEADS)
def test_norms_and_their_gates(rows: int, heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
    x, gates, weight = (
        draw(rows, heads * width, device=device),
        apart(rows, heads, width, device),
        draw(width, device=device),
    )
    weight = (weight * 0.1 + 1).to(dtype)
    for gate in (KernelGates(), CpuGates()):
        made = gate.norm(x, gates, weight, 1e-6).bf16
        assert_rows(made, norm_reference(x, gates, weight, 1e-6), 2 * LIMIT)
        with pytest.raises(AssertionError):
            assert_rows(made, norm_reference(x, gates.roll(1, 1) * 1.1, weight, 1e-6), 2 * LIMIT)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_gates_in_groups_of_heads(groups: int, device: torch.device) -> None:
    """Groups, and heads in them, lie apart; NaN between them. The bits are those of gates head by head."""
    x, gates, weight = draw(5, 6 * 40, device=device), apart(5, 6, 40, device), draw(40, device=device)
    room = torch.full((5, groups, 6 // groups + 2, 47), torch.nan, dtype=torch.bfloat16, device=device)
    grouped = room[:, :, 1:-1, 3:43].copy_(gates.unflatten(1, (groups, -1)))
    for made in (KernelGates(), CpuGates()):
        right = made.norm(x, gates, weight, 1e-6).bf16
        assert same(made.norm(x, grouped, weight, 1e-6).bf16, right)
        other = grouped.flip(2 if groups < 6 else 1)
        assert not same(made.norm(x, other, weight, 1e-6).bf16, right), "the twin"


@pytest.mark.parametrize(
    ("heads", "width", "scaled"), [(3, 128, True), (2, 256, True), (4, 64, False), (2, 160, False)]
)
def test_gated_rows_in_fp8(heads: int, width: int, scaled: bool, device: torch.device) -> None:
    """The codes and scales that `quantize_groups` makes of the rows in bf16, a row of zeros and one with NaN among them; else bf16."""
    x, gates, weight = (
        draw(21, heads * width, device=device),
        apart(21, heads, width, device),
        draw(width, device=device),
    )
    x[3], x[5, 7] = 0.0, torch.nan
    for call in (functools.partial(gate_norm, x, gates, weight, 1e-6), functools.partial(gate_heads, x, gates)):
        made, rows = call(form=GroupScaled), call(form=Unscaled).bf16
        right = quantize_groups(rows)
        if not scaled:
            assert same(made.bf16, rows)
            continue
        assert made.rows is None
        assert made.scaled is not None
        assert torch.equal(made.scaled.data.view(torch.uint8), right.data.view(torch.uint8))
        assert torch.equal(made.scaled.scale.view(torch.int32), right.scale.view(torch.int32))
        assert right.scale.isnan().sum() in (1, width // 128)
        other = quantize_groups(rows.roll(1, 1))
        assert not torch.equal(made.scaled.data.view(torch.uint8), other.data.view(torch.uint8)), "the twin"


@pytest.mark.parametrize(("rows", "heads", "width"), HEADS)
def test_heads_and_their_gates(rows: int, heads: int, width: int, device: torch.device) -> None:
    x, gates = draw(rows, heads * width, device=device), apart(rows, heads, width, device)
    for made in (KernelGates().heads(x, gates).bf16, CpuGates().heads(x, gates).bf16):
        assert_rows(made, heads_reference(x, gates), LIMIT)
        with pytest.raises(AssertionError):
            assert_rows(made, heads_reference(x, gates * 1.1), LIMIT)


@pytest.mark.parametrize("weighed", [True, False])
@pytest.mark.parametrize(("rows", "width"), SIZES)
def test_a_share_is_added(rows: int, width: int, *, weighed: bool, device: torch.device) -> None:
    x, shared = draw(rows, width, device=device), draw(rows, width, device=device, seed=1)
    logits = draw(rows, 1, device=device, dtype=torch.float32) if weighed else None
    for made in (add_share(x, shared, logits), CpuGates().add_share(x, shared, logits)):
        assert_rows(made, add_share_reference(x, shared, logits), LIMIT)
        with pytest.raises(AssertionError):
            assert_rows(made, add_share_reference(x, shared * 1.1, logits), LIMIT)


@pytest.mark.parametrize("mutant", ["row", "head", "columns"])
@pytest.mark.parametrize("name", ["swiglu", "norm", "heads", "share"])
def test_the_check_sees_one_wrong_part(name: str, mutant: str, device: torch.device) -> None:
    rows, heads, width = 6, 4, 64
    x, gates = draw(rows, heads * width, device=device), draw(rows, heads, width, device=device, seed=1)
    weight, wide = draw(width, device=device), draw(rows, 2 * heads * width, device=device, dtype=torch.float32)
    where = {
        "row": (slice(3, 4), slice(None)),
        "head": (slice(None), slice(width, 2 * width)),
        "columns": (slice(2, 3), slice(32, 48)),
    }[mutant]
    right, wrong = x.clone(), x.clone()
    wrong[where] = 0
    gate_up = wide.clone()
    gate_up[:, heads * width :][where] = 0
    made, expected = {
        "swiglu": lambda: (swiglu(gate_up), swiglu_reference(wide)),
        "norm": lambda: (gate_norm(wrong, gates, weight, 1e-6).bf16, norm_reference(right, gates, weight, 1e-6)),
        "heads": lambda: (gate_heads(wrong, gates).bf16, heads_reference(right, gates)),
        "share": lambda: (add_share(x, wrong, None), add_share_reference(x, right, None)),
    }[name]()
    with pytest.raises(AssertionError):
        assert_rows(made, expected, 2 * LIMIT)


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_what_is_timed_is_right(gate: Gate, device: torch.device) -> None:
    rows = gate.draw(3, device)
    out = gate.call(*rows)
    gate.check(rows, out)
    for wrong in ((1,), (slice(None), slice(0, 128))):
        twin = out.clone()
        twin[wrong] = 0
        with pytest.raises(AssertionError, match="a row differs"):
            gate.check(rows, twin)


def calls(rows: int, device: torch.device) -> dict[str, Callable[[slice], torch.Tensor]]:
    """Each operation on a part of its rows."""
    heads, width = 5, 40
    x, gates, weight = (
        draw(rows, heads * width, device=device),
        apart(rows, heads, width, device),
        draw(width, device=device),
    )
    gate_up, logits = (draw(rows, n, device=device, dtype=torch.float32) for n in (2000, 1))
    return {
        "swiglu": lambda part: swiglu(gate_up[part]),
        "norm": lambda part: gate_norm(x[part], gates[part], weight, 1e-6).bf16,
        "heads": lambda part: gate_heads(x[part], gates[part]).bf16,
        "share": lambda part: add_share(x[part], x.flip(0)[part], logits[part]),
    }


@pytest.mark.parametrize("name", ["swiglu", "norm", "heads", "share"])
def test_a_row_has_the_same_bits_in_any_company(name: str, device: torch.device) -> None:
    call = calls(37, device)[name]
    whole = call(slice(None))
    for part in (slice(0, 1), slice(36, 37), slice(3, 20)):
        assert same(call(part), whole[part])
    assert not same(call(slice(4, 5)), whole[5:6])
    assert call(slice(0, 0)).shape == (0, whole.shape[1])


@pytest.mark.parametrize("name", ["swiglu", "norm", "heads", "share"])
def test_what_is_not_finite_stays_in_its_row(name: str, device: torch.device) -> None:
    rows, width = 6, 48
    x, other = draw(rows, width, device=device), draw(rows, width, device=device, seed=1)
    logits, wide = (
        draw(rows, 1, device=device, dtype=torch.float32),
        draw(rows, 2 * width, device=device, dtype=torch.float32),
    )
    weight = torch.ones(width, dtype=torch.bfloat16, device=device)

    def run() -> torch.Tensor:
        by_name = {
            "swiglu": lambda: swiglu(wide),
            "norm": lambda: gate_norm(x, other[:, None], weight, 1e-6).bf16,
            "heads": lambda: gate_heads(x, other[:, None]).bf16,
            "share": lambda: add_share(x, other, logits),
        }
        return by_name[name]()

    good = run()
    x[3, 7], wide[3, 7] = torch.nan, torch.nan
    bad = run()
    assert bad[3].isnan().any()
    kept = [0, 1, 2, 4, 5]
    assert same(bad[kept], good[kept])


def test_gates_of_any_size_give_what_they_tend_to(device: torch.device) -> None:
    gates = torch.tensor([[-1e30, -200.0, -0.0, 200.0, 1e30]], dtype=torch.bfloat16, device=device)
    x = torch.full_like(gates, 2.0)
    assert gate_heads(x, gates[:, None]).bf16.tolist() == [[0.0, 0.0, 1.0, 2.0, 2.0]]
    gate_up = torch.cat((gates.float(), torch.ones_like(gates).float()), dim=1)
    assert swiglu(gate_up).float().tolist() == [[0.0, 0.0, 0.0, 200.0, gates[0, 4].item()]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: swiglu(x), "gate_up: .*float32.*bfloat16"),
        (lambda x: swiglu(x[:, :3].float()), "without their gate"),
        (lambda x: gate_heads(x, x[:, None].repeat(1, 2, 1).transpose(1, 2)), "gates: .*contiguous"),
        (lambda x: gate_heads(x, x[:2, None]), "x: "),
        (lambda x: gate_norm(x, x[:, None], x[0, :3], 1e-6), "weight: "),
        (lambda x: add_share(x, x[:, :3].contiguous(), None), "shared: "),
        (lambda x: add_share(x, x, x[:, :1].contiguous()), "logits: .*float32"),
        (lambda x: gate_heads(x.repeat(1, 300), x.repeat(1, 300)[:, None]), r"gates.shape\[-1\]: expected 1 to 1024"),
    ],
)
def test_a_wrong_argument_is_named(
    call: Callable[[torch.Tensor], torch.Tensor], words: str, device: torch.device
) -> None:
    with pytest.raises(KernelContractError, match=words):
        call(draw(4, 8, device=device))
