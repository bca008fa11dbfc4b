"""`python -m worker.toy_worker`: the worker process with the toy model."""

from __future__ import annotations

import os

import msgspec

from octavo.messages import WorkerConfig, WorkerReady
from octavo.worker.process import Start, serve
from octavo.worker.runner import Runner
from worker.toy import HIDDEN, VOCAB, ToyModel, toy_cache


def prepare(config: WorkerConfig) -> Start:
    return lambda begin: start(msgspec.structs.replace(config, num_blocks=begin.num_blocks))


def start(config: WorkerConfig) -> tuple[Runner, WorkerReady]:
    assert config.num_blocks is not None
    ready = WorkerReady(
        pid=os.getpid(),
        device="toy",
        weights_format="integers",
        num_blocks=config.num_blocks,
        weight_bytes=0,
        kv_cache_bytes=config.num_blocks * config.block_size * HIDDEN * 4,
        workspace_bytes=0,
        load_s=0.0,
        warm_up_s=0.0,
    )
    return Runner(ToyModel(), toy_cache(config), config, vocab_size=VOCAB), ready


if __name__ == "__main__":
    serve(prepare)
