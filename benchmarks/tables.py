"""Writes docs/benchmarks.md from benchmarks/results/*.json: `python -m benchmarks.tables`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"

HEAD = """# Benchmarks

<!-- Written by benchmarks/tables.py from benchmarks/results; a test fails if it is not current. -->

Every number here was measured by a script in `benchmarks/` or `tools/` and lies with its raw data in `benchmarks/results/`. How to
run them: `benchmarks/README.md`. A command `python NAME.py` below a table is `python -m benchmarks.NAME`, and those of tiles and
of the embedded models are `python -m tools.tune_moe` and `python tools/tiny/score.py`. Tables are as old as the commit below them.
"""


def page(results: Path = RESULTS) -> str:
    """The whole page."""
    return "\n".join([HEAD, *(section(json.loads(path.read_text())) for path in sorted(results.glob("*.json")))])


def section(result: dict[str, Any]) -> str:
    """One table with its conditions and provenance."""
    source = result["provenance"]
    machine = source["gpu"] if source["gpu"] != "none" else source["cpu"]
    versions = ", ".join(f"{name} {source[name]}" for name in ("python", "torch", "triton"))
    return "\n".join(
        [
            f"## {result['title']}",
            "",
            result["conditions"],
            "",
            _row(result["columns"]),
            _row(["---", *("---:" for _ in result["columns"][1:])]),
            *map(_row, result["rows"]),
            "",
            f"{machine}; {versions}; commit {source['commit'][:12]}; {source['date']}; `{source['command']}`",
            "",
        ]
    )


def _row(cells: list[Any]) -> str:
    return "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
