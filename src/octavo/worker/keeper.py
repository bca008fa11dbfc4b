"""`python -m octavo.worker.keeper`: holds the weights, so that a worker's death does not lose them."""

from __future__ import annotations

import logging
import os
import signal
import time
from typing import NoReturn

import msgspec

from octavo.logs import log_as_child
from octavo.messages import KeeperReady, WeightsPlaced, WorkerConfig
from octavo.wire import Wire
from octavo.worker.imports import uncollected

with uncollected():
    from octavo.worker.process import live, send
    from octavo.worker.shared_weights.weights import PlacedWeights
    from octavo.worker.start import open_device

log = logging.getLogger("octavo.worker.keeper")  # the module is run as `__main__`


def keep(wire: Wire) -> None:
    """Tell where what the first message says will be, load it, and do nothing more for ever."""
    config = msgspec.msgpack.decode(wire.read(), type=WorkerConfig)
    log_as_child("keeper", config.logging_level)
    began = time.perf_counter()
    placed = PlacedWeights(config, open_device(config))
    send(wire, WeightsPlaced(placed.kept))
    weights = placed.load()
    load_s = time.perf_counter() - began
    log.debug("weights loaded in %.2f s: %.1f MiB, checksum %x", load_s, weights.num_bytes / 2**20, weights.checksum)
    send(wire, KeeperReady(pid=os.getpid(), weights=weights, load_s=load_s))
    while True:
        signal.pause()


def main() -> NoReturn:
    live(keep)


if __name__ == "__main__":
    main()
