"""`--against`: a benchmark of two trees, turn by turn, as medians with their spread and ratio."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from benchmarks import against, provenance, tables

BENCHMARK = """
import json, os, pathlib, sys
import octavo
log = pathlib.Path(sys.argv[1])
with log.open("a") as file:
    print(octavo.NAME, *sys.argv[2:], file=file)
turn = log.read_text().splitlines().count(" ".join([octavo.NAME, *sys.argv[2:]]))
rows = [["a", 1, octavo.SECONDS * turn, "1,500", "1 to 2"], ["a", 2, 7, "", "none"]]
columns = ["what", "rows", "seconds", "tok/s", "least"]
path = pathlib.Path("benchmarks/results/toy.json")
path.write_text(json.dumps({"columns": columns, "rows": rows}))
"""


def tree(folder: Path, name: str, seconds: float) -> Path:
    (folder / "src" / "octavo").mkdir(parents=True)
    (folder / "src" / "octavo" / "__init__.py").write_text(f"NAME = {name!r}\nSECONDS = {seconds}\n")
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "__init__.py").write_text("")
    (folder / "benchmarks" / "toy.py").write_text(BENCHMARK)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tree that counts as this one; results and their page go there too."""
    here = tree(tmp_path / "here", "ours", 3.0)
    for module in (against, provenance):
        monkeypatch.setattr(module, "ROOT", here)
    monkeypatch.setattr(provenance, "RESULTS", here / "benchmarks" / "results")
    monkeypatch.setattr(tables, "PAGE", here / "benchmarks.md")
    return here


def test_two_trees_take_turns(here: Path, tmp_path: Path) -> None:
    other, log = tree(tmp_path / "there", "theirs", 2.0), tmp_path / "log"
    with pytest.raises(SystemExit) as end:
        against.parse_args(parser(), "toy", ["--against", str(other), "--turns", "3", str(log), "--size", "9"])
    assert end.value.code == 0
    assert log.read_text().splitlines() == [
        f"{name} --size 9" for name in ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    ]
    result = json.loads((here / "benchmarks" / "results" / "toy_against.json").read_text())
    assert result["rows"] == [["a, 1: seconds", "6", "3 to 9", "4", "2 to 6", "1.500"]]
    assert [run["a, 2: seconds"] for run in result["raw"]["other"]] == [7, 7, 7]
    assert not (other / "benchmarks" / "results").exists(), "a tree that is given is not written to"


def test_the_other_tree_may_be_a_commit(here: Path, tmp_path: Path) -> None:
    def git(*words: str) -> str:
        words = ("git", "-c", "user.name=a", "-c", "user.email=a@b", *words)
        return subprocess.run(words, cwd=here, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "one")
    old = git("rev-parse", "HEAD")
    (here / "src" / "octavo" / "__init__.py").write_text("NAME = 'changed'\nSECONDS = 5.0\n")
    trees = against.this_tree(tmp_path / "this"), against.other_tree("HEAD", tmp_path / "other")
    assert [each.commit for each in trees] == [f"{old}+changes", old]
    runs = [each.run("toy", [str(tmp_path / "log")]) for each in trees]
    assert [run["a, 1: seconds"] for run in runs] == [5.0, 3.0]


def test_what_is_no_tree_is_refused(here: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no-such-commit"):
        against.parse_args(parser(), "toy", ["--against", "no-such-commit", str(tmp_path / "log")])


def test_a_run_that_fails_ends_it_with_what_it_said(here: Path, tmp_path: Path) -> None:
    other = tree(tmp_path / "there", "theirs", 2.0)
    (other / "benchmarks" / "toy.py").write_text("raise SystemExit('no device')")
    with pytest.raises(SystemExit, match=r"(?s)there.*no device"):
        against.parse_args(parser(), "toy", ["--against", str(other), str(tmp_path / "log")])


def test_without_it_arguments_are_those_of_the_benchmark() -> None:
    args = against.parse_args(parser(), "toy", ["file", "--size", "3"])
    assert (args.log, args.size) == ("file", 3)


def test_a_machine_without_git_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit_of(tmp_path) == "unknown"


def test_a_folder_within_a_checkout_has_no_commit_of_its_own(tmp_path: Path) -> None:
    """It may hold any tree, such as an older one that was unpacked there."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=somebody", "-c", "user.email=nobody@example.com"]
    within = tmp_path / "within"
    within.mkdir()
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    assert len(provenance.commit_of(tmp_path)) == 40
    assert provenance.commit_of(within) == "unknown"


def test_what_benchmarks_write_is_no_change_of_a_tree(tmp_path: Path) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=somebody", "-c", "user.email=nobody@example.com"]
    files = [tmp_path / name for name in ("benchmarks/results/x.json", "docs/benchmarks.md", "benchmarks/x.py")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    commit = provenance.commit_of(tmp_path)
    for file, marked in zip(files, (commit, commit, commit + "+changes"), strict=True):
        file.write_text("2")
        assert provenance.commit_of(tmp_path) == marked


@pytest.mark.parametrize(
    ("spec", "program"), [(None, "http.py"), (ModuleSpec("benchmarks.http", None), "-m benchmarks.http")], ids=str
)
def test_the_command_of_a_result_names_no_folder_of_this_machine(
    spec: ModuleSpec | None, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["/data/x/http.py", "--model", "benchmarks/shapes/one", "--peer", "/data/vllm.json", "--loads", "1x2x3"]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    told = f"python {program} --model benchmarks/shapes/one --peer vllm.json --loads 1x2x3"
    assert provenance.provenance()["command"] == told


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("log")
    made.add_argument("--size", type=int, default=1)
    return made


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("/data/vllm.json", "vllm.json"),
        ("--peer=/home/me/vllm.json", "--peer=vllm.json"),
        ("--peer=~/vllm.json", "--peer=vllm.json"),
        ("../x/y.json", "y.json"),
        ("/", "/"),
        ("benchmarks/shapes/olmoe", "benchmarks/shapes/olmoe"),
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ('{"a": "=/b"}', '{"a": "=/b"}'),
    ],
)
def test_a_command_names_no_folder_outside_the_tree(word: str, told: str) -> None:
    assert provenance.without_folders(word) == told
