"""`octavo serve`: the OpenAI-compatible server."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
from typing import TYPE_CHECKING

from octavo.cli.flags import add_settings, settings_from
from octavo.cli.parsers import Commands, add_command
from octavo.cli.start_signals import StartSignals
from octavo.config import Settings
from octavo.logs import log_as_server

if TYPE_CHECKING:
    from octavo.startup import OpenWorkers

GROUPS = ("Model", "Memory and schedule", "Server", "Logs", "Worker")


def add_parser(commands: Commands) -> None:
    add_settings(add_command(commands, "serve", run, "Serve a model behind an OpenAI-compatible API."), GROUPS)


def run(args: argparse.Namespace) -> int:
    log_as_server()
    return serve(settings_from(args))


def serve(settings: Settings, workers: OpenWorkers | None = None) -> int:
    """Serve until told to stop; see `run_server`. `workers`: where they come from, if not as set.

    The port is ours before anything is loaded, and the engine has stopped before its workers are ended. A signal that comes
    before the server takes it ends the start; see `StartSignals`.
    """
    logging.getLogger().setLevel(settings.logging_level.upper())
    with StartSignals() as signals:
        from octavo.server.heap import map_large_blocks
        from octavo.server.listening import listener, tls_context
        from octavo.startup import in_processes, server_context, start, with_keeper

        map_large_blocks()
        tls_context(settings)  # what is wrong with it shows before a model is loaded
        workers = workers or (with_keeper if settings.keep_weights else in_processes)
        with listener(settings) as bound:
            runtime = start(settings, signals.opening(workers), beside=_import_server)
            with contextlib.closing(runtime):
                signals.on_started()
                from octavo.server.run import run_server

                context = server_context(runtime)
                try:
                    context.loop.start()
                    return run_server(context, bound)
                finally:
                    context.loop.stop()


def _import_server() -> None:
    """While the first processes import what they need, which takes them longer."""
    importlib.import_module("octavo.server.run")
