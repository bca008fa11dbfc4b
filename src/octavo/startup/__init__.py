"""Wires the rooms together: from settings to an engine, and to a server. The one place that knows them all."""

from octavo.startup.configs import (
    changed_worker_config,
    engine_config,
    require_files_and_memory,
    resolve_device,
    worker_config,
)
from octavo.startup.model import Model, check_dtype, load_model, read_facts
from octavo.startup.recovery import crash_log, fault_injector
from octavo.startup.runtime import Runtime, start
from octavo.startup.server import server_context
from octavo.startup.worker_sources import OpenWorkers, in_processes, in_this_process, with_keeper

__all__ = [
    "Model",
    "OpenWorkers",
    "Runtime",
    "changed_worker_config",
    "check_dtype",
    "crash_log",
    "engine_config",
    "fault_injector",
    "in_processes",
    "in_this_process",
    "load_model",
    "read_facts",
    "require_files_and_memory",
    "resolve_device",
    "server_context",
    "start",
    "with_keeper",
    "worker_config",
]
