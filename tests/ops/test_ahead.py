"""What a product asks for beside its own weights: which bytes of a matrix, for how many rows, and what is refused."""

from __future__ import annotations

import pytest
import torch

from octavo.errors import KernelContractError
from octavo.ops.ahead import MOST_BYTES, UNIT, Ahead
from octavo.ops.formats import Bf16
from octavo.ops.linear.dense_gemm import dense_gemm
from ops.linear.test_dense_gemm import Case


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e4m3fn, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("first", [0, 1, 5])
@pytest.mark.parametrize("numbers", [1, 15, 16, 300, 4096])
def test_whole_units_inside_the_matrix(dtype: torch.dtype, first: int, numbers: int) -> None:
    matrix = torch.zeros(first + numbers, dtype=dtype)[first:].view(1, numbers)
    data = Ahead.of(matrix).data
    begin, end = matrix.data_ptr(), matrix.data_ptr() + matrix.nbytes
    assert len(data) % UNIT == 0
    assert not len(data) or data.data_ptr() % UNIT == 0
    assert not len(data) or begin <= data.data_ptr() <= data.data_ptr() + len(data) <= end
    assert matrix.nbytes - len(data) < 2 * UNIT


def test_a_large_matrix_is_asked_for_in_part() -> None:
    matrix = torch.empty((2, MOST_BYTES), dtype=torch.uint8)
    assert len(Ahead.of(matrix).data) == MOST_BYTES
    assert Ahead.of(matrix).data.data_ptr() == matrix.data_ptr() + -matrix.data_ptr() % UNIT


def test_the_number_of_rows_decides() -> None:
    matrix = torch.empty((1, 256), dtype=torch.uint8)
    everything = len(Ahead.of(matrix).data)
    for rows in range(1, 200):
        assert Ahead.of(matrix).bytes_for(rows) == everything
        assert Ahead.of(matrix, fewest=16).bytes_for(rows) == (everything if rows >= 16 else 0)
        assert Ahead.of(matrix, most=4).bytes_for(rows) == (everything if rows <= 4 else 0)


def test_contract(device: torch.device) -> None:
    case = Case.draw(Bf16, 3, 80, 72, device)
    out = torch.empty((3, 80), dtype=torch.bfloat16, device=device)
    data = torch.empty(64, dtype=torch.uint8, device=device)
    own = dense_gemm(case.x, case.w, out=out, ahead=Ahead(data[16:])).clone()
    assert torch.equal(dense_gemm(case.x, case.w, out=out), own)
    for wrong in (data[:63], data[1:49], data.view(2, 32), data.view(torch.int32), data[::2], data.to("meta")):
        with pytest.raises(KernelContractError, match=r"ahead: .*Ahead\.of"):
            dense_gemm(case.x, case.w, out=out, ahead=Ahead(wrong))
    with pytest.raises(KernelContractError, match=r"len\(ahead\.data\)"):
        dense_gemm(case.x, case.w, out=out, ahead=Ahead(torch.empty(MOST_BYTES + 16, dtype=torch.uint8, device=device)))
