"""Times to tokens over HTTP: `python -m benchmarks.http` starts `octavo serve` with random weights and asks it.

    python -m benchmarks.http                                        this server, Qwen3-30B-A3B's shape, on one GPU
    python -m benchmarks.http --base-url http://127.0.0.1:8001 --model NAME --vocab-size 151936 --name http_vllm
    python -m benchmarks.http --model octavo-tiny --device cpu --loads 1x32x8 4x32x8

All requests of a load are sent at once, and the next load when they have ended; their prompts are random, and no two are equal, so that
no cache holds any of them. Each load runs once to warm up, and then as often as told.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks import against
from benchmarks.provenance import write_result
from octavo.cli.bench.client import BenchClient, Outcome, connect
from octavo.cli.bench.prompts import random_prompts
from octavo.cli.bench.serve import server_vocab_size

HOST = "127.0.0.1"
START_S = 300.0
LOADS = ["1x512x128", "16x512x128", "64x512x128", "256x512x128"] + [
    f"{count}x{length}x128" for length in (8000, 32000) for count in (1, 8, 32)
]
GREEDY = {"temperature": 0.0}
ADVISED = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
"""What Qwen advises for Qwen3 without thinking (the model's card)."""
SAMPLINGS: dict[str, dict[str, Any]] = {"greedy": GREEDY, "Qwen's": ADVISED}
COLUMNS = (
    "load",
    "sampling",
    "first token, ms",
    "10th to 90th percentile",
    "each token, ms",
    "10th to 90th percentile",
    "tok/s",
)


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


@contextmanager
def served(model: str, device: str) -> Iterator[str]:
    """A server with random weights: its address. It is ended as a user ends one."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    weights = [] if model.startswith("octavo-tiny") else ["--load-format", "dummy"]
    command = [
        sys.executable,
        "-m",
        "octavo",
        "serve",
        "--model",
        model,
        "--device",
        device,
        "--port",
        str(port),
        *weights,
    ]
    server = subprocess.Popen([*command, "--max-num-seqs", "256"])
    try:
        yield f"http://{HOST}:{port}"
    finally:
        server.terminate()
        server.wait()


async def answer(
    client: BenchClient, model: str, load: Load, sampling: dict[str, Any], vocab_size: int, seed: int
) -> list[Outcome]:
    """Send all requests of `load` at once.

    Raises:
        FailedRequestError: one was not answered with all its tokens.
    """
    prompts = random_prompts(count=load.count, length=load.prompt, vocab_size=vocab_size, seed=seed)
    common = {"model": model, "max_tokens": load.made, "ignore_eos": True, **sampling}
    bodies = [{**common, "prompt": prompt, "seed": number} for number, prompt in enumerate(prompts)]
    outcomes = await asyncio.gather(*(client.stream("/v1/completions", body, load.prompt) for body in bodies))
    for outcome in outcomes:
        if not outcome.success or outcome.output_tokens != load.made:
            raise FailedRequestError(outcome.error or f"{outcome.output_tokens} tokens in place of {load.made}")
    return outcomes


def row(load: Load, sampling: str, runs: Sequence[Sequence[Outcome]]) -> list[object]:
    """Cells of the table, of all requests of all runs; tokens per second are of the median run, from the first request to the last token."""
    outcomes = [outcome for run in runs for outcome in run]
    rates = [len(run) * load.made / (max(o.arrivals[-1] for o in run) - min(o.started for o in run)) for run in runs]
    cells: list[object] = [str(load), sampling]
    for seconds in ([outcome.ttft_s for outcome in outcomes], [outcome.tpot_s for outcome in outcomes]):
        ms = sorted(1000 * value for value in seconds)
        low, high = ms[len(ms) // 10], ms[len(ms) * 9 // 10]
        cells += [f"{statistics.median(ms):.2f}", f"{low:.2f} to {high:.2f}"]
    return [*cells, f"{statistics.median(rates):,.0f}"]


async def measure(args: argparse.Namespace, base_url: str) -> list[list[object]]:
    """One row for each load and sampling, printed as it comes."""
    args.base_url, args.api_key = base_url, None
    rows: list[list[object]] = []
    async with connect(args) as client:
        await client.wait_until_ready(START_S)
        model = args.served_model or await client.model()
        vocab_size = args.vocab_size or await server_vocab_size(client)
        for load in args.loads:
            for name in args.samplings:
                runs = [
                    await answer(client, model, load, SAMPLINGS[name], vocab_size, seed=len(rows) * 100 + repeat)
                    for repeat in range(args.repeats + 1)
                ]
                rows.append(row(load, name, runs[1:]))
                print(*rows[-1], sep=" | ", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3-30b-a3b-fp8-dynamic")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--base-url", help="of a server that runs already; none is started")
    parser.add_argument("--served-model", help="its name there; default: the first of /v1/models")
    parser.add_argument("--vocab-size", type=int, help="default: the server's, if it tells")
    parser.add_argument(
        "--loads", nargs="+", type=Load.parse, default=[Load.parse(text) for text in LOADS], metavar="COUNTxPROMPTxMADE"
    )
    parser.add_argument("--samplings", nargs="+", choices=SAMPLINGS, default=list(SAMPLINGS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--name", default="http", help="of the result")
    args = against.parse_args(parser, "http")
    if args.base_url:
        rows = asyncio.run(measure(args, args.base_url))
    else:
        with served(args.model, args.device) as base_url:
            rows = asyncio.run(measure(args, base_url))
    write_result(
        args.name,
        title=f"Times to tokens over HTTP, {args.model}",
        conditions=f"random weights and prompts, /v1/completions streamed, all requests of a load at once (how many, of how many prompt tokens, and how "
        f"many made), nothing cached; first token from the sending of the request, each token from the first to the last; {args.repeats} repeats",
        columns=COLUMNS,
        rows=rows,
    )


if __name__ == "__main__":
    main()
