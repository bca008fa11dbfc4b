"""`python -m octavo.worker.keeper`: holds the weights, so that a worker's death does not lose them."""

from __future__ import annotations

import os
import signal
import time
from typing import NoReturn

import msgspec

from octavo.messages import KeeperReady, WorkerConfig
from octavo.wire import Wire
from octavo.worker.process import live, send
from octavo.worker.shared_weights.weights import keep_weights
from octavo.worker.start import open_device


def keep(wire: Wire) -> None:
    """Load what the first message says, tell where it is, and do nothing more for ever."""
    config = msgspec.msgpack.decode(wire.read(), type=WorkerConfig)
    began = time.perf_counter()
    weights = keep_weights(config, open_device(config))
    send(wire, KeeperReady(pid=os.getpid(), weights=weights, load_s=time.perf_counter() - began))
    while True:
        signal.pause()


def main() -> NoReturn:
    live(keep)


if __name__ == "__main__":
    main()
