"""Where the microseconds of a step go on one GPU: `python -m benchmarks.profile_step`.

Each step is all of a model's layers and the logits of the rows that are sampled, as the worker launches them: as a graph.
First it is timed by itself; then a trace of the device says when each kernel ended. A kernel's time is how much later it ended
than all kernels before it: kernels whose launches overlap are counted once, and the times of a step add up to it. A second result, with
`_floors` behind its name, has each step beside its floor (`benchmarks.step_floor`), at rates of the card that are measured first.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import itertools
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.measurement import CUDA, SIDE, bf16_rate, copy_rate, fp8_rate
from benchmarks.provenance import write_result
from benchmarks.step_floor import Floor, Rates, Rows, Work, step_parts
from octavo.checkpoints.folder import resolve_folder
from octavo.models.cuda_operations import CudaOperations
from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.models.load import load_model
from octavo.models.placing import fresh_memory
from octavo.models.registry import read_folder
from octavo.ops.delta_net import StateUse
from octavo.worker.graphs import CudaCapture, GraphedModel

COLUMNS = ("step", "kernel", "calls", "us a call", "us a step", "share")
FLOOR_COLUMNS = (
    "step",
    "us by itself",
    "us traced",
    "us of bytes",
    "us of operations",
    "floor, us",
    "share of the floor",
)
BLOCK_SIZE, BUDGET = 64, 8192
REPEATS, TRACED = 50, 5


@dataclasses.dataclass(frozen=True)
class Step:
    """`requests` requests that have `context` tokens after `tokens` new ones each."""

    name: str
    requests: int
    tokens: int
    context: int

    def batch(self, columns: int) -> ForwardBatch:
        """The step as tensors on the host, with blocks that no two requests share."""
        first = self.context - self.tokens
        blocks = torch.arange(self.requests * columns, dtype=torch.int64).view(self.requests, columns)
        positions = torch.arange(first, self.context).repeat(self.requests)
        owners = torch.arange(self.requests).repeat_interleave(self.tokens)
        return ForwardBatch(
            token_ids=torch.randint(1000, (self.requests * self.tokens,)),
            positions=positions,
            slot_mapping=blocks[owners, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE,
            block_tables=blocks.int(),
            chunk_starts=tuple(range(0, (self.requests + 1) * self.tokens, self.tokens)),
            context_lens=(self.context,) * self.requests,
            states=tuple(StateUse(place if first else -1, place) for place in range(self.requests)),
            output_counts=(1,) * self.requests,
        )

    @property
    def rows(self) -> Rows:
        """What its floor is made of."""
        return Rows(self.requests, self.tokens, before=self.context - self.tokens, wanted=1)


DECODE = (1, 8, 32, 64, 128, 256)
STEPS = [*(Step(f"decode, {count}", count, 1, 256) for count in DECODE), Step("prompts of 1000, 8", 8, 1000, 1000)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3-30b-a3b-fp8-dynamic")
    parser.add_argument("--only", nargs="*", default=[], help="names of steps; default: all")
    parser.add_argument("--name", default="profile_step", help="of the result")
    args = parser.parse_args()
    steps = [step for step in STEPS if not args.only or step.name in args.only]
    parts = floor_parts(args.model, steps)
    rates = card_rates()
    rows, floor_rows, raw = [], [], {}
    forward = model_forward(args.model)
    for step in steps:
        run = functools.partial(forward, step)
        measured, kernels = timed(run), traced(run)
        whole = sum(times.us for times in kernels.values())
        floor_rows.append(floor_row(step.name, measured, whole, Floor.of(parts[step.name], rates)))
        print(*map("{}: {}".format, FLOOR_COLUMNS, floor_rows[-1]), sep=", ", flush=True)
        for name, times in sorted(kernels.items(), key=lambda item: -item[1].us):
            row = [step.name, name, round(times.calls), round(times.us / times.calls, 1), round(times.us)]
            rows.append([*row, f"{times.us / whole:.0%}"])
            print(*rows[-1][1:], sep=" | ", flush=True)
        raw[step.name] = measured
    write_result(
        args.name,
        title=f"Where a step's time goes, {Path(args.model).name}",
        conditions="random weights, all layers and logits, no sampling; by a trace of the device",
        columns=COLUMNS,
        rows=rows,
        raw=raw,
    )
    write_result(
        f"{args.name}_floors",
        title=f"Steps beside their floors, {Path(args.model).name}",
        conditions="random weights, all layers and logits, no sampling; medians of "
        f"{REPEATS} runs by themselves. The floor is, layer by layer, the larger of two times of each part (dense products, products of "
        "experts, attention or states, the head): bytes of its weights (of experts: of as many as random routing touches), keys, values and states, each "
        f"once, at this card's rate of {rates.copied / 1e12:.2f} TB/s (copied, read and written), and operations at its {rates.fp8 / 1e12:.0f} "
        f"TFLOP/s in FP8 and {rates.bf16 / 1e12:.0f} in bf16, both of products of {SIDE} cubed; all measured in the same run. Rows "
        "between the parts are not counted.",
        columns=FLOOR_COLUMNS,
        rows=floor_rows,
        raw={"us": raw, "rates": dataclasses.asdict(rates)},
    )


def floor_parts(name: str, steps: Iterable[Step]) -> dict[str, list[Work]]:
    """What each step of the model takes at least, by the step's name; no memory is taken for its weights.

    Raises:
        TypeError: the model has a kind of layer of which that is not known.
    """
    config = read_folder(resolve_folder(name, None))
    parameters = config.place_parameters(fresh_memory(torch.device("meta")))
    return {step.name: step_parts(parameters, config.cache, step.rows) for step in steps}


def card_rates() -> Rates:
    """Those of this card, measured; their memory is left to the model."""
    rates = Rates(copy_rate(), fp8_rate(), bf16_rate())
    torch.cuda.empty_cache()
    return rates


def floor_row(name: str, measured: list[float], traced_us: float, floor: Floor) -> list[object]:
    """Cells of the second table."""
    alone = statistics.median(measured)
    times = (alone, traced_us, floor.bytes_us, floor.operations_us, floor.us)
    return [name, *map(round, times), f"{floor.us / alone:.2f}"]


def model_forward(name: str) -> Callable[[Step], torch.Tensor]:
    """What runs one step of the model with random weights."""
    operations = CudaOperations(max_tokens=BUDGET)
    folder = resolve_folder(name, None)
    loaded = load_model(folder, load_format="dummy", device=CUDA, seed=0, operations=operations, progress=False)
    columns = max(-(-step.context // BLOCK_SIZE) for step in STEPS)
    most = max(step.requests for step in STEPS)
    layout = loaded.config.cache
    cache = KVCache.allocate(layout, num_blocks=most * columns, num_states=most, block_size=BLOCK_SIZE, device=CUDA)
    for layer in cache.layers:
        layer.zero_()
    sizes = [*(step.requests for step in STEPS if step.tokens == 1), BUDGET]
    model = GraphedModel(loaded.model, cache, max_chunks=most, columns=columns, sizes=sizes, capture=CudaCapture())
    return torch.inference_mode()(lambda step: model.logits(model.forward(step.batch(columns), cache)))


def timed(run: Callable[[], object]) -> list[float]:
    """Microseconds between the ends of runs that follow each other, after a warm-up."""
    for _ in range(3):
        run()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(REPEATS + 1)]
    for event in events:
        run()
        event.record()
    torch.cuda.synchronize()
    return [1000 * a.elapsed_time(b) for a, b in itertools.pairwise(events)]


@dataclasses.dataclass
class Times:
    """Of one kernel in one step."""

    calls: float = 0.0
    us: float = 0.0


def traced(run: Callable[[], object]) -> dict[str, Times]:
    """By kernel: calls and microseconds of a step."""
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for _ in range(TRACED):
            run()
            torch.cuda.synchronize()
    return by_kernel(device_spans(trace), runs=TRACED)


def device_spans(trace: profile) -> list[tuple[float, float, str]]:
    """(start, end, kernel) in microseconds of all that ran on the device, in the order of their starts."""
    events = (event for event in trace.events() or () if event.device_type.name == "CUDA")
    return sorted((event.time_range.start, event.time_range.end, event.name) for event in events)


def by_kernel(spans: Iterable[tuple[float, float, str]], *, runs: int) -> dict[str, Times]:
    """Share the time out among the kernels by when each ended; spans (start, end, kernel) in us, in the order of their starts.

    A pause before a kernel starts counts as nobody's.
    """
    found: dict[str, Times] = collections.defaultdict(Times)
    latest = 0.0
    for start, end, name in spans:
        times = found[name.partition("<")[0][-60:]]
        times.calls += 1 / runs
        times.us += max(0.0, end - max(latest, start)) / runs
        latest = max(latest, end)
    return dict(found)


if __name__ == "__main__":
    main()
