"""Steps as CUDA graphs: the launches of a size are recorded once, and replayed on other numbers."""

from __future__ import annotations

import bisect
import dataclasses
import logging
from collections.abc import Callable, Sequence

import torch

from octavo.models.decoder.model import DecoderPlan
from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.ops.attention.plan import PagedPlan
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

    Both run the same kernels on the same rows, so a row's bits are the same. A graph is of a size, and of the kernels of attention that
    have anything to do; it is recorded when it is first needed or by `prepare_next`. Once there is no room for another, steps that
    have no graph launch as they go.

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
        self._graphs: dict[tuple[int, Lists], Replay] = {}
        self._is_full = False
        most = max(sizes, default=0)
        decodes = sizes[: bisect.bisect_left(sizes, max_chunks) + 1]
        self._kinds = [(size, ANY) for size in reversed(sizes)]
        """Of all graphs, those first whose memory serves the others."""
        self._kinds += [(size, lists) for lists in (SPLIT_DECODES, DECODES) for size in reversed(decodes)]
        self._inputs = Inputs(most, min(max_chunks, most), columns, self._device)
        self._hidden = torch.empty((most, model.hidden_size), dtype=torch.bfloat16, device=self._device)

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """See `Model`."""
        assert kv_cache is self._kv_cache, "graphs are bound to one cache"
        count = len(batch.token_ids)
        where = bisect.bisect_left(self._sizes, count)
        if where == len(self._sizes):
            return self._launch(batch)
        size = self._sizes[where]
        plan = self._plan(batch)
        kind = size, Lists.of(paged(plan))
        if kind not in self._graphs and not self._record(*kind):
            return self._launch(batch)
        self._inputs.fill(batch, plan, size)
        self._graphs[kind]()
        wanted = batch.output_rows()
        return self._hidden[:count] if wanted is None else self._hidden.index_select(0, upload(wanted, self._device))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """See `Model`."""
        return self._model.logits(hidden)

    @torch.inference_mode()
    def prepare_next(self) -> bool:
        """Record one graph that is not recorded yet; False if there is none, or no room."""
        kind = next((kind for kind in self._kinds if kind not in self._graphs), None)
        return kind is not None and self._record(*kind)

    def _launch(self, batch: ForwardBatch) -> torch.Tensor:
        return self._model.forward(batch.to(self._device), self._kv_cache)

    def _plan(self, batch: ForwardBatch) -> DecoderPlan:
        return self._model.plan(dataclasses.replace(batch, output_counts=None), self._kv_cache)

    def _record(self, size: int, lists: Lists) -> bool:
        """Run a step without rows, so that its kernels are loaded, and record it if there is room: a step with rows would move states
        twice."""
        if self._is_full:
            return False
        nothing = torch.empty(0, dtype=torch.int64)
        tables = torch.empty((0, self._inputs.columns), dtype=torch.int32)
        empty = ForwardBatch(nothing, nothing, nothing, tables, (0,), ())
        self._inputs.fill(empty, self._plan(empty), size)
        batch, plan = self._inputs.of(size, lists)

        def launch() -> None:
            self._hidden[:size].copy_(self._model.compute(batch, plan, self._kv_cache))

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
        self._graphs[size, lists] = replay
        log.debug("graph captured: steps of up to %d tokens, %s", size, lists)
        return True


def paged(plan: DecoderPlan) -> PagedPlan:
    """Of all rows; other plans do not fit in memory of a fixed size."""
    assert isinstance(plan.all_rows, PagedPlan)
    return plan.all_rows


class Inputs:
    """The device memory that graphs read: a step of up to `rows` tokens in up to `chunks` chunks."""

    def __init__(self, rows: int, chunks: int, columns: int, device: torch.device) -> None:
        self.columns = columns
        self._token_ids, self._positions, self._slot_mapping = (
            PaddedBuffer((rows,), torch.int64, device, filler) for filler in (0, 0, -1)
        )
        self._rows_in_use = PaddedBuffer((1,), torch.int32, device, 0)
        self._plans = PlanBuffers(rows, chunks, columns, device)
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
            *self._plans.fillings(paged(plan)),
        ]
        self._is_recurrent = plan.delta is not None
        if plan.delta is not None:
            fillings += self._delta.fillings(plan.delta)
        fill(fillings)
        if batch.device_tokens is not None:
            batch.device_tokens.write_to(self._token_ids.device)

    def of(self, size: int, lists: Lists) -> tuple[ForwardBatch, DecoderPlan]:
        """The memory of a graph of `size` tokens as the batch and the plan, with nothing but in `lists`, that a model takes."""
        plan = self._plans.plan(size, lists)
        batch = ForwardBatch(
            token_ids=self._token_ids.device[:size],
            positions=self._positions.device[:size],
            slot_mapping=self._slot_mapping.device[:size],
            block_tables=plan.tables,
            chunk_starts=(0, size),
            context_lens=(size,),
            rows_in_use=self._rows_in_use.device,
        )
        delta = self._delta.plan(size) if self._is_recurrent else None
        return batch, DecoderPlan(plan, None, plan, delta)
