"""Which file of this repository imports which, read from the source: how far a test is from a file that changed."""

from __future__ import annotations

import ast
import heapq
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

SOURCE_FOLDERS = ("src", ".", "tests")
"""Where a dotted name may start, as on the tests' path: `octavo.errors`, `tools.quick`, `server.harness`."""
TREES = ("src", "tests", "tools", "benchmarks")
"""Folders with Python files of ours."""


class ImportGraph:
    """The imports among the Python files below `root`, whose paths are relative to it with `/`.

    Names in strings count too where they are those of a module of ours, such as `-m octavo.worker` for a child process,
    and so do a folder's `conftest.py`s for its tests.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        found = itertools.chain.from_iterable((root / tree).rglob("*.py") for tree in TREES)
        self.files = {str(path.relative_to(root)) for path in found}
        self._modules: dict[str, set[str]] = {}
        for file in self.files:
            for name in _names(file):
                self._modules.setdefault(name, set()).add(file)
        self.imports: dict[str, set[str]] = {}
        """File -> files that it imports."""
        self._importers: dict[str, set[str]] = {}
        for file in self.files:
            self.imports[file] = set(self._imported(file))
            for imported in self.imports[file]:
                self._importers.setdefault(imported, set()).add(file)

    def tests_near(self, changed: Iterable[str]) -> dict[str, tuple[int, str]]:
        """Test file -> (imports to the nearest of the files `changed`, that file), nearest first; of those as near, first the one
        that is named after that file, then those of its room.

        An `__init__.py` that passes names on, and a helper or `conftest.py` of the tests, count as no step of their own.
        """
        queue = [(0, file, file) for file in changed if file in self.files]
        heapq.heapify(queue)
        seen: dict[str, tuple[int, str]] = {}
        while queue:
            distance, file, origin = heapq.heappop(queue)
            if file in seen:
                continue
            seen[file] = (distance, origin)
            step = 0 if _passes_on(file) else 1
            for importer in self._importers.get(file, ()):
                heapq.heappush(queue, (distance + step, importer, origin))
        near = {file: found for file, found in seen.items() if is_test(file)}
        return dict(sorted(near.items(), key=_nearness))

    def _imported(self, file: str) -> Iterator[str]:
        tree = ast.parse((self._root / file).read_text(encoding="utf-8"))
        for name in _mentioned(tree):
            yield from self._modules.get(name, set()) - {file}
        if file.startswith("tests/"):
            for folder in Path(file).parents:
                conftest = str(folder / "conftest.py")
                if conftest in self.files and conftest != file:
                    yield conftest


def is_test(file: str) -> bool:
    """Say whether `file` holds tests."""
    return file.startswith("tests/") and Path(file).name.startswith("test_")


def _passes_on(file: str) -> bool:
    return file.endswith("/__init__.py") or (file.startswith("tests/") and not is_test(file))


def _nearness(item: tuple[str, tuple[int, str]]) -> tuple[int, bool, bool, str]:
    """What a test file with its nearest changed file is sorted by."""
    test, (distance, file) = item
    is_namesake = Path(test).stem == f"test_{Path(file).stem}"
    shares_room = file.split("/")[2:-1][:1] == test.split("/")[1:-1][:1]
    return distance, not is_namesake, not shares_room, test


def _names(file: str) -> Iterator[str]:
    """Dotted names under which `file` can be imported."""
    for folder in SOURCE_FOLDERS:
        if folder == "." or file.startswith(f"{folder}/"):
            parts = list(Path(file).relative_to(folder).with_suffix("").parts)
            if parts[-1] == "__init__":
                parts.pop()
            if parts:
                yield ".".join(parts)


def _mentioned(tree: ast.Module) -> Iterator[str]:
    """Dotted names that may be modules, from imports and from strings."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.Constant(value=str(text)) if "." in text:
                yield from (text, f"{text}.__main__")
