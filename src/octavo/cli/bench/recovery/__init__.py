"""`octavo bench recovery`: kills processes of a running server under load, and measures what clients see."""

from octavo.cli.bench.recovery.command import add_parser as add_parser
