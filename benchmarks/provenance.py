"""Where a number comes from: written beside every result."""

from __future__ import annotations

import datetime
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import tables
from octavo.cli.collect_env import collect

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
WRITTEN = ("benchmarks/results", "docs/benchmarks.md")
"""By benchmarks, in a tree."""


def provenance() -> dict[str, Any]:
    """Commit, machine, versions and command of this run. No host name, no path of this machine.

    BENCHMARK_COMMIT in the environment names the commit of a tree that was copied without its history.
    """
    env = collect()
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "commit": os.environ.get("BENCHMARK_COMMIT") or commit_of(ROOT),
        "command": shlex.join(["python", *_program(), *map(without_folders, sys.argv[1:])]),
        "python": env["system"]["python"],
        "cpu": f"{env['system']['cpu']}, {env['system']['cores']} cores",
        "gpu": ", ".join(value for name, value in env["gpu"].items() if name.startswith("gpu")) or "none",
        **{name: _version(name) for name in ("torch", "triton", "transformers")},
    }


def write_result(
    name: str,
    *,
    title: str,
    conditions: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    raw: object = None,
    source: Mapping[str, Any] | None = None,
) -> Path:
    """Write a table with its provenance to benchmarks/results/NAME.json and put it into docs/benchmarks.md.

    Returns the JSON file.

    Args:
        conditions: what a reader must know to judge the numbers, in one or two sentences.
        rows: as long as `columns`; numbers already rounded to what is known.
        raw: all measurements, for who wants to look closer.
        source: what `provenance` gave when the run began; None: it is asked now.
    """
    assert all(len(row) == len(columns) for row in rows)
    result = {
        "title": title,
        "conditions": conditions,
        "columns": columns,
        "rows": rows,
        "raw": raw,
        "provenance": provenance() if source is None else source,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    tables.PAGE.write_text(tables.page(), encoding="utf-8")
    return path


def read_result(name: str) -> dict[str, Any] | None:
    """What `write_result` wrote under this name; None if it did not."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def _program() -> list[str]:
    """What Python runs: a module, or the name of a file."""
    spec = sys.modules["__main__"].__spec__
    return [Path(sys.argv[0]).name] if spec is None else ["-m", spec.name]


def without_folders(word: str) -> str:
    """A word of a command without the folders of this machine: `/data/vllm.json` is `vllm.json`, `--peer=~/vllm.json` is
    `--peer=vllm.json`; paths within the tree and all else stay as they are."""
    flag, is_set, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
    outside = value.startswith(("/", "~", "..")) and Path(value).name
    return flag + is_set + (Path(value).name if outside else value)


def commit_of(folder: Path) -> str:
    """The commit that is checked out in `folder`, with a mark if files differ from it; `unknown` where it is no checkout's root.

    Files that benchmarks write may differ: what they measure is the same.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or _git(folder, "rev-parse", "--show-prefix"):
        return "unknown"
    changes = _git(
        folder, "status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{name}" for name in WRITTEN)
    )
    return commit + ("+changes" if changes else "")


def _git(folder: Path, *words: str) -> str | None:
    """What git says; None if there is no git, or `folder` is in no repository of it."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
