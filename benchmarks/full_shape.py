"""The burst at Qwen3-30B-A3B's full shape in FP8 with random weights, on one GPU: `python -m benchmarks.full_shape`.

One server, the burst twice: the second time every prefix is cached, and the answers must have the same SHA-256 (with
`--torch` they need not).
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import against
from benchmarks.provenance import write_result

OCTAVO = [sys.executable, "-m", "octavo.cli.main"]
TORCH = [sys.executable, "-m", "benchmarks.torch_serve"]
COLUMNS = ("burst", "succeeded", "seconds", "prompt tok/s", "steps of exactly 8192", "SHA-256")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3-30b-a3b-fp8-dynamic")
    parser.add_argument("--torch", action="store_true", help="PyTorch's own operations alone, to compare with")
    parser.add_argument("--port", default="8131")
    parser.add_argument("--name", default="full_shape", help="of the result")
    parser.add_argument("flags", nargs="*", help="of octavo serve, behind --")
    args = against.parse_args(parser, "full_shape")
    with tempfile.TemporaryDirectory() as folder:
        server = TORCH if args.torch else [*OCTAVO, "serve"]
        bursts, steps, code = run([*server, args.model], args.port, args.flags, Path(folder))
    cold, cached = bursts
    # PyTorch's products may differ with the batch; Octavo's may not.
    differ = cold["sha256"] != cached["sha256"] and not args.torch
    if code != 0 or differ or cold["failed"] or cached["failed"]:
        sys.exit(
            f"server exit code {code}; failed {cold['failed']} and {cached['failed']}; {cold['sha256']} {cached['sha256']}"
        )
    whole = sum(step["tokens"] == 8192 for step in steps)
    named = (("cold", cold, whole), ("every prefix cached", cached, ""))
    rows = [
        [
            name,
            f"{b['succeeded']}/{b['num_prompts']}",
            round(b["duration_s"], 1),
            round(b["prompt_tokens_per_s"]),
            n,
            b["sha256"][:16],
        ]
        for name, b, n in named
    ]
    path = write_result(
        args.name,
        title="The burst at the shape of Qwen3-30B-A3B in FP8"
        + (", by PyTorch's own operations" if args.torch else ""),
        conditions="random weights, 100 prompts of 1001 tokens, one greedy token each, all at once, budget 8192, over HTTP"
        + ("; PyTorch operations alone" if args.torch else ""),
        columns=COLUMNS,
        rows=rows,
        raw={"steps": steps},
    )
    print(json.dumps(rows, indent=1), path.name)


def run(
    server_command: list[str], port: str, flags: list[str], folder: Path
) -> tuple[list[Any], list[dict[str, Any]], int]:
    """Both bursts, the step log, and the exit code of the server after SIGTERM."""
    log = folder / "steps.jsonl"
    serve = [*server_command, "--load-format", "dummy", "--device", "cuda", "--port", port]
    serve += ["--max-model-len", "2100", "--step-log", str(log), "--disable-uvicorn-access-log", *flags]
    server = subprocess.Popen(serve)
    try:
        bursts = []
        for number in (1, 2):
            out = folder / f"burst{number}.json"
            bench = [*OCTAVO, "bench", "burst", "--port", port, "--ready-check-timeout-sec", "300", "--disable-tqdm"]
            subprocess.run([*bench, "--json", str(out)], check=True)
            bursts.append(json.loads(out.read_text()))
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    return bursts, [json.loads(line) for line in log.read_text().splitlines()], code


if __name__ == "__main__":
    main()
