"""The command `octavo`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from octavo.cli.flags import normalized
from octavo.config.layers import nearest
from octavo.errors import ConfigError, OctavoError
from octavo.version import __version__

COMMANDS = {
    name: f"octavo.cli.{name.replace('-', '_')}" for name in ("serve", "bench", "verify", "replay", "collect-env")
}
"""Name and module."""


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of the command that `words` begin with, whose start waits for no other's imports; else of all commands.

    Importing and building it loads neither torch nor the server.
    """
    parser = argparse.ArgumentParser(
        prog="octavo",
        description="Serves FP8 mixture-of-experts language models behind an OpenAI-compatible API.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"octavo {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in words[:1] if words and words[0] in COMMANDS else COMMANDS:
        importlib.import_module(COMMANDS[name]).add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 if it did what was asked, 1 if not, 2 if it was asked wrongly."""
    _open_standard_streams()
    try:
        words = normalized(sys.argv[1:] if argv is None else argv)
        args, unknown = build_parser(words).parse_known_args(words)
        if unknown:
            flags = {name[2:]: name for name in args.parser._option_string_actions if name.startswith("--")}
            raise ConfigError(unknown[0], "unknown flag" + nearest(unknown[0].partition("=")[0].lstrip("-"), flags))
        return int(args.run(args))
    except OctavoError as exc:
        cause, *details = exc.message.splitlines() or [type(exc).__name__]
        print(*details, f"octavo: error: {cause}", sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader of our output has gone; say nothing more to it, at exit neither
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _open_standard_streams() -> None:
    """Open what was closed of descriptors 0 to 2, so that no socket or file gets their numbers, and what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # the lowest free number is the one that is missing
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


if __name__ == "__main__":
    sys.exit(main())
