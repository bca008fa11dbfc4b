"""Stand-ins for keeper and worker that need no torch; `WorkerConfig.model` says what is wrong with them.

Run as `recovery.children` they are whichever is asked for: with `--device` a worker, without it a keeper.
"""

from __future__ import annotations

import argparse
import mmap
import os
import sys
import threading
import time

import msgspec
import zmq

from octavo.messages import HostBlock, KeeperReady, KeptWeights, StepPlan, StepResult, WorkerConfig, WorkerReady

SIZE = 2**16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--device")
    arguments = parser.parse_args()
    threading.Thread(target=end_with_parent, daemon=True).start()
    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.connect(arguments.socket)
        config = msgspec.msgpack.decode(socket.recv(), type=WorkerConfig)
        if arguments.device is None:
            keep(socket, config.model)
        else:
            work(socket, config)


def end_with_parent() -> None:
    os.read(0, 1)
    os._exit(3)


def keep(socket: zmq.Socket[bytes], how: str) -> None:
    if how == "keeper dies":
        sys.exit(7)
    if how == "keeper waits":
        time.sleep(60)
    file = os.memfd_create("octavo-weights")
    os.truncate(file, SIZE)
    weights = KeptWeights(
        block=HostBlock(f"/proc/{os.getpid()}/fd/{file}"),
        num_bytes=SIZE,
        model=b"{}",
        checksum=os.getpid() if how == "weights change" else 0,
    )
    socket.send(msgspec.msgpack.encode(KeeperReady(pid=os.getpid(), weights=weights, load_s=0.0)))
    time.sleep(3600)


def work(socket: zmq.Socket[bytes], config: WorkerConfig) -> None:
    if config.model == "worker dies":
        sys.exit(5)
    if config.model == "second hangs" and config.proven:
        time.sleep(60)
    assert config.weights is not None
    assert isinstance(config.weights.block, HostBlock)
    file = os.open(config.weights.block.path, os.O_RDONLY)
    memory = mmap.mmap(file, config.weights.num_bytes, access=mmap.ACCESS_READ)
    ready = WorkerReady(
        pid=os.getpid(),
        device=config.device,
        weights_format="none",
        num_blocks=config.num_blocks or 4,
        weight_bytes=len(memory),
        kv_cache_bytes=0,
        workspace_bytes=0,
        load_s=0.0,
        warm_up_s=0.0,
    )
    socket.send(msgspec.msgpack.encode(ready))
    while True:
        plan = msgspec.msgpack.decode(socket.recv(), type=StepPlan)
        socket.send(msgspec.msgpack.encode(StepResult(step=plan.step, sampled=[])))


if __name__ == "__main__":
    main()
