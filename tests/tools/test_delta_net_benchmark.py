"""Which of a peer's times a row of the table of Gated DeltaNet is beside."""

from __future__ import annotations

import torch
from benchmarks.delta_net import CHUNKS, SHAPE, beside, by_key_head

from octavo.ops.delta_net.layer import by_kind

PEER = {"us": {"decode, 8 requests": [20.0, 10.0, 30.0], "prefill 8 x 1001": [400.0]}}
OTHER = {"us": {"decode, 8 requests": [16.0]}}


def test_a_peer_decodes_alike_at_every_row() -> None:
    names = [name for name in CHUNKS if name.startswith("decode, 8 ")]
    assert len(names) == 2
    for name in names:
        assert beside(name, 10.0, [PEER, OTHER]) == ["20.0", "16.0", "0.62"]


def test_no_row_takes_the_time_of_another() -> None:
    assert beside("prefill 8 x 1001", 500.0, [PEER, OTHER]) == ["400.0", "", "1.25"]
    assert beside("prefill 8 x 1001, 3 stages", 500.0, [PEER]) == ["400.0", "1.25"]
    assert beside("prefill 8 x 1001 beside 64 decodes", 500.0, [PEER]) == ["", ""]
    assert beside("decode, 8", 500.0, [PEER]) == ["", ""]
    assert beside("decode, 8 requests, row 8 of 16", 500.0, []) == []


def test_inputs_by_key_head_are_the_same() -> None:
    drawn = torch.Generator().manual_seed(1)
    qkv, write, decay = (torch.randn((3, width), generator=drawn) for width in (SHAPE.channels, 32, 32))
    found, logits = by_kind(*_split(by_key_head(qkv, write, decay)), SHAPE)
    assert torch.equal(found, qkv)
    assert torch.equal(logits[0], write)
    assert torch.equal(logits[1], decay)


def _split(inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    return inputs[0], inputs[1:]
