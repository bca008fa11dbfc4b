"""A benchmark of this tree and of another commit, turn by turn: `python -m benchmarks.NAME --against REF`.

REF is a commit, or a folder that holds another tree of this repository, for machines without git. Each turn runs the
benchmark as each tree has it, in a process of its own on a copy of the tree, so that whatever slows the machine slows both.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.provenance import ROOT, commit_of, write_result

COLUMNS = ("what", "this tree", "lowest and highest", "the other", "lowest and highest", "this / other")
SPREADS = ("least", "most", "lowest", "highest")
"""How columns begin that are the spread of one run: turns have one of their own."""
KEPT = ("src", "benchmarks", "tools", "docs", "pyproject.toml")
"""What a benchmark needs of a tree."""
LAST_LINES = 20
"""Of a run that failed."""

Cells = dict[str, float]
"""Name of a row and a column to the number there."""


class RunFailedError(Exception):
    """A tree's benchmark ended with an error; says which, and what it printed last."""


@dataclasses.dataclass(frozen=True)
class Tree:
    """A copy of a tree in which a benchmark may write."""

    folder: Path
    name: str
    """What the table calls it."""
    commit: str

    def run(self, benchmark: str, arguments: Sequence[str]) -> Cells:
        """The numbers in the tables that `benchmarks/BENCHMARK.py` writes.

        Raises:
            RunFailedError: it fails, or writes no table.
        """
        results = self.folder / "benchmarks" / "results"
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir(parents=True)
        path = os.pathsep.join([str(self.folder / "src"), str(self.folder)])
        done = subprocess.run(
            [sys.executable, "-m", f"benchmarks.{benchmark}", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path, "BENCHMARK_COMMIT": self.commit},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        written = sorted(results.glob("*.json"))
        if done.returncode or not written:
            words = "\n".join(done.stdout.splitlines()[-LAST_LINES:])
            raise RunFailedError(f"{benchmark} of {self.name} ended with code {done.returncode}:\n{words}")
        return {name: cell for file in written for name, cell in cells(json.loads(file.read_text())).items()}


def parse_args(
    parser: argparse.ArgumentParser, benchmark: str, words: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse the arguments of `benchmarks/BENCHMARK.py`; with `--against`, compare instead and exit."""
    words = sys.argv[1:] if words is None else words
    outer = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for one in (parser, outer):
        group = one.add_argument_group("comparison")
        group.add_argument("--against", metavar="REF", help="compare with a commit, or a folder with another tree")
        group.add_argument("--turns", type=int, default=5, help="of each tree (default %(default)s)")
    args, rest = outer.parse_known_args(words)
    if args.against is None:
        return parser.parse_args(words)
    parser.parse_args(words)  # a wrong argument is told at once, not by the first run
    try:
        compare(benchmark, args.against, args.turns, rest)
    except RunFailedError as exc:
        sys.exit(str(exc))
    sys.exit(0)


def compare(benchmark: str, other: str, turns: int, arguments: Sequence[str]) -> None:
    """Run `benchmark` `turns` times of each tree and write its table as `benchmarks/results/BENCHMARK_against.json`.

    Raises:
        RunFailedError: a run fails, or there is no such tree.
    """
    with tempfile.TemporaryDirectory(prefix="against-") as scratch:
        trees = (this_tree(Path(scratch) / "this"), other_tree(other, Path(scratch) / "other"))
        runs = take_turns(trees, benchmark, turns, arguments)
    rows = table(*runs)
    for row in rows:
        print(*row, sep=" | ", flush=True)
    told = f" with {' '.join(arguments)}" if arguments else ""
    write_result(
        f"{benchmark}_against",
        title=f"{benchmark}{told}, against {trees[1].name}",
        conditions=f"medians of {turns} runs of each tree, in turns, each in a process of its own; the other tree is "
        f"{trees[1].name} ({trees[1].commit})",
        columns=COLUMNS,
        rows=rows,
        raw={"this": runs[0], "other": runs[1], "commits": [tree.commit for tree in trees]},
    )


def take_turns(
    trees: tuple[Tree, Tree], benchmark: str, turns: int, arguments: Sequence[str]
) -> tuple[list[Cells], list[Cells]]:
    """The numbers of each run of each tree; who is first changes from turn to turn."""
    runs: tuple[list[Cells], list[Cells]] = ([], [])
    for turn in tqdm(range(turns), desc="Turns"):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            runs[which].append(trees[which].run(benchmark, arguments))
    return runs


def this_tree(folder: Path) -> Tree:
    """A copy of this tree as it is, with what is not committed."""
    return _copied(ROOT, folder, "this tree", os.environ.get("BENCHMARK_COMMIT") or commit_of(ROOT))


def other_tree(name: str, folder: Path) -> Tree:
    """A copy of the tree that `name` means: a folder, or a commit of this repository.

    Raises:
        RunFailedError: it is neither.
    """
    if Path(name).is_dir():
        return _copied(Path(name), folder, Path(name).resolve().name, commit_of(Path(name)))
    try:
        commit = _git("rev-parse", "--verify", f"{name}^{{commit}}").decode().strip()
        archive = _git("archive", "--format=tar", commit)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise RunFailedError(f"{name} is no folder, and git gives no such commit; name a folder with the tree") from exc
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return Tree(folder, name, commit)


def cells(result: Mapping[str, Any]) -> Cells:
    """The numbers of a table; a row's name is as many of its first cells as tell all rows apart."""
    rows, columns = result["rows"], result["columns"]
    width = next(
        (n for n in range(1, len(columns)) if len({tuple(row[:n]) for row in rows}) == len(rows)), len(columns)
    )
    return {
        f"{', '.join(str(cell) for cell in row[:width])}: {column}": number
        for row in rows
        for column, cell in zip(columns[width:], row[width:], strict=True)
        if not column.startswith(SPREADS) and (number := _number(cell)) is not None
    }


def table(ours: Sequence[Cells], theirs: Sequence[Cells]) -> list[list[object]]:
    """One row for each number that every run has and that is not the same in all of them."""
    rows: list[list[object]] = []
    for name in ours[0]:
        if not all(name in run for run in (*ours, *theirs)):
            continue
        this, other = ([run[name] for run in runs] for runs in (ours, theirs))
        if len({*this, *other}) > 1:
            middles = statistics.median(this), statistics.median(other)
            ratio = f"{middles[0] / middles[1]:.3f}" if middles[1] else ""
            rows.append([name, _told(middles[0]), _spread(this), _told(middles[1]), _spread(other), ratio])
    return rows


def _copied(source: Path, folder: Path, name: str, commit: str) -> Tree:
    folder.mkdir()
    for part in KEPT:
        if (source / part).is_dir():
            shutil.copytree(source / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif (source / part).exists():
            shutil.copy(source / part, folder / part)
    return Tree(folder, name, commit)


def _git(*words: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True).stdout


def _number(cell: object) -> float | None:
    try:
        return float(str(cell).replace(",", ""))
    except ValueError:
        return None


def _told(number: float) -> str:
    return f"{number:.4g}" if abs(number) < 1000 else f"{number:,.0f}"


def _spread(numbers: Sequence[float]) -> str:
    return f"{_told(min(numbers))} to {_told(max(numbers))}"
