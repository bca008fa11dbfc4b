"""What grammars cost: `python -m benchmarks.constrained` (`--model octavo-tiny --device cpu ...` on a CPU).

First whole requests offline, free and under a grammar, turn by turn. Then over HTTP: streams run, and requests come beside them,
each with a JSON schema that the server has not seen before.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import against
from benchmarks.made_model import make_model
from benchmarks.provenance import write_result
from octavo.config import Settings
from octavo.engine import masks
from octavo.engine.engine import Engine
from octavo.engine.processes.link import WorkerLink
from octavo.engine.request import Request
from octavo.engine.statistics import StepRecord
from octavo.grammar import Compiler, Follower, ForkServer, Grammar
from octavo.messages import StepMasks, StepPlan, StepResult
from octavo.sampling import SamplingParams
from octavo.startup import in_processes, start
from octavo.structured_outputs import StructuredOutputsParams

SCHEMA_BYTES = 10_000
START_S = 300.0
QUIET_S = 0.3
"""Between two requests beside the streams."""
FORMS = 8
"""Different schemas of the requests offline."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="qwen3-30b-a3b-fp8-dynamic", help="whose config is taken; weights are random"
    )
    parser.add_argument("--vocab-size", type=int, default=151_936)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--count", type=int, default=256, help="of requests offline")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--made", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--schemas", type=int, default=8, help="requests with a new schema beside the streams")
    parser.add_argument("--only", choices=("offline", "http"))
    parser.add_argument("--name", default="constrained", help="of the results")
    args = against.parse_args(parser, "constrained")
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / args.model, args.model, args.vocab_size)
        if args.only != "http":
            offline(args, model)
        if args.only != "offline":
            asyncio.run(over_http(args, model))


def settings_of(args: argparse.Namespace, model: Path) -> dict[str, Any]:
    return {
        "model": str(model),
        "device": args.device,
        "load_format": "dummy",
        "max_model_len": 2100,
        "max_num_seqs": max(args.count, args.streams + 2),
        "max_num_batched_tokens": 8192,
        "crash_dir": None,
    }


# Offline


@dataclasses.dataclass
class Measured:
    """One run of all requests."""

    seconds: float
    step_s: list[float]
    """Between the results of two steps that only decoded."""
    steps: int
    parts: Parts


@dataclasses.dataclass
class Parts:
    """What the engine's thread did from step to step, in the order of a step; seconds of all steps together."""

    steps: int = 0
    booked_s: float = 0.0
    """From a result to the question of what may come next."""
    followed_s: float = 0.0
    """From there until all is answered, or a step waits no longer."""
    told_s: float = 0.0
    """From there until the engine has taken that in, and the worker is told."""
    planned_s: float = 0.0
    """Until the next plan is sent."""
    computed_s: float = 0.0
    """From there to the next result: the rest of the forward pass, and sampling."""
    follower_cpu_s: float = 0.0
    """Of all threads of the process that follows grammars."""
    constrained: int = 0
    """Tokens that were to be sampled under a grammar."""
    late: int = 0
    """Of these, those whose mask was not there in time."""

    def text(self) -> str:
        """In milliseconds of a step."""
        milliseconds = {
            field.name[:-2].replace("_", " "): 1e3 * getattr(self, field.name) / max(1, self.steps)
            for field in dataclasses.fields(self)
            if field.name.endswith("_s")
        }
        told = ", ".join(f"{name} {value:.2f}" for name, value in milliseconds.items())
        return f"ms a step: {told}; late {100 * self.late / max(1, self.constrained):.2f} %"


class Watch:
    """A link to a worker that notes in `parts` what the engine does on its thread, and so does whoever follows grammars for it."""

    def __init__(self, link: WorkerLink, fork_server: ForkServer) -> None:
        self.parts = Parts()
        self._link = link
        self._fork_server = fork_server
        self._since = time.perf_counter()
        self._due: dict[int, int] = {}

    def follower(self) -> type[Follower]:
        """A class whose instances are watched."""
        watch = self

        class Watched(Follower):
            def advance(self, moves: Sequence[tuple[int, int]]) -> None:
                super().advance(moves)
                watch._mark("booked_s")

            def wait(self, timeout_s: float) -> None:
                super().wait(timeout_s)
                watch._mark("followed_s")

        return Watched

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def send(self, plan: StepPlan) -> None:
        self._due[plan.step] = len(plan.constrained)
        self._link.send(plan)
        self._mark("planned_s")

    def tell(self, told: StepMasks) -> None:
        due = self._due.pop(told.step)
        self.parts.constrained += due
        self.parts.late += due - len(told.slots)
        self._link.tell(told)
        self._mark("told_s")

    def receive(self, timeout_s: float | None) -> StepResult | None:
        result = self._link.receive(timeout_s)
        self._mark("computed_s")
        self.parts.steps += result is not None
        return result

    def follower_cpu_s(self) -> float:
        """So far."""
        stats = [
            path.read_text().rpartition(")")[2].split() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()
        ]
        mine = [stat for stat in stats if int(stat[1]) == self._fork_server.pid]
        return sum(int(stat[11]) + int(stat[12]) for stat in mine) / os.sysconf("SC_CLK_TCK")

    def _mark(self, part: str) -> None:
        """What the thread has done since the last mark was of this part."""
        now = time.perf_counter()
        setattr(self.parts, part, getattr(self.parts, part) + now - self._since)
        self._since = now


def offline(args: argparse.Namespace, model: Path) -> None:
    moments: list[tuple[float, StepRecord]] = []
    runtime = start(Settings.from_values(settings_of(args, model)), in_processes)
    watch = Watch(runtime.link, runtime.fork_server)
    masks.Follower = watch.follower()  # type: ignore[attr-defined]
    runtime = dataclasses.replace(runtime, link=watch)
    try:
        engine = runtime.engine(observe=lambda record: moments.append((time.perf_counter(), record)))
        grammars = forms(runtime.compiler)
        runs: dict[str, list[Measured]] = {"free": [], "constrained": []}
        for turn in range(args.repeats + 1):
            for name, chosen in (("free", None), ("constrained", grammars)):
                measured = measure(engine, args, chosen, turn, runtime.config.vocab_size, moments, watch)
                print(
                    name,
                    turn,
                    f"{measured.seconds:.2f} s, {1e3 * statistics.median(measured.step_s):.2f} ms",
                    "" if chosen is None else measured.parts.text(),
                    flush=True,
                )
                if turn:
                    runs[name].append(measured)
    finally:
        runtime.close()
    rows = [[name, *cells(args, measured)] for name, measured in runs.items()]
    for row in rows:
        row.append(f"{row[1] / rows[0][1]:.3f}")
    write_result(
        args.name,
        title=f"Requests with a grammar, {Path(model).name}",
        conditions=f"random weights, {args.vocab_size} ids, {args.count} requests at once of {args.prompt} tokens and {args.made} made, "
        f"temperature 1, offline, worker in a process of its own; constrained ones under one of {FORMS} JSON schemas (arrays of "
        f"objects with strings, integers, an enum) that let no answer end early; turn by turn, medians of {args.repeats} runs; a step's "
        f"time is from the result of the one before",
        columns=["", "tok/s", "lowest and highest", "step, ms", "99th percentile", "steps", "ratio of tok/s"],
        rows=rows,
        raw={name: [dataclasses.asdict(each) for each in measured] for name, measured in runs.items()},
    )
    for row in rows:
        print(*row, sep=" | ")


def forms(compiler: Compiler) -> list[Grammar]:
    """Of arrays of more objects than any request here has room for."""

    def form(number: int) -> StructuredOutputsParams:
        fields = {
            f"name{number}": {"type": "string"},
            "age": {"type": "integer", "minimum": 0, "maximum": 100 + number},
            "kind": {"enum": ["alpha", "beta", f"gamma{number}"]},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        }
        record = {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False}
        schema = {"type": "array", "items": record, "minItems": 1000}
        return StructuredOutputsParams(json=schema, disable_any_whitespace=True)

    return [compiler.compile(form(number)) for number in range(FORMS)]


def measure(
    engine: Engine,
    args: argparse.Namespace,
    grammars: Sequence[Grammar] | None,
    turn: int,
    vocab_size: int,
    moments: list[tuple[float, StepRecord]],
    watch: Watch,
) -> Measured:
    """Run all requests to their ends."""
    pick = random.Random(turn)
    parts = watch.parts = Parts()
    cpu_s = watch.follower_cpu_s()
    moments.clear()
    made: dict[str, int] = {}
    began = time.perf_counter()
    for number in range(args.count):
        prompt = [pick.randrange(vocab_size) for _ in range(args.prompt)]
        sampling = SamplingParams(seed=number, max_tokens=args.made, ignore_eos=True)
        grammar = None if grammars is None else grammars[number % len(grammars)]
        made[str(number)] = 0
        engine.add(Request(str(number), prompt, sampling, 0.0, grammar))
    while engine.has_work:
        for update in engine.step():
            made[update.request_id] += len(update.tokens)
    seconds = time.perf_counter() - began
    parts.follower_cpu_s = watch.follower_cpu_s() - cpu_s
    assert set(made.values()) == {args.made}, "an answer has ended early"
    pairs = itertools.pairwise(moments)
    between = [
        now - before for (before, _), (now, record) in pairs if not record.chunks and record.running == args.count
    ]
    return Measured(seconds, between, len(moments), parts)


def cells(args: argparse.Namespace, runs: Sequence[Measured]) -> list[Any]:
    rates = sorted(args.count * args.made / run.seconds for run in runs)
    steps = sorted(each for run in runs for each in run.step_s)
    return [
        round(statistics.median(rates)),
        f"{rates[0]:.0f} to {rates[-1]:.0f}",
        f"{1e3 * statistics.median(steps):.2f}",
        f"{1e3 * steps[int(0.99 * len(steps))]:.2f}",
        round(statistics.median(run.steps for run in runs)),
    ]


# Over HTTP


@dataclasses.dataclass
class Beside:
    """One request beside the streams."""

    first_s: float
    """Until its first token."""
    gap_s: float
    """The longest that any stream waited for its next chunk in that time."""


class Streams:
    """Answers that run until they are told to end, and when their chunks came."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url
        self.moments: list[list[float]] = []

    async def run(self, prompt: list[int], tokens: int) -> None:
        mine: list[float] = []
        self.moments.append(mine)
        body = {"prompt": prompt, "max_tokens": tokens, "stream": True, "ignore_eos": True, "seed": len(self.moments)}
        async for moment in chunks(self._session, self._url, body):
            mine.append(moment)

    def gap_s(self, begin: float, end: float) -> float:
        """The longest that one of them waited between `begin` and `end`, in part or all of it."""
        return max(
            min(now, end) - max(before, begin)
            for mine in self.moments
            for before, now in itertools.pairwise([*mine, time.perf_counter()])
            if now > begin and before < end
        )


async def chunks(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Any:
    """Yield when each chunk of an answer came."""
    async with session.post(f"{url}/v1/completions", json=body) as answer:
        if answer.status != 200:
            raise SystemExit(await answer.text())
        async for line in answer.content:
            if line.startswith(b"data: {"):
                yield time.perf_counter()


async def over_http(args: argparse.Namespace, model: Path) -> None:
    kinds: dict[str, list[Beside]] = {"without a schema": [], "with a new schema": []}
    pick = random.Random(1)
    with serving(args, model) as (url, server):
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(None), read_bufsize=2**20
        ) as session:
            await healthy(session, url, server)
            await beside(
                session, url, Streams(session, url), pick, args, new_schema(0)
            )  # what the first one starts is warm
            streams = Streams(session, url)
            prompts = [[pick.randrange(args.vocab_size) for _ in range(args.prompt)] for _ in range(args.streams)]
            running = [asyncio.create_task(streams.run(prompt, 2090 - args.prompt)) for prompt in prompts]
            while not (len(streams.moments) == args.streams and all(len(mine) > 16 for mine in streams.moments)):
                await asyncio.sleep(0.1)
            for number in range(1, args.schemas + 1):
                for name, schema in (("without a schema", None), ("with a new schema", new_schema(number))):
                    await asyncio.sleep(QUIET_S)
                    kinds[name].append(await beside(session, url, streams, pick, args, schema))
                    print(name, kinds[name][-1], flush=True)
            ended = sum(task.done() for task in running)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    rows = [
        [
            name,
            *(
                f"{1e3 * choose(getattr(each, field) for each in each_kind):.0f}"
                for field in ("first_s", "gap_s")
                for choose in (statistics.median, max)
            ),
        ]
        for name, each_kind in kinds.items()
    ]
    write_result(
        f"{args.name}_http",
        title=f"A new schema beside {args.streams} streams, {Path(model).name}",
        conditions=f"random weights, {args.vocab_size} ids; {args.streams} streams of `/v1/completions` run ({ended} of them had ended "
        f"when the last request was done), and beside them one request after the other of {args.prompt} prompt tokens, "
        f"{args.schemas} of each kind; each schema is new to the server and {SCHEMA_BYTES} bytes of JSON or a little more; the gap is the "
        f"longest that any stream waited for its next chunk until the request had its first token; server and client in a process each",
        columns=["request", "first token, ms", "at most", "longest gap of the streams, ms", "at most"],
        rows=rows,
        raw={name: [dataclasses.asdict(each) for each in each_kind] for name, each_kind in kinds.items()},
    )
    for row in rows:
        print(*row, sep=" | ")


async def beside(
    session: aiohttp.ClientSession,
    url: str,
    streams: Streams,
    pick: random.Random,
    args: argparse.Namespace,
    schema: dict[str, Any] | None,
) -> Beside:
    """Ask for a few tokens, and look at the streams meanwhile."""
    prompt = [pick.randrange(args.vocab_size) for _ in range(args.prompt)]
    body: dict[str, Any] = {"prompt": prompt, "max_tokens": 4, "stream": True, "seed": 1}
    if schema is not None:
        body["structured_outputs"] = {"json": schema}
    began = time.perf_counter()
    moments = [moment async for moment in chunks(session, url, body)]
    return Beside(moments[0] - began, streams.gap_s(began, moments[0]) if streams.moments else 0.0)


def new_schema(number: int) -> dict[str, Any]:
    """One of `SCHEMA_BYTES` bytes that no other number has: an object of objects, as an agent's tools are described."""
    properties: dict[str, Any] = {}
    schema = {"type": "object", "properties": properties, "required": [], "additionalProperties": False}
    while len(json.dumps(schema)) < SCHEMA_BYTES:
        name = f"field_{number}_{len(properties)}"
        fields = {
            f"{name}_title": {"type": "string", "description": f"What {name} is called by those who use it."},
            f"{name}_count": {"type": "integer", "minimum": 0, "maximum": 1000 + len(properties)},
            f"{name}_state": {"enum": ["open", "closed", f"other {len(properties)}"]},
            f"{name}_items": {"type": "array", "items": {"type": "string"}, "maxItems": 4},
        }
        properties[name] = {
            "type": "object",
            "properties": fields,
            "required": [*fields],
            "additionalProperties": False,
        }
        schema["required"] = [*properties]
    return schema


@contextmanager
def serving(args: argparse.Namespace, model: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server in a process of its own, whose worker is another."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    told = {**settings_of(args, model), "crash_dir": "none", "port": port, "host": "127.0.0.1"}
    flags = itertools.chain.from_iterable((f"--{name.replace('_', '-')}", str(value)) for name, value in told.items())
    command = [sys.executable, "-m", "octavo.cli.main", "serve", "--no-keep-weights", *flags]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


async def healthy(session: aiohttp.ClientSession, url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and server.poll() is None:
        try:
            async with session.get(f"{url}/health") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.2)
    raise SystemExit("the server has ended, or was not ready in time")


if __name__ == "__main__":
    main()
