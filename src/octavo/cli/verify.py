"""`octavo verify`: promises 1 and 2 (any batch, same bits) on this machine and this model."""

from __future__ import annotations

import argparse
import time

from octavo.cli.bench.offline import GROUPS
from octavo.cli.flags import add_settings, settings_from
from octavo.cli.parsers import Commands, add_command


def add_parser(commands: Commands) -> None:
    parser = add_command(commands, "verify", run, "Check on this machine that answers do not depend on the batch.")
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    add_settings(parser, GROUPS)


def run(args: argparse.Namespace) -> int:
    from octavo.startup import in_processes, start
    from octavo.verification import Verification

    runtime = start(settings_from(args), in_processes)
    try:
        ready = runtime.link.ready
        print(f"{runtime.settings.model}, {ready.weights_format}, on {ready.device}")
        verification = Verification(runtime.link, runtime.config, quick=args.quick)
        began = time.monotonic()
        verification.run_alone()
        print(
            f"{len(verification.probes)} requests alone, one at a time: the reference ({time.monotonic() - began:.1f} s)"
        )
        print(f"\n{'case':<34} {'largest step':>12} {'equal answers':>14} {'seconds':>8}")
        failed = 0
        for check in [
            *(lambda case=case: verification.run(case) for case in verification.cases()),
            verification.scored_as_prompts,
            verification.refusals,
        ]:
            began = time.monotonic()
            outcome = check()
            word = f"FAIL: {outcome.trouble}" if outcome.trouble else "pass"
            counts = f"{outcome.equal}/{outcome.compared}"
            seconds = time.monotonic() - began
            print(f"{outcome.name:<34} {outcome.largest_step:>12} {counts:>14} {seconds:>8.1f}  {word}", flush=True)
            failed += bool(outcome.trouble)
        print(
            f"\n{'FAILED: ' + str(failed) + ' cases' if failed else 'every answer has the bits of the request alone'}"
        )
        return 1 if failed else 0
    finally:
        runtime.close()
