"""`octavo replay FOLDER`: run again what a worker died with."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from octavo.cli.parsers import Commands, add_command
from octavo.errors import ConfigError, DeathCause, WorkerDiedError

if TYPE_CHECKING:
    from octavo.engine.processes.worker_process import ProcessWorker
    from octavo.engine.recovery.crash import Crash
    from octavo.messages import StepPlan, WorkerConfig

SANITIZER = "compute-sanitizer"
SUMMARY_S = 60.0
"""How long the tool may take to sum up after the last step."""
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands,
        "replay",
        run,
        "Run again, in a fresh worker, the step that a worker died with. The exit code is 1 if it dies again, 0 if not.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="crash folder; the server's log names it")
    parser.add_argument("--model", metavar="TEXT", help="model folder or repo id (default: as recorded)")
    parser.add_argument("--load-format", choices=("auto", "safetensors", "dummy"), help="default: as recorded")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="default: as recorded")
    parser.add_argument("--seed", type=int, default=0, help="of random tokens, where none were kept (default: 0)")
    parser.add_argument("--no-faults", action="store_true", help="leave out faults that were injected")
    parser.add_argument("--sanitizer", choices=TOOLS, help=f"run the worker under this tool of {SANITIZER}")
    parser.add_argument(
        "--step-timeout", type=float, default=600.0, metavar="X", help="seconds after which a step hangs (default: 600)"
    )
    parser.add_argument(
        "--start-timeout", type=float, default=1800.0, metavar="X", help="seconds to load the model (default: 1800)"
    )


def run(args: argparse.Namespace) -> int:
    from octavo.engine.recovery.crash import read_crash
    from octavo.startup import changed_worker_config

    crash = read_crash(args.folder)
    config = changed_worker_config(crash.worker, args.model, args.load_format, args.device)
    under = _sanitizer(args.sanitizer)
    print(_summary(crash), flush=True)
    death = _death(crash, config, under, args)
    if death is None:
        print("survived: the worker started, and answered every plan that the other one died with")
        return 0
    code = "" if death.exit_code is None else f", exit code {death.exit_code}"
    print(f"died again ({death.cause.value}{code}): {death.headline}")
    return 1


def _sanitizer(tool: str | None) -> list[str]:
    """The command that runs a worker under `tool`."""
    if tool is None:
        return []
    path = shutil.which(SANITIZER)
    if path is None:
        raise ConfigError("--sanitizer", f"{SANITIZER} is not on the PATH; it comes with the CUDA toolkit")
    return [path, "--tool", tool, "--target-processes", "all"]


def _summary(crash: Crash) -> str:
    shapes = [f"{plan.num_tokens} tokens in {plan.num_chunks} chunks" for plan in crash.plans]
    kept = all(request.token_ids is not None for request in crash.requests)
    tokens = "the recorded tokens" if kept else "random tokens of the recorded lengths"
    return (
        f"{crash.time}: {crash.message} ({crash.cause.value}); step {crash.step}, in flight: "
        f"{', then '.join(shapes) or 'nothing'}; requests: {len(crash.requests)}, with {tokens}"
    )


def _death(crash: Crash, config: WorkerConfig, under: list[str], args: argparse.Namespace) -> WorkerDiedError | None:
    """Start a worker, bring it to where the other one was, and run the plans; why it died, or None."""
    from octavo.engine.processes.channel import ProcessChannel
    from octavo.engine.processes.worker_process import WORKER, ProcessWorker
    from octavo.engine.recovery.replay import histories, preparation, recorded
    from octavo.startup import read_facts

    facts = read_facts(Path(config.model), config.hf_overrides)
    history = histories(config.block_size, facts.vocab_size, args.seed)
    is_recurrent = facts.state_bytes_per_request > 0
    if is_recurrent:
        config = msgspec.structs.replace(config, num_snapshots=len(crash.requests))
    before = preparation(crash, history, is_recurrent=is_recurrent)
    plans = recorded(crash, history, len(before) + 1, faults=not args.no_faults, is_recurrent=is_recurrent)
    channel = ProcessChannel(WORKER, "--device", config.device, under=under, grace_s=SUMMARY_S if under else 0.0)
    try:
        worker = ProcessWorker(config, args.start_timeout, channel)
    except WorkerDiedError as death:
        return death
    try:
        for plan in before:
            _answer(worker, [plan], args.step_timeout)
        print(f"ready after {len(before)} plans on {worker.ready.device}", flush=True)
        _answer(worker, plans, args.step_timeout)
    except WorkerDiedError as death:
        return death
    finally:
        worker.close()
    return None


def _answer(worker: ProcessWorker, plans: list[StepPlan], timeout_s: float) -> None:
    """Send `plans` at once, as an engine does, and wait for their results.

    Raises:
        WorkerDiedError: the worker died, or a step took longer than `timeout_s`.
    """
    for plan in plans:
        worker.send(plan)
    for _plan in plans:
        if worker.receive(timeout_s) is None:
            message = f"the worker hangs: a step has taken more than {timeout_s:g} s"
            raise WorkerDiedError(message, cause=DeathCause.HANG)
