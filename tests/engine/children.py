"""Stand-ins for `octavo.worker`: what a child process may do to its parent. Chosen by `WorkerConfig.model`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time

import msgspec
import zmq

from octavo.messages import SampledToken, StepPlan, StepResult, WorkerConfig, WorkerFault, WorkerReady

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
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    address = parser.parse_args().socket
    threading.Thread(target=end_with_parent, daemon=True).start()
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.connect(address)
    try:
        behave(msgspec.msgpack.decode(socket.recv(), type=WorkerConfig).model, socket)
    finally:
        context.destroy(linger=1000)


def end_with_parent() -> None:
    os.read(0, 1)
    os._exit(3)


def behave(how: str, socket: zmq.Socket[bytes]) -> None:
    if how == "fault":
        say(socket, WorkerFault(message="no such model", traceback="Traceback: somewhere"))
        return
    if how == "exit":
        print("the disk is on fire", file=sys.stderr)
        sys.exit(7)
    if how == "silent":
        time.sleep(60)
    if how == "garbage":
        socket.send(b"\xc1")
        time.sleep(60)
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say(socket, READY)
    while True:
        plan = msgspec.msgpack.decode(socket.recv(), type=StepPlan)
        answer(how, plan, socket)


def answer(how: str, plan: StepPlan, socket: zmq.Socket[bytes]) -> None:
    if how == "hang":
        time.sleep(60)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "late-fault":
        say(socket, WorkerFault(message="illegal memory access", traceback="Traceback: a kernel"))
        sys.exit(1)
    sampled = [SampledToken(chunk.slot, 5, None) for chunk in plan.chunks if chunk.sample]
    say(socket, StepResult(step=plan.step, sampled=sampled))
    if how == "dies-after-answering":
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)


def say(socket: zmq.Socket[bytes], message: WorkerReady | WorkerFault | StepResult) -> None:
    socket.send(msgspec.msgpack.encode(message))


if __name__ == "__main__":
    main()
