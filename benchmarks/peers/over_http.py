"""Another engine's server on the loads of `benchmarks.http`: `python -m benchmarks.peers.over_http SERVER MODEL OUT --site SITE`.

    python -m benchmarks.peers.over_http benchmarks.peers.vllm_http MODEL vllm.json --site SITE
    python -m benchmarks.peers.over_http benchmarks.peers.sglang_http MODEL sglang.json --site SITE
    python -m benchmarks.http --peer vllm.json sglang.json

This process has Octavo's environment; SERVER, a module that takes what `benchmarks.peers.server` says, runs in one of its own in which
the folders SITE come first. Its log is OUT with the suffix .log. When it ends too early or a request fails, so does this, with the end
of that log.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.http import FailedRequestError, add_measuring, measure
from benchmarks.http_times import name_of, row
from benchmarks.provenance import ROOT
from benchmarks.served import HOST, ServerEndedError, free_port, running, while_runs
from octavo.cli.bench.client import connect
from octavo.errors import OctavoError


async def ask(args: argparse.Namespace, server: subprocess.Popen[bytes], base_url: str, about: Path) -> None:
    """Wait until the server is well, and write what each load took to `args.out` as it comes."""
    await while_runs(server, ready(args, base_url))
    told: dict[str, Any] = json.loads(about.read_text()) | {"times": {}}
    await while_runs(server, write(args, base_url, told))


async def ready(args: argparse.Namespace, base_url: str) -> None:
    """Return when the server says that it is well."""
    args.base_url, args.api_key = base_url, None
    async with connect(args) as client:
        await client.wait_until_ready(args.start_s)


async def write(args: argparse.Namespace, base_url: str, told: dict[str, Any]) -> None:
    """Measure, and write `told` with what each load took."""
    async for load, sampling, times in measure(args, base_url):
        told["times"][name_of(load, sampling)] = dataclasses.asdict(times)
        args.out.write_text(json.dumps(told, indent=2) + "\n")
        print(*row(load, sampling, times), sep=" | ", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", help="module that serves")
    parser.add_argument("model", type=Path, help="folder with a config.json")
    parser.add_argument("out", type=Path, help="file for `benchmarks.http --peer`")
    parser.add_argument("--site", nargs="*", default=[], help="folders with the packages of the engine")
    parser.add_argument("--extra", default="{}", help="JSON object: more settings of the engine")
    parser.add_argument("--start-s", type=float, default=400.0, help="in which it must be well (default %(default)s)")
    add_measuring(parser)
    args = parser.parse_args()
    config = json.loads((args.model / "config.json").read_text())
    args.vocab_size = args.vocab_size or config.get("text_config", config)["vocab_size"]
    port, about = free_port(), args.out.with_suffix(".about")
    about.unlink(missing_ok=True)
    command = [sys.executable, "-m", args.server, str(args.model), str(port), str(about), "--extra", args.extra]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*args.site, str(ROOT)])}
    try:
        with running(command, args.out.with_suffix(".log"), env) as server:
            asyncio.run(ask(args, server, f"http://{HOST}:{port}", about))
    except (ServerEndedError, FailedRequestError, OctavoError) as exc:
        sys.exit(f"{args.server}: {exc}")


if __name__ == "__main__":
    main()
