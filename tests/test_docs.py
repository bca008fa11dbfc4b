"""What the documents say is so: files exist, generated pages are current, every dependency has its reason."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from benchmarks import tables

from tools import configuration_page

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("src/octavo/assets/*/*.md")]
)
BASES = (ROOT, ROOT / "src" / "octavo", ROOT / "benchmarks")
"""Where a path named in prose may start."""

CODE = re.compile(r"```.*?```", re.DOTALL)
FILE = re.compile(r"`([\w.-][\w./-]*\.(?:py|md|json|txt|toml|jinja)|[\w.-]+(?:/[\w.-]+)*/)`")
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
GENERATED = re.compile(r"model folder|config\.json|tokenizer|generation_config|chat_template")
"""Names of files that belong to a model folder, not to this repository."""


def test_there_are_pages() -> None:
    assert {"README.md", "architecture.md", "promises.md", "log.md"} <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_named_in_prose_exist(page: Path) -> None:
    names = FILE.findall(CODE.sub("", page.read_text(encoding="utf-8")))
    bases = (*BASES, page.parent)
    missing = [
        name for name in names if not GENERATED.search(name) and not any((base / name).exists() for base in bases)
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_show_no_path_of_one_machine(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|tmp|root|home)/", page.read_text(encoding="utf-8"))


def test_generated_pages_are_current() -> None:
    assert configuration_page.PAGE.read_text(encoding="utf-8") == configuration_page.page(), "run make docs"
    assert tables.PAGE.read_text(encoding="utf-8") == tables.page(), "run make docs"


def test_every_dependency_has_a_reason_and_nothing_else_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"[^A-Za-z0-9_-]", line, maxsplit=1)[0] for line in project["dependencies"]}
    rows = re.findall(r"^\| ([\w, -]+) \|", (ROOT / "docs" / "dependencies.md").read_text(), re.MULTILINE)
    told = {name.strip() for row in rows for name in row.split(",")} - {"Package", "---"}
    assert told == needed


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    needed = {re.split(r"[^A-Za-z0-9_-]", line, maxsplit=1)[0].lower().replace("_", "-") for line in lines}
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    assert needed - pinned == set()
