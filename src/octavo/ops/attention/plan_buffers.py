"""The device memory in which graphs read the plan of a step."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch

from octavo.ops.attention.plan import FEW_ROWS, MAX_SPLIT_RESULTS, WORK, PagedPlan
from octavo.ops.padded_buffer import Filling, PaddedBuffer


class Lists(NamedTuple):
    """Which lists of a plan may have lines: nothing is launched for the others."""

    work: bool = True
    small_work: bool = True
    merges: bool = True

    @classmethod
    def of(cls, plan: PagedPlan) -> Lists:
        """For steps of small tiles alone, which are most and short, those that have lines; else all, so that there are few kinds of steps."""
        return ANY if len(plan.work) else SPLIT_DECODES if len(plan.merges) else DECODES


ANY = Lists()
SPLIT_DECODES = Lists(work=False)
DECODES = Lists(work=False, merges=False)


class PlanBuffers:
    """Plans of up to `rows` rows in up to `chunks` chunks with `columns` blocks each, always at the same addresses."""

    def __init__(self, rows: int, chunks: int, columns: int, device: torch.device) -> None:
        self._tables = PaddedBuffer((chunks, columns), torch.int32, device, -1)
        self._work = PaddedBuffer((rows + MAX_SPLIT_RESULTS, WORK), torch.int32, device, -1)
        self._small_work = PaddedBuffer((rows + MAX_SPLIT_RESULTS, WORK), torch.int32, device, -1)
        # a row is merged if it has at least two split results
        self._merges = PaddedBuffer((min(rows, MAX_SPLIT_RESULTS // 2), 4), torch.int32, device, -1)
        self._lines_in_use = PaddedBuffer((3,), torch.int32, device, 0)
        self._plan: PagedPlan | None = None

    def fillings(self, plan: PagedPlan) -> list[Filling]:
        """What puts `plan`, its tensors on the host, in the memory."""
        self._plan = plan
        lines = [len(plan.work), len(plan.small_work), len(plan.merges)]
        parts = (
            (self._tables, plan.tables),
            (self._work, plan.work),
            (self._small_work, plan.small_work),
            (self._merges, plan.merges),
            (self._lines_in_use, torch.tensor(lines, dtype=torch.int32)),
        )
        return [Filling(buffer, values, len(values)) for buffer, values in parts]

    def plan(self, rows: int, lists: Lists) -> PagedPlan:
        """The memory as a plan of `rows` rows that has no lines but in `lists`; how many are in use only the device knows."""
        assert self._plan is not None, "fillings come first"
        lines = rows + MAX_SPLIT_RESULTS
        all_small, none_small = rows * self._plan.shared <= FEW_ROWS, self._plan.shared > FEW_ROWS
        return dataclasses.replace(
            self._plan,
            tables=self._tables.device,
            work=self._work.device[: 0 if all_small or not lists.work else lines],
            small_work=self._small_work.device[: 0 if none_small or not lists.small_work else lines],
            merges=self._merges.device[: rows if lists.merges else 0],
            num_split_results=0,
            rows=rows,
            lines_in_use=self._lines_in_use.device,
        )
