"""What a step takes of the worker's thread, part by part, on a GPU: `python -m benchmarks.host_step`.

Plans of a decode go through a worker in this process, so that one clock sees all of it. A part's time is of the wall clock, those of the
parts in it included; the device works meanwhile. Then one graph is replayed by itself, behind an idle device, and behind what a step
launches before it.
"""

from __future__ import annotations

import argparse
import collections
import functools
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.provenance import write_result
from octavo.config import Settings
from octavo.engine.engine import Engine
from octavo.engine.request import Request
from octavo.ops.upload import upload
from octavo.sampling import SamplingParams
from octavo.startup import in_this_process, start
from octavo.worker import graphs, runner
from octavo.worker.launched import Launched
from octavo.worker.slots import Slots
from octavo.worker.transfer import Download

PARTS: dict[str, tuple[Any, str]] = {
    "launch": (runner.Runner, "launch"),
    "launch: plan applied to slots": (Slots, "apply"),
    "launch: batch made": (runner, "make_batch"),
    "launch: attention planned": (graphs.GraphedModel, "_plan"),
    "launch: inputs filled": (graphs.Inputs, "fill"),
    "launch: graph replayed": (torch.cuda.CUDAGraph, "replay"),
    "launch: logits": (graphs.GraphedModel, "logits"),
    "launch: all behind the forward pass, logits included": (runner.Runner, "_sample"),
    "result": (Launched, "result"),
    "result: waits for the device, and copies": (Download, "tensors"),
}
"""Name to the owner of a callable and its name there."""
COLUMNS = ("requests", "part", "us a step", "10th to 90th percentile")
PROMPT, MADE, WARM = 128, 200, 40
REPEATS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3-30b-a3b-fp8-dynamic")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 64])
    args = parser.parse_args()
    rows: list[list[object]] = []
    found: dict[str, list[float]] = {}
    times = timed(PARTS)
    replays = kept_replays()
    settings = {"model": args.model, "device": "cuda", "load_format": "dummy", "max_model_len": 2100}
    runtime = start(Settings.from_values(settings), in_this_process)
    try:
        engine = runtime.engine(observe=lambda _: None)
        for count in args.requests:
            decode(engine, count, WARM)
            times.clear()
            began = time.perf_counter()
            decode(engine, count, MADE)
            whole = (time.perf_counter() - began) / MADE * 1e6
            print(f"{count} requests: {whole:.0f} us a step, one step after the other", flush=True)
            for part in PARTS:
                rows.append([count, part, *spread(times[part][-MADE:])])
                found[f"{count}: {part}"] = times[part]
        for name, before in befores().items():
            found[name] = [replayed(replays[-1], before) for _ in range(REPEATS)]
            rows.append(["", f"replay behind {name}", *spread(found[name])])
    finally:
        runtime.close()
    for row in rows:
        print(*row, sep=" | ", flush=True)
    write_result(
        "host_step",
        title=f"A decode step on the worker's thread, {args.model}",
        conditions="random weights, greedy, plans one after the other in one process; medians of the wall clock",
        columns=COLUMNS,
        rows=rows,
        raw=found,
    )


def timed(parts: dict[str, tuple[Any, str]]) -> dict[str, list[float]]:
    """Name to the microseconds of every call from now on."""
    times: dict[str, list[float]] = collections.defaultdict(list)

    def wrap(name: str, call: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(call)
        def measured(*args: object, **options: object) -> object:
            began = time.perf_counter()
            try:
                return call(*args, **options)
            finally:
                times[name].append((time.perf_counter() - began) * 1e6)

        return measured

    for name, (owner, attribute) in parts.items():
        setattr(owner, attribute, wrap(name, getattr(owner, attribute)))
    return times


def kept_replays() -> list[graphs.Replay]:
    """Of every graph that is captured from now on; the last is of the last size that was needed."""
    kept: list[graphs.Replay] = []
    capture = graphs.CudaCapture.__call__

    def keep(self: graphs.CudaCapture, launch: graphs.Replay) -> graphs.Replay | None:
        replay = capture(self, launch)
        if replay is not None:
            kept.append(replay)
        return replay

    setattr(graphs.CudaCapture, "__call__", keep)  # noqa: B010 (mypy does not let a method be assigned)
    return kept


def decode(engine: Engine, count: int, made: int) -> None:
    """`count` requests at once, each with a prompt of its own and `made` tokens."""
    pick = random.Random(f"{count} {made}")
    sampling = SamplingParams(temperature=0.0, max_tokens=made, ignore_eos=True)
    for number in range(count):
        engine.add(Request(f"{count} {made} {number}", [pick.randrange(1000) for _ in range(PROMPT)], sampling))
    while engine.has_work:
        engine.step()


def befores() -> dict[str, Callable[[], object]]:
    """Name to what is launched right before a replay."""
    device = torch.device("cuda")
    here, there, other = torch.zeros(4096), torch.zeros(4096, device=device), torch.zeros(4096, device=device)
    pinned = here.pin_memory()
    held = torch.empty(0)

    def allocate() -> None:
        nonlocal held
        held = torch.empty(1 << 20, pin_memory=True)

    return {
        "nothing": lambda: None,
        "a kernel": lambda: there.add_(1.0),
        "a copy on the device": lambda: there.copy_(other),
        "a copy from the host": lambda: there.copy_(pinned, non_blocking=True),
        "a copy from the host and a kernel": lambda: (there.copy_(pinned, non_blocking=True), there.add_(1.0)),
        "an upload": lambda: upload(here, device),
        "memory of the host, page-locked": allocate,
        "a copy to the host": lambda: pinned.copy_(there, non_blocking=True),
    }


def replayed(replay: graphs.Replay, before: Callable[[], object]) -> float:
    """Microseconds of the host for a replay behind `before` on an idle device."""
    torch.cuda.synchronize()
    before()
    began = time.perf_counter()
    replay()
    return (time.perf_counter() - began) * 1e6


def spread(times: list[float]) -> list[str]:
    """Median, and from where to where the middle four fifths are."""
    if not times:
        return ["", ""]
    ordered = sorted(times)
    low, high = ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]
    return [f"{statistics.median(ordered):.0f}", f"{low:.0f} to {high:.0f}"]


if __name__ == "__main__":
    main()
