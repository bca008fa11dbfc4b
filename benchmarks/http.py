"""Times to tokens over HTTP: `python -m benchmarks.http` starts `octavo serve` with random weights and asks it.

    python -m benchmarks.http                                        this server, Qwen3-30B-A3B's shape, on one GPU
    python -m benchmarks.http --peer vllm.json sglang.json           with what other servers took beside (`benchmarks.peers.over_http`)
    python -m benchmarks.http --base-url http://127.0.0.1:8001       a server that runs already
    python -m benchmarks.http --model octavo-tiny --device cpu --loads 1x32x8 4x32x8
    python -m benchmarks.http --add --loads 8x32000x128              one more load in the table of an earlier run

All requests of a load are sent at once, and the next load when they have ended; their prompts are random, and no two are equal, so that
no cache holds any of them. Each load runs once to warm up, and then as often as told. The result is written after each, so that it stays
when a later one fails.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import against
from benchmarks.peers import about
from benchmarks.provenance import provenance, read_result, write_result
from benchmarks.served import HOST, free_port, running, while_runs
from octavo.cli.bench.client import BenchClient, Outcome, connect
from octavo.cli.bench.prompts import random_prompts
from octavo.cli.bench.serve import server_vocab_size

START_S = 300.0
LOAD_S = 240.0
"""In which all requests of a load must be answered."""
LOADS = ["1x512x128", "16x512x128", "64x512x128", "256x512x128"] + [
    f"{count}x{length}x128" for length in (8000, 32000) for count in (1, 8, 32)
]
GREEDY = {"temperature": 0.0}
ADVISED = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
"""What Qwen advises for Qwen3 without thinking (the model's card)."""
SAMPLINGS: dict[str, dict[str, Any]] = {"greedy": GREEDY, "Qwen's": ADVISED}
COLUMNS = [
    "load",
    "sampling",
    "first token, ms",
    "10th to 90th percentile",
    "each token, ms",
    "10th to 90th percentile",
    "tok/s",
]
RATIOS = ["first token, ratio to the better", "each token, ratio to the better", "tok/s, ratio to the better"]

Range = tuple[float, float, float]
"""The median, the 10th and the 90th percentile; or, of few runs, the median, the lowest and the highest."""


@dataclasses.dataclass(frozen=True)
class Load:
    """`count` requests at once of `prompt` tokens, and `made` made."""

    count: int
    prompt: int
    made: int

    @classmethod
    def parse(cls, text: str) -> Load:
        """From COUNTxPROMPTxMADE.

        Raises:
            ValueError: that is not three numbers.
        """
        count, prompt, made = (int(part) for part in text.split("x"))
        return cls(count, prompt, made)

    def __str__(self) -> str:
        return f"{self.count} of {self.prompt} and {self.made}"


class FailedRequestError(Exception):
    """A request of a load failed, or made another number of tokens; says what came."""


@dataclasses.dataclass(frozen=True)
class Times:
    """What a load took with one sampling, over all requests of all runs: milliseconds to the first token and for each after it, and the
    tokens per second of a run, from its first request to its last token."""

    first_ms: Range
    each_ms: Range
    rate: Range

    @classmethod
    def of(cls, load: Load, runs: Sequence[Sequence[Outcome]]) -> Times:
        """From what the requests of each run gave."""
        outcomes = [outcome for run in runs for outcome in run]
        spans = [max(o.arrivals[-1] for o in run) - min(o.started for o in run) for run in runs]
        rates = sorted(len(run) * load.made / span for run, span in zip(runs, spans, strict=True))
        return cls(
            percentiles([1000 * outcome.ttft_s for outcome in outcomes]),
            percentiles([1000 * outcome.tpot_s for outcome in outcomes]),
            (statistics.median(rates), rates[0], rates[-1]),
        )


def percentiles(values: Sequence[float]) -> Range:
    """The median, and a tenth of the values from either end."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[len(ordered) // 10], ordered[len(ordered) * 9 // 10]


@contextmanager
def served(model: str, device: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """An Octavo server with random weights: its process and its address."""
    port = free_port()
    weights = [] if model.startswith("octavo-tiny") else ["--load-format", "dummy"]
    command = ["serve", "--model", model, "--device", device, "--port", str(port), *weights, "--max-num-seqs", "256"]
    with (
        tempfile.TemporaryDirectory(prefix="served-") as folder,
        running([sys.executable, "-m", "octavo", *command], Path(folder) / "server.log") as server,
    ):
        yield server, f"http://{HOST}:{port}"


async def answer(
    client: BenchClient, model: str, load: Load, sampling: dict[str, Any], vocab_size: int, seed: int
) -> list[Outcome]:
    """Send all requests of `load` at once.

    Raises:
        FailedRequestError: one was not answered with all its tokens.
    """
    prompts = random_prompts(count=load.count, length=load.prompt, vocab_size=vocab_size, seed=seed)
    # No seeds: vLLM leaves its fastest sampler for requests that bring one.
    common = {"model": model, "max_tokens": load.made, "ignore_eos": True, **sampling}
    asked = (client.stream("/v1/completions", {**common, "prompt": prompt}, load.prompt) for prompt in prompts)
    try:
        outcomes = await asyncio.wait_for(asyncio.gather(*asked), LOAD_S)
    except TimeoutError as exc:
        raise FailedRequestError(f"{load} are not answered in {LOAD_S:.0f} s") from exc
    for outcome in outcomes:
        if not outcome.success or outcome.output_tokens != load.made:
            raise FailedRequestError(outcome.error or f"{outcome.output_tokens} tokens in place of {load.made}")
    return outcomes


async def measure(args: argparse.Namespace, base_url: str) -> AsyncIterator[tuple[Load, str, Times]]:
    """Each load with the name of each sampling, and what it took, as it comes."""
    args.base_url, args.api_key = base_url, None
    seed = 0
    async with connect(args) as client:
        await client.wait_until_ready(START_S)
        await asyncio.sleep(args.settle_s)
        model = args.served_model or await client.model()
        vocab_size = args.vocab_size or await server_vocab_size(client)
        for load in args.loads:
            for name in args.samplings:
                runs = []
                for _ in range(args.repeats + 1):
                    seed += 1
                    runs.append(await answer(client, model, load, SAMPLINGS[name], vocab_size, seed))
                yield load, name, Times.of(load, runs[1:])


def name_of(load: Load, sampling: str) -> str:
    """Under which the files of peers have what a load took."""
    return f"{load}, {sampling}"


def parse_name(name: str) -> tuple[Load, str]:
    """The load and the sampling that `name_of` named so."""
    load, _, sampling = name.partition(", ")
    count, prompt, made = (int(word) for word in load.split()[::2])
    return Load(count, prompt, made), sampling


def row(load: Load, sampling: str, times: Times) -> list[object]:
    """Cells of the table."""
    cells: list[object] = [str(load), sampling]
    for middle, low, high in (times.first_ms, times.each_ms):
        cells += [f"{middle:.2f}", f"{low:.2f} to {high:.2f}"]
    return [*cells, f"{times.rate[0]:,.0f}"]


def beside(name: str, times: Times, peers: Mapping[str, Mapping[str, Times]]) -> list[object]:
    """More cells: what each of the `peers` took, and three ratios to the better of them, above 1 where it is slower than `times`."""
    if not peers:
        return []
    cells: list[object] = []
    for taken in peers.values():
        cells += _told(taken[name]) if name in taken else ["", "", ""]
    theirs = [taken[name] for taken in peers.values() if name in taken]
    if not theirs:
        return [*cells, "", "", ""]
    first = min(each.first_ms[0] for each in theirs) / times.first_ms[0]
    each_token = min(each.each_ms[0] for each in theirs) / times.each_ms[0]
    rate = times.rate[0] / max(each.rate[0] for each in theirs)
    return [*cells, f"{first:.2f}", f"{each_token:.2f}", f"{rate:.2f}"]


def _told(times: Times) -> list[str]:
    forms = ((times.first_ms, ".2f"), (times.each_ms, ".2f"), (times.rate, ",.0f"))
    return [f"{middle:{form}} ({low:{form}} to {high:{form}})" for (middle, low, high), form in forms]


def columns(peers: Mapping[str, object]) -> list[str]:
    """Names of the columns of `row` and `beside`."""
    more = [f"{peer}: {what}" for peer in peers for what in ("first token, ms", "each token, ms", "tok/s")]
    return [*COLUMNS, *more, *(RATIOS if peers else [])]


def read_peers(paths: Sequence[Path]) -> dict[str, dict[str, Times]]:
    """What `benchmarks.peers.over_http` wrote, by the name of the engine; several files of one engine, measured in parts, are one."""
    peers: dict[str, dict[str, Times]] = {}
    for path in paths:
        told = json.loads(path.read_text())
        peers.setdefault(about.name_of(told), {}).update(read_times(told["times"]))
    return peers


def read_times(told: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Times]:
    """Times by their names, as they stand in a file."""
    return {name: Times(**{what: _range(each) for what, each in values.items()}) for name, values in told.items()}


def _range(values: Sequence[float]) -> Range:
    middle, low, high = values
    return middle, low, high


class OtherResultError(Exception):
    """A result that cannot be added to: it is of something else; says of what."""


@dataclasses.dataclass
class Result:
    """What loads took, by their names, beside what they took of peers."""

    name: str
    model: str
    device: str
    repeats: int
    peers: dict[str, dict[str, Times]]
    times: dict[str, Times] = dataclasses.field(default_factory=dict)
    source: dict[str, Any] = dataclasses.field(default_factory=provenance)
    """Asked before the first load: the tree may change while it runs."""

    def take_over(self, earlier: Mapping[str, Any]) -> None:
        """Take the times of an earlier result, of this server and of peers; what is measured again has precedence.

        Raises:
            OtherResultError: it is of another commit, GPU, model, device or number of runs, or the commit is not all that there is to know.
        """
        raw, its = earlier["raw"], earlier["provenance"]
        ours = _subject(self.source, {"model": self.model, "device": self.device, "repeats": self.repeats})
        if (theirs := _subject(its, raw)) != ours:
            raise OtherResultError(f"--add: {self.name} is of {theirs}, this run of {ours}")
        if ours["commit"] == "unknown" or ours["commit"].endswith("+changes"):
            raise OtherResultError(f"--add: nobody knows whether two trees of commit {ours['commit']} are the same")
        self.times = read_times(raw["times"]) | self.times
        for peer, times in raw["peers"].items():
            self.peers[peer] = read_times(times) | self.peers.get(peer, {})
        self.source["command"] = f"{its['command']} && {self.source['command']}"

    def write(self) -> None:
        """Write the table, loads of short prompts first."""
        self.times = dict(sorted(self.times.items(), key=_in_table))
        told = " ratios above 1 where this server is faster than the better of the others;" if self.peers else ""
        write_result(
            self.name,
            title=f"Times to tokens over HTTP, {self.model}",
            conditions=f"random weights and prompts, /v1/completions streamed, all requests of a load at once (how many, of how many prompt tokens, and "
            f"how many made), nothing cached, 256 requests at a time, budget 8192, servers that were idle for some seconds; first token from the sending of the request, each token from the "
            f"first to the last; medians of all requests of {self.repeats} runs;{told} in brackets 10th to 90th percentile, and the lowest and "
            "highest rate",
            columns=columns(self.peers),
            rows=[
                [*row(*parse_name(name), times), *beside(name, times, self.peers)] for name, times in self.times.items()
            ],
            raw={
                "model": self.model,
                "device": self.device,
                "repeats": self.repeats,
                "times": _as_objects(self.times),
                "peers": {peer: _as_objects(times) for peer, times in self.peers.items()},
            },
            source=self.source,
        )


def _subject(source: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """What two results must have in common to be one."""
    return {name: source[name] for name in ("commit", "gpu")} | {
        name: raw.get(name) for name in ("model", "device", "repeats")
    }


def _in_table(item: tuple[str, Times]) -> tuple[int, int, int]:
    load, _ = parse_name(item[0])
    return load.prompt, load.made, load.count


def _as_objects(times: Mapping[str, Times]) -> dict[str, Any]:
    return {name: dataclasses.asdict(each) for name, each in times.items()}


async def run(args: argparse.Namespace, base_url: str, result: Result) -> None:
    """Print all that `measure` gives, and write `result` with it, as it comes."""
    async for load, sampling, times in measure(args, base_url):
        result.times[name_of(load, sampling)] = times
        result.write()
        print(*row(load, sampling, times), sep=" | ", flush=True)


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is measured."""
    add = parser.add_argument
    loads = [Load.parse(text) for text in LOADS]
    add("--served-model", help="its name there; default: the first of /v1/models")
    add("--vocab-size", type=int, help="default: the server's, if it tells")
    add("--loads", nargs="+", type=Load.parse, default=loads, metavar="COUNTxPROMPTxMADE")
    add("--samplings", nargs="+", choices=SAMPLINGS, default=list(SAMPLINGS))
    add("--repeats", type=int, default=3)
    add(
        "--settle-s",
        type=float,
        default=10.0,
        help="before the first load: this server prepares its standbys on the GPU meanwhile",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3-30b-a3b-fp8-dynamic")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--base-url", help="of a server that runs already; none is started")
    parser.add_argument("--peer", type=Path, nargs="*", default=[], help="what benchmarks.peers.over_http wrote")
    parser.add_argument("--name", default="http", help="of the result")
    parser.add_argument(
        "--add", action="store_true", help="keep what the result has of loads that are not measured now"
    )
    add_measuring(parser)
    args = against.parse_args(parser, "http")
    if args.add and args.base_url:
        parser.error(
            "--add: a server that runs already may be another one, and may hold the prompts of the earlier run; leave --base-url out"
        )
    result = Result(args.name, args.model, args.device, args.repeats, read_peers(args.peer))
    earlier = read_result(args.name) if args.add else None
    if earlier is not None:
        try:
            result.take_over(earlier)
        except OtherResultError as exc:
            sys.exit(str(exc))
    if args.base_url:
        asyncio.run(run(args, args.base_url, result))
    else:
        with served(args.model, args.device) as (server, base_url):
            asyncio.run(while_runs(server, run(args, base_url, result)))


if __name__ == "__main__":
    main()
