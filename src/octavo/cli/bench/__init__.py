"""`octavo bench`: measures a running server (burst, serve, recovery) or this machine (throughput, latency)."""

from __future__ import annotations

from octavo.cli.bench import burst, latency, recovery, serve, throughput
from octavo.cli.parsers import Commands

KINDS = (burst, serve, recovery, throughput, latency)


def add_parser(commands: Commands) -> None:
    description = "Measure a running server (burst, serve, recovery) or this machine (throughput, latency)."
    parser = commands.add_parser("bench", help=description, description=description, allow_abbrev=False)
    kinds = parser.add_subparsers(title="benchmarks", required=True, metavar="KIND")
    for kind in KINDS:
        kind.add_parser(kinds)
