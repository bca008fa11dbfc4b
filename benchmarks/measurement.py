"""The time of a call on a GPU beside the bytes that it must move, and the rates of the card that floors are made of."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

import torch

from octavo.ops.activations import FP8

CUDA = torch.device("cuda")
COLUMNS = ["call", "us", "10th to 90th percentile", "TB/s", "floor, us"]
SIDE = 8192
"""Of the matrices by whose product a card's rates are measured."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Microseconds of one call: the median of the replays, and their 10th and 90th percentile."""

    median: float
    low: float
    high: float


def timer() -> torch.cuda.Event:
    """An event that records when the device reaches it."""
    return torch.cuda.Event(enable_timing=True)


def replay(calls: Sequence[Callable[[], object]], replays: int) -> Timing:
    """Time a graph of `calls`, per call."""
    for call in calls:
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    events = [(timer(), timer()) for _ in range(replays)]
    for _ in range(3):
        graph.replay()
    for start, end in events:
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    times = sorted(start.elapsed_time(end) * 1e3 / len(calls) for start, end in events)
    return Timing(statistics.median(times), times[len(times) // 10], times[len(times) * 9 // 10])


def copy_rate() -> float:
    """Bytes per second, read and written, of a kernel over a large array; a copy in a graph may not be one."""
    source = torch.empty(1 << 28, dtype=torch.int32, device=CUDA).random_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / (replay([lambda: torch.neg(source, out=target)], 20).median * 1e-6)


def fp8_rate() -> float:
    """Operations per second of PyTorch's row-wise FP8 product with fast accumulation at `SIDE` cubed."""
    n = SIDE
    a, b = (torch.randn((n, n), device=CUDA).to(FP8) for _ in range(2))
    one = torch.ones((n, 1), device=CUDA)

    def product() -> torch.Tensor:
        return torch._scaled_mm(a, b.t(), one, one.t(), out_dtype=torch.bfloat16, use_fast_accum=True)

    return 2 * n**3 / (replay([product], 20).median * 1e-6)


def bf16_rate() -> float:
    """Operations per second of PyTorch's product of bf16 at `SIDE` cubed."""
    a, b = (torch.randn((SIDE, SIDE), device=CUDA).bfloat16() for _ in range(2))
    return 2 * SIDE**3 / (replay([lambda: a @ b], 20).median * 1e-6)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Microseconds of a call, and the bytes that it must move."""

    name: str
    timing: Timing
    num_bytes: float

    def row(self, copied_per_s: float) -> list[object]:
        """Cells of the table, of a card that copies so many bytes per second, read and written."""
        return [
            self.name,
            f"{self.timing.median:.1f}",
            f"{self.timing.low:.1f} to {self.timing.high:.1f}",
            f"{self.num_bytes / self.timing.median / 1e6:.3f}",
            f"{self.num_bytes / copied_per_s * 1e6:.2f}",
        ]
