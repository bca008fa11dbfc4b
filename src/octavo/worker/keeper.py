"""`python -m octavo.worker.keeper --socket ipc://PATH`: holds the weights, so that a worker's death does not lose them."""

from __future__ import annotations

import argparse
import os
import signal
import time
from typing import NoReturn

import msgspec
import zmq

from octavo.messages import KeeperReady, WorkerConfig
from octavo.worker.process import live, send
from octavo.worker.start import open_device
from octavo.worker.weights import keep_weights


def keep(socket: zmq.Socket[bytes]) -> None:
    """Load what the first message says, tell where it is, and do nothing more for ever."""
    config = msgspec.msgpack.decode(socket.recv(), type=WorkerConfig)
    began = time.perf_counter()
    weights = keep_weights(config, open_device(config))
    send(socket, KeeperReady(pid=os.getpid(), weights=weights, load_s=time.perf_counter() - began))
    while True:
        signal.pause()


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m octavo.worker.keeper", allow_abbrev=False, description=__doc__)
    parser.add_argument("--socket", required=True, help="ZeroMQ address that the engine has bound")
    live(parser.parse_args().socket, keep)


if __name__ == "__main__":
    main()
