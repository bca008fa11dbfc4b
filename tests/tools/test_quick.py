"""`make quick` runs the tests nearest to what changed, says why, and starts none after its time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tools.import_graph import ImportGraph

from tools import quick, stop_clock

HOUSE = {
    "src/octavo/__init__.py": "from octavo.door import Door",
    "src/octavo/door.py": "import octavo.room.wall",
    "src/octavo/room/__init__.py": "from octavo.room.floor import Floor",
    "src/octavo/room/__main__.py": "import octavo.room.cellar",
    "src/octavo/room/floor.py": "",
    "src/octavo/room/wall.py": "from octavo.room import floor",
    "src/octavo/room/cellar.py": "",
    "src/octavo/attic.py": "",
    "tests/room/conftest.py": "import octavo.attic",
    "tests/room/helper.py": "from octavo.room.wall import Wall",
    "tests/room/test_floor.py": "from octavo.room import Floor",
    "tests/room/test_wall.py": "from room.helper import build",
    "tests/test_cellar.py": "ARGUMENTS = ['-m', 'octavo.room']",
    "tests/test_door.py": "import octavo.door",
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for name, text in HOUSE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "near"),
    [
        pytest.param("src/octavo/door.py", {"tests/test_door.py": 1}, id="import"),
        pytest.param(
            "src/octavo/room/floor.py",
            {
                "tests/room/test_floor.py": 1,
                "tests/room/test_wall.py": 2,
                "tests/test_door.py": 3,
                "tests/test_cellar.py": 1,
            },
            id="through-a-package-and-a-helper",
        ),
        pytest.param("src/octavo/room/cellar.py", {"tests/test_cellar.py": 2}, id="child-process-by-its-name"),
        pytest.param(
            "src/octavo/attic.py", {"tests/room/test_floor.py": 1, "tests/room/test_wall.py": 1}, id="conftest"
        ),
        pytest.param("tests/room/helper.py", {"tests/room/test_wall.py": 0}, id="helper"),
        pytest.param("tests/test_door.py", {"tests/test_door.py": 0}, id="itself"),
    ],
)
def test_distance_is_counted_in_imports(house: Path, changed: str, near: dict[str, int]) -> None:
    found = ImportGraph(house).tests_near([changed])
    assert {test: steps for test, (steps, _) in found.items()} == near
    assert {origin for _, origin in found.values()} == {changed}


def test_the_nearest_come_first_and_their_namesake_before_them(house: Path) -> None:
    tests, reasons = quick.choose(ImportGraph(house), ["src/octavo/room/floor.py"])
    assert tests[0] == "tests/room/test_floor.py"
    assert tests[-1] == "tests/test_door.py"
    assert "src/octavo/room/floor.py" in reasons[0]


@pytest.mark.parametrize(
    ("changed", "ahead"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param(["Makefile"], [], id="no-python"),
        pytest.param(["src/octavo/gone.py"], [], id="deleted"),
        pytest.param(["Makefile", "src/octavo/door.py"], ["tests/test_door.py"], id="both"),
    ],
)
def test_what_no_import_leads_from_is_met_by_the_core_set(house: Path, changed: list[str], ahead: list[str]) -> None:
    assert quick.choose(ImportGraph(house), changed)[0] == [*ahead, *quick.CORE]


def test_too_much_is_met_by_the_core_set(house: Path) -> None:
    many = [f"src/octavo/room/many_{number}.py" for number in range(quick.MAX_FILES + 1)]
    for name in many:
        (house / name).write_text("")
    assert quick.choose(ImportGraph(house), many)[0] == list(quick.CORE)


def test_what_everything_imports_is_met_by_the_nearest_alone(house: Path) -> None:
    """All are imported and collected before one starts: with too many of them the time is over by then."""
    for number in range(2 * quick.MAX_TESTS):
        (house / f"tests/test_a{number}.py").write_text("import octavo.room.wall")
    (house / "tests/room/test_x.py").write_text("import octavo.room.wall")
    tests, reasons = quick.choose(ImportGraph(house), ["src/octavo/room/wall.py"])
    assert tests[:2] == ["tests/room/test_wall.py", "tests/room/test_x.py"]
    assert len(tests) == quick.MAX_TESTS
    assert "more test files" in reasons[-1]


def test_the_core_set_exists_and_every_source_file_is_known() -> None:
    assert [name for name in quick.CORE if not (quick.ROOT / name).exists()] == []
    graph = ImportGraph(quick.ROOT)
    near = graph.tests_near(["src/octavo/engine/scheduler.py"])
    assert next(iter(near)) == "tests/engine/test_scheduler.py"


def test_changes_are_those_since_the_branch_left_main(house: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=house, check=True)

    git("init", "-q", "-b", "main")
    git("add", ".")
    git("commit", "-qm", "one")
    assert quick.changed_files(house)[1] == []
    git("checkout", "-qb", "branch")
    git("rm", "-q", "src/octavo/attic.py")
    git("commit", "-qm", "two")
    (house / "src/octavo/door.py").write_text("import os")
    (house / "new.py").write_text("")
    git("checkout", "-q", "main")
    git("commit", "-q", "--allow-empty", "-m", "three")
    git("checkout", "-q", "branch")
    assert quick.changed_files(house)[1] == ["new.py", "src/octavo/attic.py", "src/octavo/door.py"]


@pytest.mark.parametrize("processes", [0, 2])
def test_after_its_time_no_test_starts_and_the_files_are_named(tmp_path: Path, processes: int) -> None:
    (tmp_path / "test_late.py").write_text("def test_one(): pass\ndef test_two(): pass\n")
    words = ["-m", "pytest", "-p", "xdist.plugin", "-p", "tools.stop_clock", f"-n{processes}"]

    def report(seconds: str) -> str:
        run = subprocess.run(
            [sys.executable, *words, f"--stop-after={seconds}", "test_late.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(quick.ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return run.stdout

    late = report("0")
    assert "not reached: 2 tests of test_late.py" in late
    assert "passed" not in late
    assert "2 passed" in report("600")


def test_the_time_of_the_tests_begins_with_the_first(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """However long a busy machine took to import and collect them."""
    clock = stop_clock.StopClock(25)
    for now_s, starts in ((1000.0, True), (1024.0, True), (1025.0, False)):
        monkeypatch.setattr("tools.stop_clock.time.monotonic", lambda now_s=now_s: now_s)
        assert (clock.pytest_runtest_protocol(request.node) is None) is starts
