"""Steps as CUDA graphs: the launches of a size are recorded once, and replayed on other numbers."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from octavo.models.decoder.model import DecoderPlan
from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.ops.attention.layer import AttentionPlan
from octavo.ops.attention.plan import FEW_ROWS, PagedPlan
from octavo.ops.attention.plan_buffers import ANY, DECODES, SPLIT_DECODES, Lists, PlanBuffers
from octavo.ops.delta_net.plan_buffers import DeltaPlanBuffers
from octavo.ops.padded_buffer import Filling, PaddedBuffer, fill
from octavo.ops.upload import upload
from octavo.worker.planned_model import PlannedModel

log = logging.getLogger(__name__)

MOST_TOKENS = 8192
"""Of a graph. Launched kernel by kernel, steps of 8,192 tokens took 79 to 112 ms on an H200 for 72 ms of kernels."""

ROOM_BYTES = 512 << 20
"""Of the device that graphs leave free. The driver keeps some megabytes for each, which torch's allocator does not count."""

HEAD_ROWS = 16
"""Most rows of a graph of decodes that ends with their logits: so few may wait for the host, for which another launch costs more than a graph that is longer."""

Replay = Callable[[], object]
Capture = Callable[[Replay], Replay | None]
"""From what launches to what launches the same again, on the same memory; None where there is no room for it."""


def graph_sizes(most: int) -> list[int]:
    """Numbers of tokens that get a graph: 1, 2, 4, 8, then four for each doubling, all up to `most`.

    A step takes the next larger one. What that adds are rows that do nothing in attention and experts.
    """
    sizes = [1, 2, 4, 8, 16, 24, 32]
    while sizes[-1] < most:
        sizes += [sizes[-1] + quarter * sizes[-1] // 4 for quarter in (1, 2, 3, 4)]
    return [size for size in sizes if size < most] + [most] * (most > 0)


class Kind(NamedTuple):
    """Of a graph."""

    size: int
    """Most tokens."""
    lists: Lists
    """Those of attention that may have lines."""
    is_narrow: bool = False
    """The last layer computes the rows that are wanted alone, at most as many as there may be requests."""
    only_singles: bool = False
    """For recurrent layers every chunk is a single row, and nothing is launched for others."""

    @property
    def has_head(self) -> bool:
        """The logits of all rows are computed."""
        return self.size <= HEAD_ROWS and self.lists != ANY


class CudaCapture:
    """Records graphs that share one pool of memory, as only one runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def __call__(self, launch: Replay) -> Replay | None:
        """A graph of what `launch` launches; it is not run. What it allocates is reused by the next. None: ROOM_BYTES are not free."""
        if torch.cuda.mem_get_info()[0] < ROOM_BYTES:
            return None
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                launch()
            finally:
                graph.capture_end()
        return graph.replay


class GraphedModel:
    """`model` on CUDA; steps of up to the largest of `sizes` tokens are graphs, larger ones launch as they go.

    Both run the same kernels on the same rows, so a row's bits are the same. A graph is of a `Kind`; it is recorded when it is first
    needed or by `prepare_next`. Once there is no room for another, steps that have no graph launch as they go.

    Args:
        model: its forward pass; its plans are `PagedPlan`s unless there are no sizes.
        kv_cache: the only one that it will be called with; written.
        max_chunks: most requests in a step.
        columns: of the block tables.
        sizes: numbers of tokens, ascending.
        capture: what makes graphs.
    """

    def __init__(
        self,
        model: PlannedModel,
        kv_cache: KVCache,
        *,
        max_chunks: int,
        columns: int,
        sizes: Sequence[int],
        capture: Capture,
    ) -> None:
        self._model, self._kv_cache = model, kv_cache
        self._device = kv_cache.device
        self._sizes, self._capture = list(sizes), capture
        self._graphs: dict[Kind, Replay] = {}
        self._is_full = False
        most = max(sizes, default=0)
        decodes = sizes[: bisect.bisect_left(sizes, max_chunks) + 1]
        self._most_decodes = max(decodes, default=0)
        self._inputs = Inputs(most, min(max_chunks, most), columns, self._device)
        nothing = self._plan_all(self._nothing()) if sizes else None
        self._most_outputs = 0 if nothing is None else FEW_ROWS // paged(nothing.all_rows).shared
        """Of a request in a narrow graph: their tiles are small ones, which alone it has lists for."""
        self._kinds = [Kind(size, ANY, self._is_narrow(size)) for size in reversed(sizes)]
        """Of the graphs that steps need most, those first whose memory serves the others; not of steps with scores of prompts' tokens."""
        is_recurrent = nothing is not None and nothing.delta is not None
        for only_singles in (True, False) if is_recurrent else (False,):
            kinds = itertools.product((SPLIT_DECODES, DECODES), reversed(decodes))
            self._kinds += [Kind(size, lists, only_singles=only_singles) for lists, size in kinds]
        self._hidden = torch.empty((most, model.hidden_size), dtype=torch.bfloat16, device=self._device)
        self._logits = torch.empty((0, 0), device=self._device)
        """(HEAD_ROWS, V) float32, from the first graph on that has a head."""
        self._with_logits: torch.Tensor | None = None
        """What `forward` gave last, if `_logits` are its."""

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """See `Model`."""
        assert kv_cache is self._kv_cache, "graphs are bound to one cache"
        self._with_logits = None
        count = len(batch.token_ids)
        where = bisect.bisect_left(self._sizes, count)
        if where == len(self._sizes):
            return self._launch(batch)
        size = self._sizes[where]
        plan = self._plan(batch, size)
        kind = self._kind(size, plan)
        if kind not in self._graphs and not self._record(kind):
            return self._launch(batch)
        self._inputs.fill(batch, plan, size)
        self._graphs[kind]()
        if plan.output_rows is not None:
            return self._hidden[: len(plan.output_rows)]
        wanted = batch.output_rows()
        if wanted is not None:
            return self._hidden.index_select(0, upload(wanted, self._device))
        hidden = self._hidden[:count]
        self._with_logits = hidden if kind.has_head else None
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Model`; of what `forward` gave last until its next call."""
        return self._logits[: len(hidden)] if hidden is self._with_logits else self._model.logits(hidden)

    @torch.inference_mode()
    def prepare_next(self) -> bool:
        """Record one graph that is not recorded yet; False if there is none, or no room."""
        kind = next((kind for kind in self._kinds if kind not in self._graphs), None)
        return kind is not None and self._record(kind)

    def _launch(self, batch: ForwardBatch) -> torch.Tensor:
        return self._model.forward(batch.to(self._device), self._kv_cache)

    def _kind(self, size: int, plan: DecoderPlan) -> Kind:
        """Of the graph for a step of `plan`; only decodes have graphs without kernels that have nothing to do, so that there are few kinds."""
        is_narrow = plan.output_rows is not None
        lists = ANY if is_narrow or size > self._most_decodes else Lists.of(paged(plan.all_rows))
        return Kind(size, lists, is_narrow, lists != ANY and plan.delta is not None and plan.delta.only_singles)

    def _is_narrow(self, size: int) -> bool:
        """Whether graphs of `size` tokens compute the last layer of wanted rows alone, where each request wants one."""
        return bool(self._most_outputs) and size > self._inputs.most_outputs

    def _plan(self, batch: ForwardBatch, size: int) -> DecoderPlan:
        """For a graph of `size` tokens: with the rows that are wanted, if it is narrow, else of all."""
        counts = batch.output_counts
        if (
            counts is not None
            and self._is_narrow(size)
            and sum(counts) <= self._inputs.most_outputs
            and max(counts, default=0) <= self._most_outputs
        ):
            return self._model.plan(batch, self._kv_cache)
        return self._plan_all(batch)

    def _plan_all(self, batch: ForwardBatch) -> DecoderPlan:
        return self._model.plan(dataclasses.replace(batch, output_counts=None), self._kv_cache)

    def _nothing(self) -> ForwardBatch:
        """A step without rows."""
        nothing = torch.empty(0, dtype=torch.int64)
        return ForwardBatch(
            nothing, nothing, nothing, torch.empty((0, self._inputs.columns), dtype=torch.int32), (0,), ()
        )

    def _record(self, kind: Kind) -> bool:
        """Run a step without rows, so that its kernels are loaded, and record it if there is room: a step with rows would move states
        twice."""
        if self._is_full:
            return False
        empty = self._nothing()
        plan = self._plan_all(empty)
        wanted = torch.empty(0, dtype=torch.int64) if kind.is_narrow else None
        self._inputs.fill(empty, dataclasses.replace(plan, output_rows=wanted), kind.size)
        batch, plan = self._inputs.of(kind)
        if kind.has_head and not len(self._logits):
            width = self._model.logits(self._hidden[:1].zero_()).shape[1]
            with torch.inference_mode(False):  # it may be recorded in that mode, and filled outside of it
                self._logits = torch.empty((HEAD_ROWS, width), device=self._device)

        def launch() -> None:
            hidden = self._model.compute(batch, plan, self._kv_cache)
            self._hidden[: len(hidden)].copy_(hidden)
            if kind.has_head:
                self._logits[: kind.size].copy_(self._model.logits(self._hidden[: kind.size]))

        launch()
        replay = self._capture(launch)
        if replay is None:
            self._is_full = True
            log.warning(
                "less than %d MiB of the device are free: %d of %d graphs are recorded, other steps launch kernel by kernel, which is "
                "slower; lower gpu_memory_utilization",
                ROOM_BYTES >> 20,
                len(self._graphs),
                len(self._kinds),
            )
            return False
        self._graphs[kind] = replay
        log.debug("graph captured: %s", kind)
        return True


def paged(plan: AttentionPlan) -> PagedPlan:
    """`plan`; others do not fit in memory of a fixed size."""
    assert isinstance(plan, PagedPlan)
    return plan


class Inputs:
    """The device memory that graphs read: a step of up to `rows` tokens in up to `chunks` chunks."""

    def __init__(self, rows: int, chunks: int, columns: int, device: torch.device) -> None:
        self.columns = columns
        self._token_ids, self._positions, self._slot_mapping = (
            PaddedBuffer((rows,), torch.int64, device, filler) for filler in (0, 0, -1)
        )
        self._rows_in_use = PaddedBuffer((1,), torch.int32, device, 0)
        self._plans = PlanBuffers(rows, chunks, columns, device)
        self.most_outputs = chunks
        """Of a narrow graph."""
        self._output_rows = PaddedBuffer((chunks,), torch.int64, device, 0)
        self._outputs_in_use = PaddedBuffer((1,), torch.int32, device, 0)
        self._outputs = PlanBuffers(chunks, chunks, columns, device)
        self._delta = DeltaPlanBuffers(rows, chunks, device)
        self._is_recurrent = False

    def fill(self, batch: ForwardBatch, plan: DecoderPlan, size: int) -> None:
        """Put a step of all its rows, its tensors on the host, in the memory of a graph of `size` tokens."""
        fillings = [
            Filling(self._token_ids, batch.token_ids, size),
            Filling(self._positions, batch.positions, size),
            # a row without a token must not write to anybody's slot
            Filling(self._slot_mapping, batch.slot_mapping, size),
            Filling(self._rows_in_use, torch.tensor([len(batch.token_ids)], dtype=torch.int32), 1),
            *self._plans.fillings(paged(plan.all_rows)),
        ]
        if plan.output_rows is not None:
            in_use = torch.tensor([len(plan.output_rows)], dtype=torch.int32)
            fillings += [
                Filling(self._output_rows, plan.output_rows, self.most_outputs),
                Filling(self._outputs_in_use, in_use, 1),
                *self._outputs.fillings(paged(plan.outputs)),
            ]
        self._is_recurrent = plan.delta is not None
        if plan.delta is not None:
            fillings += self._delta.fillings(plan.delta)
        fill(fillings)
        if batch.device_tokens is not None:
            batch.device_tokens.write_to(self._token_ids.device)

    def of(self, kind: Kind) -> tuple[ForwardBatch, DecoderPlan]:
        """The memory of a graph as the batch and the plan that a model takes."""
        size, plan = kind.size, self._plans.plan(kind.size, kind.lists)
        batch = ForwardBatch(
            token_ids=self._token_ids.device[:size],
            positions=self._positions.device[:size],
            slot_mapping=self._slot_mapping.device[:size],
            block_tables=plan.tables,
            chunk_starts=(0, size),
            context_lens=(size,),
            rows_in_use=self._rows_in_use.device,
        )
        delta = self._delta.plan(size, only_singles=kind.only_singles) if self._is_recurrent else None
        if not kind.is_narrow:
            return batch, DecoderPlan(plan, None, plan, delta)
        outputs = self._outputs.plan(self.most_outputs, SPLIT_DECODES)
        return batch, DecoderPlan(plan, self._output_rows.device, outputs, delta, self._outputs_in_use.device)
