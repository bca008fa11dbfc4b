"""Runs the tests nearest to what changed, for `make quick`: `python -m tools.quick`.

What changed is what differs from the merge base with `main`, committed or not. Nearest is counted in imports. Tests start
as long as there is time, the nearest first; what was not reached is told, and `make test` is what says that a change is ready.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.import_graph import ImportGraph

ROOT = Path(__file__).parents[1]
CORE = (
    "tests/test_architecture.py",
    "tests/test_docs.py",
    "tests/config",
    "tests/text",
    "tests/engine/test_engine.py",
    "tests/engine/test_scheduler.py",
    "tests/worker/test_sampler.py",
    "tests/worker/test_runner.py",
)
"""Fast tests of every floor of the house, for changes that no import leads from, and for none."""
MAX_FILES = 40
"""Changed Python files. Past as many nearly every test is near."""
MAX_TESTS = 20
"""Test files. Both processes import and collect all of them before the first test starts, which takes a third of a second each."""
REACH = 3
"""Imports. Tests that are further away meet the change through what is tested nearer."""
SECONDS = 25
"""From the first test until no further one starts. With what comes before and after it stays under a minute on two cores."""
BRANCHES = ("main", "origin/main")
SHOWN = 12
"""Test files that are listed with their reason."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help="from the first test until no further one starts (default %(default)s)",
    )
    parser.add_argument("--list", action="store_true", help="say what would run, and run nothing")
    args = parser.parse_args()
    base, changed = changed_files(ROOT)
    tests, reasons = choose(ImportGraph(ROOT), changed)
    print(f"quick: {len(changed)} files differ from {base}", *reasons, sep="\n  ", flush=True)
    return 0 if args.list else run(tests, args.seconds)


def changed_files(root: Path) -> tuple[str, list[str]]:
    """What is compared with, in words, and the files that differ from it, relative to `root`: deleted ones too."""
    for branch in BRANCHES:
        base = _git(root, "merge-base", "HEAD", branch)
        if base:
            words = f"{base[0][:7]}, where this branch left {branch}"
            break
    else:
        base, words = ["HEAD"], "the last commit"
    differing = _git(root, "diff", "--name-only", "--no-renames", base[0])
    return words, sorted({*differing, *_git(root, "ls-files", "--others", "--exclude-standard")})


def choose(graph: ImportGraph, changed: Sequence[str]) -> tuple[list[str], list[str]]:
    """Test files and folders in the order in which they should run, and lines that say why."""
    python = [file for file in changed if file in graph.files]
    if not changed:
        return list(CORE), ["nothing changed: the core set"]
    if len(python) > MAX_FILES:
        return list(CORE), [f"more than {MAX_FILES} Python files changed: the core set; `make test` is the answer"]
    all_near = {test: found for test, found in graph.tests_near(python).items() if found[0] <= REACH}
    near = dict(itertools.islice(all_near.items(), MAX_TESTS))
    reasons = [f"{test}: {_reason(test, *found)}" for test, found in list(near.items())[:SHOWN]]
    if len(near) > SHOWN:
        reasons.append(f"and {len(near) - SHOWN} more, up to {max(steps for steps, _ in near.values())} imports away")
    if len(all_near) > len(near):
        reasons.append(f"left to `make test`: {len(all_near) - len(near)} more test files that changes reach")
    origins = {origin for _, origin in all_near.values()}
    alone = [file for file in changed if file not in graph.files]
    alone += [file for file in python if file not in origins and not graph.tests_near([file])]
    if alone:
        reasons.append(
            f"the core set, as no import leads from {', '.join(alone[:3])}{' ...' if len(alone) > 3 else ''}"
        )
    return [*near, *(CORE if alone else ())], reasons


def run(tests: Sequence[str], seconds: float) -> int:
    """Run `tests` in their order in two processes; the exit code of pytest."""
    words = ["-q", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-m", "not slow"]
    words += ["-p", "tools.stop_clock", f"--stop-after={seconds}"]
    env = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    return subprocess.run([sys.executable, "-m", "pytest", *words, *tests], cwd=ROOT, env=env, check=False).returncode


def _reason(test: str, steps: int, origin: str) -> str:
    if test == origin:
        return "changed"
    return f"imports {origin}" if steps <= 1 else f"{steps} imports from {origin}"


def _git(root: Path, *words: str) -> list[str]:
    """Lines that git says; [] if it cannot."""
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


if __name__ == "__main__":
    sys.exit(main())
