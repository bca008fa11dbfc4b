"""The persistent kernel of attention where there is no Hopper: it compiles, spills nothing, and is asked for where it can run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from octavo.ops.attention import persistent
from octavo.ops.attention.persistent import takes_persistent_kernel
from octavo.ops.attention.plan import WORK, PagedPlan
from ops.attention.persistent_launches import SHARED
from ops.hopper import compiled_by, spills


def test_it_compiles_without_spills(tmp_path: Path) -> None:
    compiled = compiled_by("ops.attention.persistent_launches", tmp_path)
    assert sorted(compiled) == sorted(SHARED)
    for names in compiled.values():
        # of two consumers: scores of the first tile and in the loop, 8 each, values and sums of weights in the loop and behind it
        assert names.count("HGMMA") == 2 * (2 * 8 + 3 * 4 + 2 * 4)
        assert names.count("HMMA") == 0
        assert "UTMALDG" in names
        assert "ACQBULK" in names, "it does not wait for the kernel before"
        assert spills(names) == 0


@dataclasses.dataclass(frozen=True)
class Call:
    """Arguments that the kernel takes, but for the change of a test."""

    heads: int = 32
    kv_heads: int = 4
    width: int = 128
    block_size: int = 64
    dtype: torch.dtype = torch.bfloat16
    blocks: int = 3

    def is_taken(self, *, past_alignment: int = 0) -> bool:
        size = 5 * self.heads * self.width
        room = torch.empty(size + past_alignment, dtype=torch.bfloat16)
        queries = room[past_alignment:].view(5, self.heads, self.width)
        shape = (2, self.blocks, self.block_size, self.kv_heads, self.width)
        cache = torch.empty(shape, dtype=torch.bfloat16).to(self.dtype)
        empty = torch.empty((0, WORK), dtype=torch.int32)
        plan = PagedPlan(
            tables=empty, work=empty, small_work=empty, merges=empty, num_split_results=0, rows=5,
            block_size=self.block_size, shared=self.heads // self.kv_heads,
        )  # fmt: skip
        return takes_persistent_kernel(queries, cache, plan)


@pytest.mark.parametrize(
    ("change", "is_taken"),
    [
        ({}, True),
        ({"block_size": 128}, True),
        ({"heads": 4}, True),
        ({"heads": 64, "kv_heads": 1}, True),
        ({"width": 64}, False),
        ({"width": 256}, False),
        ({"block_size": 16}, False),
        ({"block_size": 96}, False),
        ({"heads": 48}, False),
        ({"heads": 128, "kv_heads": 1}, False),
        ({"dtype": torch.float8_e4m3fn}, False),
        ({"blocks": 0}, False),
    ],
    ids=str,
)
def test_where_it_is_taken(change: dict[str, int], is_taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistent, "runs_persistent_kernels", lambda device: True)
    call = dataclasses.replace(Call(), **change)  # type: ignore[arg-type]
    assert call.is_taken() is is_taken
    assert not call.is_taken(past_alignment=1)
    monkeypatch.setattr(persistent, "runs_persistent_kernels", lambda device: False)
    assert not call.is_taken()
