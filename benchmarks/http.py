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
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import against
from benchmarks.http_times import Load, OtherResultError, Result, Times, name_of, read_peers, row
from benchmarks.provenance import read_result
from benchmarks.served import HOST, free_port, running, while_runs
from octavo.cli.bench.client import BenchClient, Outcome, connect
from octavo.cli.bench.prompts import random_prompts
from octavo.cli.bench.serve import server_vocab_size

START_S = 300.0
LOAD_S = 240.0
"""In which all requests of a load must be answered."""
LOADS = ["1x512x128", "16x512x128", "64x512x128", "256x512x128"]
GREEDY_LOADS = [f"{count}x{length}x128" for length in (8000, 32000) for count in (1, 8, 32)]
"""What a sampling costs of them can hardly be seen."""
GREEDY = {"temperature": 0.0}
ADVISED = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
"""What Qwen advises for Qwen3 without thinking (the model's card)."""
SAMPLINGS: dict[str, dict[str, Any]] = {"greedy": GREEDY, "Qwen's": ADVISED}


class FailedRequestError(Exception):
    """A request of a load failed, or made another number of tokens; says what came."""


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
        for load, name in planned(args.loads, args.samplings, args.greedy_loads):
            runs = []
            for _ in range(args.repeats + 1):
                seed += 1
                runs.append(await answer(client, model, load, SAMPLINGS[name], vocab_size, seed))
            yield load, name, Times.of(load, runs[1:])


def planned(
    loads: Sequence[Load] | None, samplings: Sequence[str], greedy_loads: Sequence[Load] | None
) -> list[tuple[Load, str]]:
    """Each load with the name of each of its samplings; None: those of `LOADS`, and none or those of `GREEDY_LOADS`."""
    if loads is None:
        loads = [Load.parse(text) for text in LOADS]
        greedy_loads = [Load.parse(text) for text in GREEDY_LOADS] if greedy_loads is None else greedy_loads
    return [(load, name) for load in loads for name in samplings] + [(load, "greedy") for load in greedy_loads or ()]


async def run(args: argparse.Namespace, base_url: str, result: Result) -> None:
    """Print all that `measure` gives, and write `result` with it, as it comes."""
    async for load, sampling, times in measure(args, base_url):
        result.times[name_of(load, sampling)] = times
        result.write()
        print(*row(load, sampling, times), sep=" | ", flush=True)


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is measured."""
    add = parser.add_argument
    add("--served-model", help="its name there; default: the first of /v1/models")
    add("--vocab-size", type=int, help="default: the server's, if it tells")
    form: dict[str, Any] = {"nargs": "*", "type": Load.parse, "metavar": "COUNTxPROMPTxMADE"}
    add("--loads", **form, help=f"with each of --samplings (default: {' '.join(LOADS)})")
    add("--samplings", nargs="+", choices=SAMPLINGS, default=list(SAMPLINGS))
    add("--greedy-loads", **form, help=f"greedy alone (default: {' '.join(GREEDY_LOADS)}, and none with --loads)")
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
