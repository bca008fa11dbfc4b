"""What the engine costs without a model: `python -m benchmarks.scheduler`.

Two measurements: CPU microseconds per running request and step while all decode, and a simulated day of a million requests,
whose clock is advanced by the worker. The worker answers at once and its time is not counted in the first.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import random
import resource
import statistics
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from benchmarks import against
from benchmarks.provenance import write_result
from octavo.config import EngineConfig
from octavo.engine import Engine, Request, StepRecord
from octavo.messages import SampledToken, StepMasks, StepPlan, StepResult, WorkerReady
from octavo.sampling import SamplingParams

VOCAB = 151_936
DAY_S = 86_400.0
STEP_S = 0.030
"""Simulated seconds of a step, whatever its size."""
TOKEN_S = 12e-6
"""Simulated seconds of each token in it."""


class InstantWorker:
    """A `WorkerLink` without a model: every token is 7. Counts its own time, and advances a simulated clock."""

    def __init__(self, num_blocks: int) -> None:
        self.ready = WorkerReady(
            pid=os.getpid(),
            device="none",
            weights_format="none",
            num_blocks=num_blocks,
            weight_bytes=0,
            kv_cache_bytes=0,
            workspace_bytes=0,
            load_s=0.0,
            warm_up_s=0.0,
        )
        self.now_s = 0.0
        self.spent_s = 0.0
        self._results: deque[tuple[float, StepResult]] = deque()

    def send(self, plan: StepPlan) -> None:
        before = time.thread_time()
        sampled = [SampledToken(chunk.slot, 7, None) for chunk in plan.chunks if chunk.sample]
        elapsed_s = STEP_S + TOKEN_S * sum([chunk.count for chunk in plan.chunks])
        self._results.append((elapsed_s, StepResult(step=plan.step, sampled=sampled, elapsed_s=elapsed_s)))
        self.spent_s += time.thread_time() - before

    def tell(self, masks: StepMasks) -> None:
        raise AssertionError("no request here has a grammar")

    def receive(self, timeout_s: float | None) -> StepResult | None:
        if not self._results:
            return None
        elapsed_s, result = self._results.popleft()
        self.now_s += elapsed_s
        return result

    @property
    def stopped(self) -> bool:
        return False

    def last_output(self) -> list[str]:
        return []

    def close(self) -> None:
        self._results.clear()


def measure_decode(running: int, steps: int, repeats: int, prompt_tokens: int = 128) -> list[float]:
    """Microseconds of CPU time per running request and step, of each repetition, after one to warm up."""
    blocks = running * (2 + (prompt_tokens + steps * (repeats + 2)) // 16)
    config = EngineConfig(
        vocab_size=VOCAB,
        eos_token_ids=(VOCAB - 1,),
        max_model_len=1 << 20,
        max_num_seqs=running,
        num_blocks=blocks,
    )
    worker = InstantWorker(blocks)
    records: deque[StepRecord] = deque(maxlen=1)
    engine = Engine(config, worker, records.append)
    sampling = SamplingParams(temperature=0.0, max_tokens=None, ignore_eos=True)
    for i in range(running):
        engine.add(Request(f"r{i}", [(i + j) % VOCAB for j in range(prompt_tokens)], sampling))
    while not records or records[0].decode_tokens < running:
        engine.step()
    costs = []
    for number in range(repeats + 1):
        gc.collect()
        worker.spent_s = 0.0
        start = time.thread_time()
        for _ in range(steps):
            engine.step()
        spent_s = time.thread_time() - start - worker.spent_s
        assert records[0].decode_tokens == running
        if number:
            costs.append(1e6 * spent_s / (steps * running))
    return costs


def arrivals(count: int, seed: int) -> Iterator[Request]:
    """A day: more by day than by night, every hour 400 at once that want long answers, half of all behind 8 openings."""
    draw = random.Random(seed)
    openings = [[draw.randrange(VOCAB) for _ in range(96)] for _ in range(8)]
    per_hour = 400
    rate = (count - 24 * per_hour) / DAY_S
    now_s, next_burst_s, made = 0.0, 3600.0, 0
    while made < count:
        now_s += draw.expovariate(rate * (1 + 0.8 * math.sin(2 * math.pi * now_s / DAY_S)))
        burst = per_hour if now_s >= next_burst_s else 1
        next_burst_s += 3600.0 if burst > 1 else 0.0
        for _ in range(min(burst, count - made)):
            length = min(2000, max(1, int(draw.lognormvariate(4.6, 0.9))))
            prompt = array("H", draw.randbytes(2 * length)).tolist()
            prompt = (draw.choice(openings) if draw.random() < 0.5 else []) + prompt
            mean_answer = 200 if burst > 1 else 32
            sampling = SamplingParams(temperature=0.0, max_tokens=1 + min(1000, int(draw.expovariate(1 / mean_answer))))
            yield Request(f"r{made}", prompt, sampling, arrival_s=now_s)
            made += 1


def simulate_day(count: int, seed: int = 0) -> dict[str, Any]:
    """Run `count` requests through an engine whose KV pool is too small at times; some are aborted."""
    config = EngineConfig(
        vocab_size=VOCAB, eos_token_ids=(VOCAB - 1,), max_model_len=4096, max_num_seqs=256, num_blocks=1600
    )
    worker = InstantWorker(config.num_blocks)
    peaks = Counter[str]()

    def observe(record: StepRecord) -> None:
        peaks["running"] = max(peaks["running"], record.running)
        peaks["waiting"] = max(peaks["waiting"], record.waiting)

    engine = Engine(config, worker, observe, clock=lambda: worker.now_s)
    ended = 0
    memory_bytes: list[int] = []
    start = time.process_time()
    with tqdm(total=count, unit="request", mininterval=5, file=sys.stderr) as bar:
        for request in arrivals(count, seed):
            while engine.has_work and worker.now_s < request.arrival_s:
                ended += tell(bar, engine)
            worker.now_s = max(worker.now_s, request.arrival_s)
            engine.add(request)
            if request.request_id.endswith("77"):
                engine.abort(request.request_id)
            if len(memory_bytes) * count <= 10 * bar.n:
                memory_bytes.append(peak_memory_bytes())
        while engine.has_work:
            ended += tell(bar, engine)
    memory_bytes.append(peak_memory_bytes())
    engine.check_invariants()
    status = engine.status()
    assert ended == count == sum(status.finished.values())
    assert status.free_blocks == status.total_blocks
    elapsed_s = time.process_time() - start
    return {
        "requests": count,
        "cpu_s": elapsed_s,
        "simulated_s": worker.now_s,
        "worker_s": worker.spent_s,
        "peak_memory_bytes_by_tenth": memory_bytes,
        "peak_running": peaks["running"],
        "peak_waiting": peaks["waiting"],
        "steps": status.steps,
        "preemptions": status.preemptions,
        "prompt_tokens": status.prompt_tokens,
        "generation_tokens": status.generation_tokens,
        "prefix_hit_share": status.prefix_hits / status.prefix_queries,
        "finished": status.finished,
    }


def tell(bar: Any, engine: Engine) -> int:
    """One step; returns and shows how many requests it ended."""
    ended = sum([update.finish_reason is not None for update in engine.step()])
    if ended:
        bar.update(ended)
    return ended


def peak_memory_bytes() -> int:
    """Most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def decode_table(running: list[int], steps: int, repeats: int) -> None:
    rows: list[list[Any]] = []
    raw = {}
    for count in running:
        costs = raw[str(count)] = measure_decode(count, steps, repeats)
        median = statistics.median(costs)
        rows.append([count, *(round(x, 2) for x in (median, min(costs), max(costs))), round(median * count)])
        print(f"{count} running: {median:.2f} us per request and step", flush=True)
    write_result(
        "scheduler",
        title="Engine alone: cost of a decode step",
        conditions=f"All requests decode, 128 prompt tokens each; planning, reading the result and making the updates, "
        f"without the worker; statistics on; CPU time; {steps} steps, median of {repeats} repetitions, one core.",
        columns=["running requests", "us per request and step", "least", "most", "us per step"],
        rows=rows,
        raw={"us_per_request_step": raw},
    )


def day_table(count: int) -> None:
    day = simulate_day(count)
    memory = [round(x / 2**20) for x in day["peak_memory_bytes_by_tenth"]]
    tokens = day["prompt_tokens"] + day["generation_tokens"]
    rows = [
        ["requests", count],
        ["simulated hours", round(day["simulated_s"] / 3600, 1)],
        ["CPU seconds", round(day["cpu_s"])],
        ["steps", day["steps"]],
        ["tokens", tokens],
        ["most running at once", day["peak_running"]],
        ["most waiting at once", day["peak_waiting"]],
        ["preemptions", day["preemptions"]],
        ["prompt tokens found in the prefix cache", f"{100 * day['prefix_hit_share']:.1f} %"],
        ["peak memory after 20 % of the day, MiB", memory[2]],
        ["peak memory at the end, MiB", memory[-1]],
    ]
    for row in rows:
        print(*row, sep=": ", flush=True)
    write_result(
        "scheduler_day",
        title="Engine alone: a simulated day",
        conditions=f"A worker that answers at once, a clock that advances {1000 * STEP_S:.0f} ms per step and "
        f"{1e6 * TOKEN_S:.0f} us per token; sinusoidal load with 400 requests at once every hour, 1,600 KV blocks of 16, "
        "one request in a hundred aborted; one core, making the requests included.",
        columns=["", "value"],
        rows=rows,
        raw=day,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--running", type=int, nargs="+", default=[16, 256, 1024])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1_000_000, help="of the simulated day; 0: no day")
    args = against.parse_args(parser, "scheduler")
    decode_table(args.running, args.steps, args.repeats)
    if args.requests:
        day_table(args.requests)


if __name__ == "__main__":
    main()
