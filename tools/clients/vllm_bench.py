"""Runs vLLM's own benchmark client, from its wheel, against a running server.

    octavo serve &
    python -m tools.clients.vllm_bench --scratch DIR -- --num-prompts 100 --ignore-eos

The wheel is unpacked without its compiled parts and vLLM is not installed: its client needs only Python files. What
follows `--` goes to `vllm bench serve`.
"""

from __future__ import annotations

import argparse
import os
import zipfile
from pathlib import Path

from tools.clients.environment import make_environment, run

WHEEL = "vllm==0.26.0"
NEEDS = (
    "aiohttp",
    "numpy",
    "tqdm",
    "transformers",
    "regex",
    "pybase64",
    "pillow",
    "cbor2",
    "openai_harmony",
    "cachetools",
)
TOKENIZER = Path(__file__).parents[2] / "src" / "octavo" / "assets" / "octavo-tiny"
CALL = (
    "from vllm.benchmarks.serve import add_cli_args, main\n"
    "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
    "parser = FlexibleArgumentParser()\n"
    "add_cli_args(parser)\n"
    "main(parser.parse_args())\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the environment and the wheel")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="octavo-tiny")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER)
    parser.add_argument("rest", nargs="*", help="flags of vllm bench serve, behind --")
    args = parser.parse_args()
    python = make_environment(args.scratch / "environment", NEEDS)
    source = unpack(args.scratch, python)
    flags = [
        "--base-url",
        args.url,
        "--model",
        args.model,
        "--tokenizer",
        str(args.tokenizer),
        "--dataset-name",
        "random",
    ]
    environ = {**os.environ, "PYTHONPATH": str(source), "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    run([python, "-c", CALL, *flags, *args.rest], env=environ)


def unpack(scratch: Path, python: Path) -> Path:
    """The Python files of vLLM's wheel."""
    source = scratch / "vllm"
    if not source.exists():
        run([python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL])
        (wheel,) = scratch.glob("vllm-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(
                source, [name for name in archive.namelist() if name.endswith(".py") or ".dist-info/" in name]
            )
    return source


if __name__ == "__main__":
    main()
