"""`octavo bench serve`: many requests against a running server, with vLLM's flags, metrics and lines."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from octavo.cli.bench.client import BenchClient, Outcome, add_server_flags, connect
from octavo.cli.bench.prompts import TokenIds, random_lengths, random_prompts
from octavo.cli.bench.report import Report, parse_goodput, parse_metrics, parse_percentiles
from octavo.cli.parsers import Commands, add_command
from octavo.errors import ConfigError

PATHS = {
    "openai": "/v1/completions",
    "vllm": "/v1/completions",
    "openai-chat": "/v1/chat/completions",
}
"""Kind of request to the route it goes to."""


def add_parser(kinds: Commands) -> None:
    parser = add_command(kinds, "serve", run, "Send random requests to a running server and report times.")
    add_server_flags(parser)
    add = parser.add_argument
    add("--backend", choices=sorted(PATHS), default="openai", help="kind of request; default: openai (completions)")
    add("--dataset-name", choices=["random"], default="random", help="default: random")
    add("--num-prompts", type=int, default=1000, metavar="N", help="default: 1000")
    add("--random-input-len", type=int, default=1024, metavar="N", help="prompt tokens; default: 1024")
    add("--random-output-len", type=int, default=128, metavar="N", help="answer tokens; default: 128")
    add("--random-range-ratio", type=float, default=0.0, metavar="X", help="spread of both lengths; default: 0")
    add("--random-prefix-len", type=int, default=0, metavar="N", help="tokens all prompts share; default: 0")
    add("--vocab-size", type=int, metavar="N", help="token ids are drawn below it; default: the server's vocabulary")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")
    add("--request-rate", type=float, default=math.inf, metavar="X", help="requests per second; default: inf")
    add("--burstiness", type=float, default=1.0, metavar="X", help="1: Poisson; below: burstier; default: 1")
    add("--max-concurrency", type=int, metavar="N", help="most open requests; default: no limit")
    add("--num-warmups", type=int, default=0, metavar="N", help="requests before the clock starts; default: 0")
    add("--ignore-eos", action="store_true", help="make exactly the asked number of tokens")
    add("--temperature", type=float, metavar="X", help="default: the server's")
    add("--extra-body", type=json.loads, default={}, metavar="JSON", help="more fields for every request")
    add("--goodput", nargs="+", default=[], metavar="NAME:MS", help="limits of a good request: ttft, tpot, e2el")
    add("--percentile-metrics", default="ttft,tpot,itl,e2el", metavar="TEXT", help="default: %(default)s")
    add("--metric-percentiles", default="99", metavar="TEXT", help="default: 99")
    add("--save-result", action="store_true", help="write the numbers as JSON")
    add("--save-detailed", action="store_true", help="with the numbers of every request")
    add("--result-dir", type=Path, default=Path(), metavar="DIR", help="default: here")
    add("--result-filename", metavar="FILE", help="default: octavo-RATEqps-MODEL-TIME.json")
    add("--disable-tqdm", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    metrics, goodput = parse_metrics(args.percentile_metrics), parse_goodput(args.goodput)
    percentiles = parse_percentiles(args.metric_percentiles)
    for name in ("request_rate", "burstiness", "max_concurrency"):
        value = getattr(args, name)
        if value is not None and not value > 0:
            raise ConfigError("--" + name.replace("_", "-"), f"must be above 0, got {value}")
    model, outcomes, duration_s = asyncio.run(_run(args))
    report = Report(outcomes, duration_s, goodput, percentiles, args.request_rate, args.max_concurrency)
    print(*report.error_lines(), *report.lines(metrics), sep="\n")
    if args.save_result:
        print(f"saved to {_save(args, report, model)}")
    return 0 if not report.failed else 1


async def _run(args: argparse.Namespace) -> tuple[str, list[Outcome], float]:
    async with connect(args) as client:
        if args.ready_check_timeout_sec > 0:
            await client.wait_until_ready(args.ready_check_timeout_sec)
        model = args.model or await client.model()
        requests = await _requests(args, client, model)
        path = PATHS[args.backend]

        async def send(index: int) -> Outcome:
            payload, prompt_tokens = requests[index]
            return await client.stream(path, payload, prompt_tokens)

        if args.num_warmups:
            await asyncio.gather(*(send(index % len(requests)) for index in range(args.num_warmups)))
        delays = arrival_times(len(requests), args.request_rate, args.burstiness, args.seed)
        start = time.perf_counter()
        outcomes = await send_all(send, delays, args.max_concurrency, args.disable_tqdm)
        return model, outcomes, time.perf_counter() - start


async def send_all(
    send: Callable[[int], Awaitable[Outcome]], delays: Sequence[float], max_concurrency: int | None, quiet: bool
) -> list[Outcome]:
    """`send(i)` at `delays[i]` seconds from now, at most `max_concurrency` at once; the outcomes in order."""
    gate = asyncio.Semaphore(max_concurrency or len(delays))
    start = time.perf_counter()
    with tqdm(total=len(delays), disable=quiet, unit="req") as bar:

        async def one(index: int) -> Outcome:
            await asyncio.sleep(max(0.0, start + delays[index] - time.perf_counter()))
            async with gate:
                outcome = await send(index)
            bar.update()
            return outcome

        return list(await asyncio.gather(*(one(index) for index in range(len(delays)))))


def arrival_times(count: int, rate: float, burstiness: float, seed: int) -> list[float]:
    """Seconds from the start at which each request is sent: gaps from a gamma distribution of shape `burstiness` and
    mean 1 / `rate`, scaled so that the last is sent at `count / rate`."""
    if math.isinf(rate):
        return [0.0] * count
    gaps = np.random.default_rng(seed).gamma(burstiness, 1 / (rate * burstiness), size=count)
    times = np.cumsum(gaps)
    return [float(at) for at in times * (count / rate / times[-1])]


async def _requests(args: argparse.Namespace, client: BenchClient, model: str) -> list[tuple[dict[str, Any], int]]:
    """Bodies of all requests, each with its number of prompt tokens."""
    vocab_size = args.vocab_size or await server_vocab_size(client)
    prompts = random_prompts(
        count=args.num_prompts,
        length=args.random_input_len,
        vocab_size=vocab_size,
        seed=args.seed,
        prefix_length=args.random_prefix_len,
        range_ratio=args.random_range_ratio,
    )
    lengths = random_lengths(
        count=args.num_prompts, length=args.random_output_len, seed=args.seed + 1, range_ratio=args.random_range_ratio
    )
    common: dict[str, Any] = {"model": model}
    if args.ignore_eos:
        common["ignore_eos"] = True
    if args.temperature is not None:
        common["temperature"] = args.temperature
    common |= args.extra_body
    if args.backend == "openai-chat":
        texts = await asyncio.gather(*(_text(client, model, prompt) for prompt in prompts))
        return [
            ({**common, "messages": [{"role": "user", "content": text}], "max_completion_tokens": n}, len(prompt))
            for text, prompt, n in zip(texts, prompts, lengths, strict=True)
        ]
    return [
        ({**common, "prompt": prompt, "max_tokens": n, "repetition_penalty": 1.0}, len(prompt))
        for prompt, n in zip(prompts, lengths, strict=True)
    ]


async def _text(client: BenchClient, model: str, prompt: TokenIds) -> str:
    return str((await client.post("/detokenize", {"model": model, "tokens": prompt}))["prompt"])


async def server_vocab_size(client: BenchClient) -> int:
    """The vocabulary of the model that an Octavo server serves.

    Raises:
        ConfigError: the server does not tell.
    """
    info = await client.get("/server_info")
    size = info.get("engine", {}).get("vocab_size")
    if not isinstance(size, int):
        raise ConfigError("--vocab-size", "must be given: this server's /server_info does not tell it")
    return size


def _save(args: argparse.Namespace, report: Report, model: str) -> Path:
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    name = args.result_filename or f"octavo-{args.request_rate}qps-{model.split('/')[-1]}-{now}.json"
    rate = args.request_rate if math.isfinite(args.request_rate) else "inf"
    result = {
        "date": now,
        "backend": args.backend,
        "model_id": model,
        "num_prompts": args.num_prompts,
        "request_rate": rate,
        "burstiness": args.burstiness,
        "max_concurrency": args.max_concurrency,
        "seed": args.seed,
        **report.to_json(),
        **(report.details() if args.save_detailed else {}),
    }
    path: Path = args.result_dir / name
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path
