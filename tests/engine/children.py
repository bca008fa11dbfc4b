"""Stand-ins for `octavo.worker`: what a child process may do to its parent. Chosen by `WorkerConfig.model`."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import msgspec

from octavo.messages import Begin, SampledToken, StepPlan, StepResult, WorkerConfig, WorkerFault, WorkerReady
from octavo.wire import Wire, standard_input

READY = WorkerReady(
    pid=os.getpid(),
    device="stand-in",
    weights_format="none",
    num_blocks=4,
    weight_bytes=0,
    kv_cache_bytes=0,
    workspace_bytes=0,
    load_s=0.0,
    warm_up_s=0.0,
)


def main() -> None:
    wire = standard_input()
    threading.Thread(target=end_with_parent, args=(wire,), daemon=True).start()
    config = msgspec.msgpack.decode(wire.read(), type=WorkerConfig)
    msgspec.msgpack.decode(wire.read(), type=Begin)
    try:
        behave(config.model, wire)
    except EOFError:
        sys.exit(3)


def end_with_parent(wire: Wire) -> None:
    wire.await_end()
    os._exit(3)


def behave(how: str, wire: Wire) -> None:
    if how == "fault":
        say(wire, WorkerFault(message="no such model", traceback="Traceback: somewhere"))
        return
    if how == "exit":
        print("the disk is on fire", file=sys.stderr)
        sys.exit(7)
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "silent":
        time.sleep(60)
    if how == "garbage":
        wire.send(b"\xc1")
        time.sleep(60)
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(wire, READY)
    while True:
        plan = msgspec.msgpack.decode(wire.read(), type=StepPlan)
        answer(how, plan, wire)


def answer(how: str, plan: StepPlan, wire: Wire) -> None:
    if how == "hang":
        time.sleep(60)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "late-fault":
        say(wire, WorkerFault(message="illegal memory access", traceback="Traceback: a kernel"))
        sys.exit(1)
    sampled = [SampledToken(chunk.slot, 5, None) for chunk in plan.chunks if chunk.sample]
    say(wire, StepResult(step=plan.step, sampled=sampled))
    if how == "dies-after-answering":
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)


def say(wire: Wire, message: WorkerReady | WorkerFault | StepResult) -> None:
    wire.send(msgspec.msgpack.encode(message))
    wire.flush()


if __name__ == "__main__":
    main()
