"""The burst against `octavo serve` under many token budgets: `python -m tools.burst_budgets`.

Every budget must give the same answers, bit for bit, so that one SHA-256 stands for all. With 8192 the step log must show
steps of eight whole prompts and a part of a ninth.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BUDGETS = (8192, 1, 7, 184, 1001, 8191, 8193, 16384)
OCTAVO = [sys.executable, "-m", "octavo.cli.main"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--num-prompts", type=int, default=100)
    parser.add_argument("rest", nargs="*", help="flags of octavo serve, behind --")
    args = parser.parse_args()
    print(f"{'budget':>7} {'succeeded':>10} {'steps':>7} {'of budget':>10} {'seconds':>8}  SHA-256 of the answers")
    hashes = set()
    for budget in args.budgets:
        result, steps = burst(budget, args.num_prompts, args.rest)
        full = sum(step["tokens"] == budget for step in steps)
        counts = f"{result['succeeded']}/{args.num_prompts}"
        print(
            f"{budget:>7} {counts:>10} {len(steps):>7} {full:>10} {result['duration_s']:>8.1f}  {result['sha256']}",
            flush=True,
        )
        hashes.add(result["sha256"])
        if budget == 8192:
            for step in steps[:4]:
                print(f"        step {step['step']}: {step['tokens']} tokens, chunks {step['chunks']}")
    print("all budgets gave the same answers" if len(hashes) == 1 else "THE ANSWERS DIFFER")
    sys.exit(len(hashes) != 1)


def burst(budget: int, num_prompts: int, flags: list[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One server, one burst: its result and the step log."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
        free.close()
        log, out = Path(folder, "steps.jsonl"), Path(folder, "burst.json")
        serve = [*OCTAVO, "serve", "--port", port, "--max-model-len", "2100", "--max-num-batched-tokens", str(budget)]
        serve += ["--step-log", str(log), "--disable-uvicorn-access-log", "--logging-level", "warning", *flags]
        server = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            bench = [*OCTAVO, "bench", "burst", "--port", port, "--ready-check-timeout-sec", "600", "--disable-tqdm"]
            bench += ["--num-prompts", str(num_prompts), "--json", str(out)]
            subprocess.run(bench, check=False, stdout=subprocess.DEVNULL)
            time.sleep(0.2)
            return json.loads(out.read_text()), [json.loads(line) for line in log.read_text().splitlines()]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


if __name__ == "__main__":
    main()
