"""What each script takes that is another engine's server; it runs where that engine is installed, without Octavo."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path

from benchmarks.peers.about import about, given

HOST = "127.0.0.1"


def parse_args(description: str | None) -> argparse.Namespace:
    """MODEL, PORT and ABOUT, and more settings of the engine."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder with a config.json")
    parser.add_argument("port", type=int)
    parser.add_argument("about", type=Path, help="file that names the engine, written once its weights are random")
    parser.add_argument("--extra", type=json.loads, default={}, help="JSON object: more settings of the engine")
    args = parser.parse_args()
    args.given = given(args.extra)
    return args


def tell(args: argparse.Namespace, name: str, package: str) -> None:
    """Write `args.about`."""
    args.about.write_text(json.dumps(about(name, package, args.given)))


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


@contextmanager
def stand_in(name: str, *members: str) -> Iterator[None]:
    """Let the block import the module `name` where it is not installed: an empty one, in which `members` are bare classes.

    Behind the block it is missing again, so that whoever looks for it then does not take it for the real one.
    """
    if importlib.util.find_spec(name) is not None:
        yield
        return
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)  # without one, whoever asks for it gets a ValueError
    vars(module).update({member: type(member, (), {}) for member in members})
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
