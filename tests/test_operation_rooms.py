"""Every operation's folder has launcher, reference, test and benchmark, and its functions say what they take and raise."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.import_graph import ImportGraph, is_test

ROOT = Path(__file__).parents[1]
OPERATIONS = "src/octavo/ops"
"""Where the folders of the operations lie."""
BETWEEN = (OPERATIONS, "src/octavo/models", "src/octavo/worker/sampling")
"""A benchmark of an operation may call it through others, through a model and through the sampler."""

EXCEPTIONS = {
    ("wild_write", "reference"): "it writes out of bounds on purpose, so that a worker dies",
    ("wild_write", "test"): "tests of recovery on a GPU ask for it by the name of the fault",
    ("wild_write", "benchmark"): "there is nothing to be fast at",
}
"""(Folder, part): why it has none."""

GRAPH = ImportGraph(ROOT)
FOLDERS = sorted(
    str(path.parent.relative_to(ROOT / OPERATIONS))
    for path in (ROOT / OPERATIONS).rglob("__init__.py")
    if path.parent != ROOT / OPERATIONS
)

SHAPE = re.compile(r"\((?:[\w*+/ .|-]+,)+(?:[\w*+/ .|-]+)?\)|\(\.\.\.\)|[Aa]ny shape|[Aa]s `|[Ss]ee `")
"""A shape such as (T, H), or where it is written."""
CHECKS = {"check", "check_range", "check_grid", "check_same", "expect"}
"""Functions of the contract, which raise."""
UNTYPED = {"kernel.py"}
"""Triton's functions: their parameters are pointers."""


def files(folder: str) -> set[str]:
    """Files of an operation, without those of the operations in it."""
    return {name for name in GRAPH.files if Path(name).parent == Path(OPERATIONS, folder)}


def reached(start: str) -> set[str]:
    """Files that `start` imports, directly or through operations and models."""
    seen, queue = {start}, [start]
    while queue:
        for name in GRAPH.imports[queue.pop()] - seen:
            seen.add(name)
            if name.startswith(BETWEEN):
                queue.append(name)
    return seen


def parts(folder: str) -> dict[str, bool]:
    """Part of an operation -> whether it is there."""
    here, reference = files(folder), f"{OPERATIONS}/{folder}/reference.py"
    tests = {name for name in GRAPH.files if is_test(name) and GRAPH.imports[name] & (here - {reference})}
    near = GRAPH.tests_near([reference]) if reference in here else {}
    return {
        "launcher": any(public_functions(name) for name in here if Path(name).name not in ("reference.py", *UNTYPED)),
        "reference": reference in here and any(steps <= 1 for steps, _ in near.values()),
        "test": bool(tests),
        "benchmark": any(reached(name) & here for name in GRAPH.files if name.startswith("benchmarks/")),
    }


def public_functions(file: str) -> list[ast.FunctionDef]:
    """Functions, and methods of classes, that others may call."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return [node for node in _functions(tree) if not node.name.startswith("_") or node.name == "__call__"]


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (method for method in node.body if isinstance(method, ast.FunctionDef))


def unsaid(function: ast.FunctionDef) -> list[str]:
    """What the docstring of a function leaves out."""
    text = ast.get_docstring(function) or ""
    names = {getattr(node.func, "attr", getattr(node.func, "id", "")) for node in calls(function)}
    raises = bool(names & CHECKS) or any(isinstance(node, ast.Raise) for node in ast.walk(function))
    takes = "Tensor" in ast.unparse(function.args)
    missing = {
        "a shape": takes and not SHAPE.search(text),
        "Raises": raises and not re.search(r"Raises:|[Ss]ee `", text),
    }
    return [what for what, is_missing in missing.items() if is_missing]


def calls(function: ast.FunctionDef) -> Iterator[ast.Call]:
    return (node for node in ast.walk(function) if isinstance(node, ast.Call))


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_operation_has_all_its_parts(folder: str) -> None:
    missing = {part for part, there in parts(folder).items() if not there}
    assert missing == {part for name, part in EXCEPTIONS if name == folder}


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_say_shapes_and_what_they_raise(folder: str) -> None:
    typed = sorted(name for name in files(folder) if Path(name).name not in UNTYPED)
    found = {f"{name}: {function.name}": unsaid(function) for name in typed for function in public_functions(name)}
    assert {name: missing for name, missing in found.items() if missing} == {}


def test_there_are_operations_and_no_exception_for_one_that_is_gone() -> None:
    assert FOLDERS
    assert {folder for folder, _ in EXCEPTIONS} <= set(FOLDERS)


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ('def f(x: torch.Tensor):\n    """Halves x."""', ["a shape"]),
        ('def f(x: torch.Tensor):\n    """Halves x (T, H)."""', []),
        ('def f(x: int):\n    """Halves x."""\n    raise ValueError', ["Raises"]),
        ('def f(x: int):\n    """Halves x."""\n    check_range("x", x, 0, 1, "")', ["Raises"]),
        (
            'def f(x: int):\n    """Halves x.\n\n    Raises:\n        ValueError: odd.\n    """\n    raise ValueError',
            [],
        ),
    ],
)
def test_what_is_left_out_is_found(source: str, missing: list[str]) -> None:
    """The twins: functions that say too little."""
    [function] = _functions(ast.parse(source))
    assert unsaid(function) == missing
