"""Runs clients and agent frameworks, unmodified, against a running server: tools, forms, both further protocols.

    octavo serve &
    python -m tools.clients.agents --scratch DIR                     all of them
    python -m tools.clients.agents --scratch DIR --only langchain    one

Each is a program in `programs/`, which says what it has done; a table is printed for docs/clients.md. Packages go into DIR.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.clients.environment import make_environment, run

PROGRAMS = Path(__file__).parent / "programs"
LIMIT_S = 600


@dataclasses.dataclass(frozen=True)
class Client:
    """A program, and the packages that it needs, the client's own first."""

    program: str
    packages: tuple[str, ...]


CLIENTS = {
    "openai-python": Client("openai_python.py", ("openai==3.57.0",)),
    "anthropic": Client("anthropic_python.py", ("anthropic==2.14.0",)),
    "litellm": Client("litellm_python.py", ("litellm==1.110.2",)),
    "langchain": Client("langchain_python.py", ("langchain-openai==1.7.4", "langgraph==1.2.24")),
    "llama-index": Client("llama_index_python.py", ("llama-index-llms-openai-like", "llama-index-core")),
    "instructor": Client("instructor_python.py", ("instructor==1.17.0",)),
    "pydantic-ai": Client("pydantic_ai_python.py", ("pydantic-ai-slim[openai]==2.68.0",)),
    "openai-node": Client("openai_node.mjs", ("openai@6.49.0", "zod")),
    "vercel-ai": Client("ai_sdk_node.mjs", ("ai@6.0.326", "@ai-sdk/openai", "@ai-sdk/openai-compatible", "zod")),
}


@dataclasses.dataclass(frozen=True)
class Result:
    """What a program said that it has done, and how it failed, if it did."""

    versions: str
    done: Sequence[str]
    failure: str | None


def ask(client: Client, scratch: Path, environment: dict[str, str]) -> Result:
    """Install `client` below `scratch` and run its program."""
    if client.program.endswith(".mjs"):
        command, versions = _node(client, scratch)
    else:
        command, versions = _python(client, scratch)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    done = re.findall(r"^done: (.*)$", ended.stdout, re.MULTILINE)
    failure = None if ended.returncode == 0 else (ended.stderr.strip().splitlines() or ["no word"])[-1]
    if failure is not None:
        print(ended.stderr[-4000:], file=sys.stderr)
    return Result(versions, done, failure)


def _python(client: Client, scratch: Path) -> tuple[list[str], str]:
    python = make_environment(scratch / Path(client.program).stem, client.packages)
    names = [re.split(r"[\[=]", package)[0] for package in client.packages]
    told = "from importlib.metadata import version\nimport sys\nprint(*(f'{n} {version(n)}' for n in sys.argv[1:]), sep=', ')"
    versions = subprocess.run([python, "-c", told, *names], capture_output=True, text=True, check=True).stdout.strip()
    return [str(python), str(PROGRAMS / client.program)], versions


def _node(client: Client, scratch: Path) -> tuple[list[str], str]:
    """Node finds packages beside a program, so the program is copied there."""
    folder = scratch / Path(client.program).stem
    folder.mkdir(parents=True, exist_ok=True)
    run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, *client.packages])
    for program in PROGRAMS.glob("*.mjs"):
        (folder / program.name).write_text(program.read_text(encoding="utf-8"), encoding="utf-8")
    installed = json.loads((folder / "package.json").read_text(encoding="utf-8"))["dependencies"]
    versions = ", ".join(f"{name} {version.lstrip('^')}" for name, version in installed.items() if name != "zod")
    return ["node", str(folder / client.program)], f"{versions} (Node)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for the packages")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="octavo-tiny")
    parser.add_argument("--only", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    args = parser.parse_args()
    environment = os.environ | {
        "MODEL": args.model,
        "OPENAI_BASE_URL": f"{args.url}/v1",
        "OPENAI_API_KEY": "none",
        "PYTHONWARNINGS": "ignore",
    }
    failed = False
    print("| Client | What was done |\n| --- | --- |")
    for name in args.only:
        result = ask(CLIENTS[name], args.scratch.absolute(), environment)
        failed |= result.failure is not None
        then = "" if result.failure is None else f"; then: {result.failure}"
        print(f"| {result.versions} | {', '.join(result.done)}{then} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
