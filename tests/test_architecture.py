"""Which room may import which: the arrows of the house, checked in the source and at run time."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import octavo

SOURCE = Path(octavo.__file__).parent
COMMON = {"errors", "version", "bad_words", "config", "logs", "structured_outputs", "sampling", "messages", "wire"}
"""Plain data that every room may import."""
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "version": set(),
    "bad_words": set(),
    "logs": set(),
    "structured_outputs": {"errors"},
    "sampling": {"errors", "structured_outputs"},
    "config": {"errors"},
    "messages": {"errors", "sampling", "structured_outputs"},
    "wire": set(),
    "outputs": COMMON,
    "text": COMMON,
    "ops": COMMON,
    "checkpoints": COMMON | {"ops"},
    "models": COMMON | {"ops", "checkpoints"},
    "worker": COMMON | {"models", "checkpoints", "ops"},
    "grammar": COMMON,
    "engine": COMMON | {"grammar"},
    "testing": COMMON,
    "answers": COMMON | {"engine", "grammar", "text"},
    "server": COMMON | {"answers", "engine", "grammar", "text"},
    "startup": COMMON | {"server", "engine", "grammar", "text", "worker", "models", "checkpoints"},
    "verification": COMMON | {"engine"},
    "inputs": set(),
    "sampling_params": {"sampling", "structured_outputs"},
    "library": COMMON | {"outputs", "startup", "answers", "engine", "grammar", "text"},
    "llm": COMMON | {"outputs", "library", "startup", "answers", "engine", "text"},
    "async_llm": COMMON | {"outputs", "library", "startup", "answers", "engine", "text"},
    "cli": COMMON | {"verification", "outputs", "llm", "startup", "server", "engine", "text"},
    "__main__": {"cli"},
    "": {"async_llm", "inputs", "library", "llm", "outputs", "sampling", "structured_outputs", "version"},
}
"""Room -> rooms it may import; the empty name is the package itself, `octavo/__init__.py`."""
FREE_OF_TORCH = [
    "errors",
    "version",
    "bad_words",
    "logs",
    "sampling",
    "structured_outputs",
    "config",
    "messages",
    "wire",
    "outputs",
    "text",
    "grammar",
    "engine",
    "answers",
    "server",
    "verification",
    "testing",
]
DEVICE_LIBRARIES = {"torch", "triton", "transformers"}


def room_of(path: Path, source: Path) -> str:
    first = path.relative_to(source).parts[0]
    return first if (source / first).is_dir() else first.removesuffix(".py").removesuffix("__init__")


def imports(path: Path) -> set[str]:
    """Dotted names of all that `path` imports anywhere, in functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def violations(source: Path) -> list[str]:
    """What breaks the arrows, or brings torch where it may not be, as `file: import`."""
    found = []
    for path in sorted(source.rglob("*.py")):
        room = room_of(path, source)
        if room not in ARROWS:
            found.append(f"{path.relative_to(source)}: the room {room} has no arrows here")
            continue
        for name in sorted(imports(path)):
            top, _, rest = name.partition(".")
            target = rest.partition(".")[0]
            if top == "octavo" and target in ARROWS and target not in ARROWS[room] | {room}:
                found.append(f"{path.relative_to(source)}: {name}")
            if top in DEVICE_LIBRARIES and room in FREE_OF_TORCH:
                found.append(f"{path.relative_to(source)}: {name}")
    return found


def test_rooms_import_only_along_the_arrows() -> None:
    assert violations(SOURCE) == []


def test_the_arrows_have_no_circle() -> None:
    graphlib.TopologicalSorter(ARROWS).prepare()


@pytest.mark.parametrize(
    ("file", "line"),
    [
        pytest.param("engine/scheduler.py", "import torch", id="engine-torch"),
        pytest.param("engine/scheduler.py", "def late():\n    import torch.nn as nn", id="engine-torch-late"),
        pytest.param("engine/loop.py", "from octavo.worker.runner import Runner", id="engine-worker"),
        pytest.param("engine/loop.py", "from octavo import worker", id="engine-worker-by-package"),
        pytest.param("engine/loop.py", "import octavo.server.app", id="engine-server"),
        pytest.param("worker/runner.py", "from octavo.engine import Engine", id="worker-engine"),
        pytest.param("models/layers.py", "import octavo.worker.batch", id="models-worker"),
        pytest.param("ops/experts/route/kernel.py", "from octavo.models import forward_batch", id="ops-models"),
        pytest.param("text/tokenizer.py", "import transformers", id="text-transformers"),
        pytest.param("text/tokenizer.py", "import octavo.server", id="text-server"),
        pytest.param("answers/answer.py", "from octavo.server.context import Server", id="answers-server"),
        pytest.param("answers/answer.py", "from octavo.library.job import Job", id="answers-library"),
        pytest.param("library/job.py", "from octavo.server.generation import Generation", id="library-server"),
        pytest.param("llm.py", "import octavo.server.app", id="llm-server"),
        pytest.param("async_llm.py", "from octavo import server", id="async-llm-server"),
        pytest.param("messages.py", "from octavo.engine.update import Update", id="messages-engine"),
        pytest.param("attic/box.py", "import os", id="unknown-room"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, file: str, line: str) -> None:
    """The twin: a house with one import against an arrow."""
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("from octavo.errors import OctavoError\n")
    for room in ("engine", "worker"):
        (tmp_path / room).mkdir(exist_ok=True)
    before = violations(tmp_path)
    assert before == ([] if file != "attic/box.py" else before)
    path.write_text(f"from octavo.errors import OctavoError\n{line}\n")
    assert len(violations(tmp_path)) == 1


IMPORT_ALL = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    room = importlib.import_module(name)
    for module in pkgutil.walk_packages(getattr(room, "__path__", []), name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
print(*sorted({"torch", "triton", "transformers"} & set(sys.modules)))
"""


@pytest.mark.parametrize("room", [*FREE_OF_TORCH, "startup", "library", "llm", "async_llm", "cli"])
def test_importing_a_room_does_not_import_torch(room: str) -> None:
    """Whole rooms, module by module; `octavo --help` must answer at once."""
    run = subprocess.run([sys.executable, "-c", IMPORT_ALL, f"octavo.{room}"], capture_output=True, text=True)
    assert (run.stdout.strip(), run.returncode) == ("", 0), run.stderr


def test_the_run_time_check_sees_torch() -> None:
    """The twin: a room that does import torch."""
    run = subprocess.run([sys.executable, "-c", IMPORT_ALL, "octavo.models"], capture_output=True, text=True)
    assert "torch" in run.stdout.split(), run.stderr


def test_benchmarks_do_not_import_tools() -> None:
    """Tools measure with what benchmarks share, and not the other way round."""
    sources = {path.name: path.read_text() for path in (SOURCE.parents[1] / "benchmarks").rglob("*.py")}
    assert len(sources) > 10
    assert [
        name for name, source in sources.items() if re.search(r"^(from|import) tools\b", source, re.MULTILINE)
    ] == []
