"""What each script takes that is another engine's server; it runs where that engine is installed, without Octavo."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.peers.about import about

HOST = "127.0.0.1"


def parse_args(description: str | None) -> argparse.Namespace:
    """MODEL, PORT and ABOUT, and more settings of the engine."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder with a config.json")
    parser.add_argument("port", type=int)
    parser.add_argument("about", type=Path, help="file that names the engine, written once its weights are random")
    parser.add_argument("--extra", type=json.loads, default={}, help="JSON object: more settings of the engine")
    return parser.parse_args()


def tell(args: argparse.Namespace, name: str, package: str) -> None:
    """Write `args.about`."""
    args.about.write_text(json.dumps(about(name, package, args.extra)))


def words(settings: Mapping[str, object]) -> list[str]:
    """The settings as flags: true is `--name`, false `--no-name`, all else `--name value`, with JSON for lists and objects."""
    said: list[str] = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        match value:
            case bool():
                said.append(f"--{flag}" if value else f"--no-{flag}")
            case list() | dict():
                said += [f"--{flag}", json.dumps(value)]
            case _:
                said += [f"--{flag}", str(value)]
    return said
