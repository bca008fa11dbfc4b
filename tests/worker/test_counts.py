"""The table of token counts."""

from __future__ import annotations

from pathlib import Path

import torch

from octavo.ops.adjust import IN_PROMPT
from octavo.worker.sampling.counts import TokenCounts


def resident_mib() -> float:
    """Of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def test_on_a_cpu_a_slot_takes_memory_once_its_request_has_penalties() -> None:
    """1024 slots and a vocabulary of 2^18: 1 GiB if all had."""
    before = resident_mib()
    counts = TokenCounts(1024, 2**18, torch.device("cpu"))
    counts.begin(1023, [2**18 - 1, 5], [5])
    counts.add(torch.tensor([1023]), torch.tensor([0]))
    assert resident_mib() - before < 256
    assert counts.table[1023, [0, 1, 5, 2**18 - 1]].tolist() == [1, 0, IN_PROMPT + 1, IN_PROMPT]
    assert not counts.table[0].any()
