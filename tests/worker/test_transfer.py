"""Results on their way to the host: the same bits, and nothing that is not theirs."""

from __future__ import annotations

import pytest
import torch

from octavo.worker import transfer
from octavo.worker.transfer import MISSING, Download


def test_bits_shapes_and_order_are_kept() -> None:
    odd = torch.tensor([0.0, -0.0, float("inf"), float("nan"), 1e-45, -3.5]).view(2, 3)
    sent = [torch.tensor([True, False]), torch.tensor([[0, 2**20 - 1]]), odd, torch.empty(0, dtype=torch.int64)]
    got = Download(sent).tensors()
    for ours, theirs in zip(sent, got, strict=True):
        assert (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype)
    assert torch.equal(got[0], sent[0])
    assert torch.equal(got[1], sent[1])
    assert torch.equal(got[2].view(torch.int32), odd.view(torch.int32))


def test_nothing_but_empty_tensors() -> None:
    got = Download([torch.empty((0, 3)), torch.empty(0, dtype=torch.bool)]).tensors()
    assert [(tensor.shape, tensor.dtype) for tensor in got] == [((0, 3), torch.float32), ((0,), torch.bool)]


@pytest.mark.parametrize("place", [0, 2, 4])
def test_what_no_copy_has_written_is_no_result(place: int) -> None:
    """The twin: one element of the host's memory is as it was before the copy."""
    download = Download([torch.arange(5)])
    download._packed[place] = MISSING
    with pytest.raises(RuntimeError, match="did not arrive"):
        download.tensors()


@pytest.mark.parametrize("bits", [-(2**31), 2**31 - 1, -1])
def test_no_float_looks_like_what_is_missing(bits: int) -> None:
    number = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    assert int(transfer._to_int64(number)) != MISSING
