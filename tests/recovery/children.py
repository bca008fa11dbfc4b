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

from octavo.messages import (
    Begin,
    ConfigRefusal,
    HostBlock,
    KeeperReady,
    KeptWeights,
    StepPlan,
    StepResult,
    Waiting,
    WeightsPlaced,
    WorkerConfig,
    WorkerMessage,
    WorkerReady,
)
from octavo.wire import Wire, standard_input

SIZE = 2**16
SLOW_S = 1.0
"""A preparation, as long as which nothing else takes here."""
LONG_S = 600.0
"""A loading that no test waits for."""
WAITS_FOR_WORKER = (
    "keeper waits for the worker",
    "worker prepares slowly",
    "worker refuses",
    "first worker dies early",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device")
    device = parser.parse_args().device
    wire = standard_input()
    threading.Thread(target=end_with_parent, args=(wire,), daemon=True).start()
    if device is not None:
        say(wire, Waiting(configured=False))
    try:
        config = msgspec.msgpack.decode(wire.read(), type=WorkerConfig)
        if device is None:
            keep(wire, config.model)
        else:
            if config.model == "worker prepares slowly":
                time.sleep(SLOW_S)
            is_marked_before = config.model in WAITS_FOR_WORKER and not is_loaded(config) and mark(config)
            if config.model == "first worker dies early" and not is_marked_before:
                os._exit(5)
            if config.model == "worker refuses":
                say(wire, ConfigRefusal("device", "is gone"))
                os._exit(1)
            begin = msgspec.msgpack.decode(wire.read(), type=Begin)
            work(
                wire,
                msgspec.structs.replace(
                    config,
                    num_blocks=begin.num_blocks,
                    has_predecessor=begin.has_predecessor,
                    weights=begin.weights,
                ),
            )
    except EOFError:
        os._exit(3)


def end_with_parent(wire: Wire) -> None:
    wire.await_end()
    os._exit(3)


def keep(wire: Wire, how: str) -> None:
    if how == "keeper dies":
        sys.exit(7)
    if how == "keeper waits":
        time.sleep(60)
    file = os.memfd_create("octavo-weights")
    os.truncate(file, SIZE)
    weights = KeptWeights(block=HostBlock(f"/proc/{os.getpid()}/fd/{file}"), num_bytes=SIZE, model=b"{}")
    say(wire, WeightsPlaced(weights))
    while how in WAITS_FOR_WORKER and not os.pread(file, 1, 0)[0]:
        time.sleep(0.01)
    if how == "worker refuses":
        time.sleep(LONG_S)
    if how == "first worker dies early":
        time.sleep(SLOW_S)  # by then the second waits
    loaded = msgspec.structs.replace(weights, checksum=os.getpid() if how == "weights change" else 0)
    say(wire, KeeperReady(pid=os.getpid(), weights=loaded, load_s=0.0))
    time.sleep(3600)


def is_loaded(config: WorkerConfig) -> bool:
    """Whether its weights are loaded."""
    assert config.weights is not None
    return config.weights.checksum is not None


def mark(config: WorkerConfig) -> bool:
    """Show the keeper that a worker has its config; whether one had before."""
    assert config.weights is not None
    assert isinstance(config.weights.block, HostBlock)
    file = os.open(config.weights.block.path, os.O_RDWR)
    before = os.pread(file, 1, 0)
    os.pwrite(file, b"\1", 0)
    os.close(file)
    return before == b"\1"


def work(wire: Wire, config: WorkerConfig) -> None:
    if config.model == "worker dies":
        sys.exit(5)
    if config.model == "second hangs" and config.has_predecessor:
        time.sleep(60)
    assert config.weights is not None
    assert config.weights.checksum is not None
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
        ahead_s=SLOW_S if config.model == "worker prepares slowly" else 0.0,
    )
    say(wire, ready)
    while True:
        plan = msgspec.msgpack.decode(wire.read(), type=StepPlan)
        say(wire, StepResult(step=plan.step, sampled=[]))


def say(wire: Wire, message: WorkerMessage) -> None:
    wire.send(msgspec.msgpack.encode(message))
    wire.flush()


if __name__ == "__main__":
    main()
