"""`octavo bench recovery`: kills the worker of a running server under load, on a schedule, and measures what clients see.

The same load runs twice, first undisturbed; every answer must have the same text both times.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import itertools
import json
import os
import signal
import statistics
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from octavo.cli.bench.client import BenchClient, Outcome, add_server_flags, connect
from octavo.cli.bench.prompts import random_prompts
from octavo.cli.bench.report import MAX_ERRORS_SHOWN
from octavo.cli.bench.serve import server_vocab_size
from octavo.cli.parsers import Commands, add_command
from octavo.errors import ConfigError, OctavoError

LOCAL = {"127.0.0.1", "localhost", "::1"}
RECOVERY_LIMIT_S = 600.0
"""How long the server may take to be well again before the next kill."""
PERCENTILES = (50, 99, 100)


@dataclasses.dataclass(frozen=True)
class Load:
    """One run of all requests."""

    outcomes: Sequence[Outcome]
    kills: Sequence[float]
    """When the worker was killed, on the clock of the outcomes."""

    @property
    def errors(self) -> list[str]:
        return [outcome.error for outcome in self.outcomes if not outcome.success]

    @property
    def digest(self) -> str:
        """SHA-256 over the texts of the answers."""
        sha = hashlib.sha256()
        for outcome in self.outcomes:
            sha.update(json.dumps([outcome.text, outcome.output_tokens]).encode())
        return sha.hexdigest()

    def recoveries_s(self) -> list[float]:
        """For each kill: the longest time after it, and before the next, in which no client got anything."""
        arrivals = sorted(itertools.chain.from_iterable(outcome.arrivals for outcome in self.outcomes))
        pauses = []
        for kill, after in itertools.zip_longest(self.kills, self.kills[1:], fillvalue=float("inf")):
            times = [kill, *(at for at in arrivals if kill < at <= after)]
            pauses.append(max((late - early for early, late in itertools.pairwise(times)), default=0.0))
        return pauses

    def tails(self) -> dict[str, float]:
        """Percentiles, in seconds, of the time to the first token, between chunks, and of the whole answer."""
        done = [outcome for outcome in self.outcomes if outcome.success]
        samples = {
            "ttft": [outcome.ttft_s for outcome in done],
            "itl": [itl for outcome in done for itl in outcome.itls_s],
            "e2el": [outcome.latency_s for outcome in done],
        }
        return {
            f"{name}_p{percent}_s": float(np.percentile(values or [0.0], percent))
            for name, values in samples.items()
            for percent in PERCENTILES
        }


def add_parser(kinds: Commands) -> None:
    parser = add_command(kinds, "recovery", run, "Kill the worker of a server on this machine under load.")
    add_server_flags(parser)
    add = parser.add_argument
    add("--kills", type=int, default=5, metavar="N", help="times the worker is killed; default: 5")
    add("--kill-interval", type=float, default=1.0, metavar="X", help="seconds of health before each; default: 1")
    add("--num-prompts", type=int, default=100, metavar="N", help="requests, all at once; default: 100")
    add("--input-len", type=int, default=128, metavar="N", help="prompt tokens of each; default: 128")
    add("--output-len", type=int, default=256, metavar="N", help="answer tokens of each; default: 256")
    add("--vocab-size", type=int, metavar="N", help="token ids are drawn below it; default: the server's vocabulary")
    add("--seed", type=int, default=0, metavar="N", help="of prompts and answers; default: 0")
    add("--json", type=Path, metavar="FILE", help="write the numbers")


def run(args: argparse.Namespace) -> int:
    url = args.base_url or f"http://{args.host}:{args.port}"
    if urllib.parse.urlsplit(url).hostname not in LOCAL:
        raise ConfigError("--base-url", f"must be a server on this machine, whose worker can be killed; got {url}")
    for name in ("kills", "kill_interval"):
        if not getattr(args, name) > 0:
            raise ConfigError("--" + name.replace("_", "-"), f"must be above 0, got {getattr(args, name)}")
    plain, killed = asyncio.run(_run(args))
    result = report(plain, killed)
    for error in [*plain.errors, *killed.errors][:MAX_ERRORS_SHOWN]:
        print(f"request failed: {error}")
    print(*lines(result), sep="\n")
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if not result["failed"] and result["equal"] and result["kills"] == args.kills else 1


def report(plain: Load, killed: Load) -> dict[str, Any]:
    """All numbers; times in seconds."""
    recoveries = killed.recoveries_s()
    return {
        "requests": len(killed.outcomes),
        "failed": len(plain.errors) + len(killed.errors),
        "kills": len(killed.kills),
        "equal": plain.digest == killed.digest,
        "recovery_median_s": statistics.median(recoveries) if recoveries else None,
        "recovery_worst_s": max(recoveries, default=None),
        "recoveries_s": recoveries,
        "undisturbed": plain.tails(),
        "killed": killed.tails(),
        "sha256": killed.digest,
    }


def lines(result: dict[str, Any]) -> list[str]:
    """What is printed."""
    told = [
        f"Requests:        {result['requests']}, failed {result['failed']} in both runs",
        f"Kills:           {result['kills']}",
        f"Answers:         {'the same as undisturbed' if result['equal'] else 'DIFFER from the undisturbed run'}",
    ]
    if result["recoveries_s"]:
        median, worst = result["recovery_median_s"], result["recovery_worst_s"]
        told.append(
            f"Recovery (s):    median {median:.2f}, worst {worst:.2f}, from the kill to the next token of anybody"
        )
    told.append("Seconds          undisturbed  with kills")
    for name, before in result["undisturbed"].items():
        told.append(f"{name:<16} {before:>11.3f} {result['killed'][name]:>11.3f}")
    return told


async def _run(args: argparse.Namespace) -> tuple[Load, Load]:
    async with connect(args) as client:
        if args.ready_check_timeout_sec > 0:
            await client.wait_until_ready(args.ready_check_timeout_sec)
        payloads = await _payloads(args, client)
        plain = Load(await _ask_all(client, payloads), [])
        asking = asyncio.create_task(_ask_all(client, payloads))
        kills = await _kill(client, args.kills, args.kill_interval, asking)
        return plain, Load(await asking, kills)


async def _payloads(args: argparse.Namespace, client: BenchClient) -> list[dict[str, Any]]:
    vocab_size = args.vocab_size or await server_vocab_size(client)
    prompts = random_prompts(count=args.num_prompts, length=args.input_len, vocab_size=vocab_size, seed=args.seed)
    # With its ids a token that completes no character is a chunk too, and is timed.
    common = {
        "model": args.model or await client.model(),
        "max_tokens": args.output_len,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    return [{**common, "prompt": prompt, "seed": args.seed + i} for i, prompt in enumerate(prompts)]


async def _ask_all(client: BenchClient, payloads: Sequence[dict[str, Any]]) -> list[Outcome]:
    asked = (client.stream("/v1/completions", payload, len(payload["prompt"])) for payload in payloads)
    return list(await asyncio.gather(*asked))


async def _kill(client: BenchClient, count: int, interval_s: float, asking: asyncio.Task[Any]) -> list[float]:
    """Kill the worker `count` times, each after `interval_s` seconds in which it was well, while `asking` goes on."""
    kills: list[float] = []
    while len(kills) < count:
        await client.wait_until_ready(RECOVERY_LIMIT_S)
        await asyncio.wait([asking], timeout=interval_s)
        if asking.done():
            break
        pid = int((await client.get("/server_info"))["worker"]["pid"])
        check_worker(pid)
        os.kill(pid, signal.SIGKILL)
        kills.append(time.perf_counter())
        await _until_noticed(client, pid)
    return kills


async def _until_noticed(client: BenchClient, pid: int) -> None:
    """Wait until the server knows that its worker is gone, so that it is not taken for well."""
    for _ in range(500):
        try:
            if (await client.get("/health"))["worker_pid"] != pid:
                return
        except OctavoError:
            return
        await asyncio.sleep(0.01)


def check_worker(pid: int) -> None:
    """Check that `pid` is a worker of Octavo before it is killed.

    Raises:
        OctavoError: it is something else.
    """
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError as exc:
        raise OctavoError(f"the worker, process {pid}, is not on this machine: {exc.strerror}") from exc
    if b"octavo.worker" not in command:
        raise OctavoError(f"process {pid} is no worker of Octavo: {b' '.join(command)[:200]!r}")
