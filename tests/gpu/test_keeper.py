"""Weights shared between processes by CUDA's handles: same bits, memory that comes back, and seconds by phase."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
import torch

from bits.tiny import CONFIG
from octavo.engine.processes.standby_source import StandbySource
from octavo.engine.processes.standbys import COUNT
from octavo.engine.processes.worker_process import ProcessWorker
from octavo.errors import WorkerDiedError
from octavo.messages import (
    STANDBY_BYTES,
    Admission,
    Chunk,
    DeviceBlock,
    Fault,
    FaultKind,
    StepPlan,
    WorkerConfig,
    WorkerReady,
)
from octavo.sampling import SamplingParams
from octavo.worker.process import IDLE_S

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.alone]
START_S = 300.0
MIB = 2**20
SAMPLING = SamplingParams(seed=1, logprobs=5, prompt_logprobs=3)
PROMPT = list(range(5, 45))
PLANS = [
    StepPlan(1, [], [Admission(3, PROMPT, len(PROMPT), SAMPLING, [])], [Chunk(3, 0, len(PROMPT), [2, 5, 7], True)]),
    *(StepPlan(i, [], [], [Chunk(3, len(PROMPT) + i - 2, 1, [], True)]) for i in range(2, 8)),
    StepPlan(8, [3], [], []),
]
LAYERS_OF_QWEN = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
}
"""Four of the 48 layers of Qwen3-30B-A3B, 3 GB with embedding and head."""


@pytest.fixture(params=[{}, LAYERS_OF_QWEN], ids=["tiny", "four-layers-of-qwen"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> WorkerConfig:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | request.param))
    return WorkerConfig(
        model=str(tmp_path),
        load_format="dummy",
        device="cuda",
        max_model_len=64,
        max_num_seqs=64,
        max_num_batched_tokens=512,
        block_size=16,
        gpu_memory_utilization=0.15,
        seed=3,
    )


@pytest.fixture
def source(config: WorkerConfig) -> Iterator[StandbySource]:
    source = StandbySource(config, START_S)
    yield source
    source.close()


def test_kept_weights_give_the_bits_of_loaded_ones(config: WorkerConfig, source: StandbySource) -> None:
    plain = ProcessWorker(config, START_S)
    expected = answers(plain)
    plain.close()
    worker = source.start(None)
    assert answers(worker) == expected, "the first worker on kept weights"
    os.kill(worker.ready.pid, signal.SIGKILL)
    assert answers(source.start(worker.ready.num_blocks)) == expected, "the second worker on kept weights"


def test_the_bits_would_show_other_weights(config: WorkerConfig, source: StandbySource) -> None:
    """The twin: weights of another seed."""
    other = StandbySource(msgspec.structs.replace(config, seed=4), START_S)
    try:
        assert answers(other.start(None)) != answers(source.start(None))
    finally:
        other.close()


def test_there_is_one_copy_of_the_weights(source: StandbySource) -> None:
    before = used_bytes()
    worker = source.start(None)
    ready, taken = worker.ready, used_bytes() - before
    # Two contexts of some hundred MiB each, and the workspace of the experts.
    beside = taken - ready.weight_bytes - ready.kv_cache_bytes - ready.workspace_bytes
    report("memory", weights=ready.weight_bytes / MIB, taken=taken / MIB, beside=beside / MIB)
    assert beside < 2**31 + ready.weight_bytes / 2


def test_a_restart_maps_the_weights_and_memory_comes_back(source: StandbySource) -> None:
    before = used_bytes()
    began = time.monotonic()
    worker = source.start(None)
    tell("first start", began, worker.ready)
    prepared(source)
    blocks, full = worker.ready.num_blocks, used_bytes()
    # The first worker keeps what the largest step took; those after it run a short one before they are ready.
    drifts = []
    for number in range(1, 6):
        prepared(source)
        os.kill(worker.ready.pid, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(WorkerDiedError, match="signal 9"):
            worker.receive(None)
        detected = time.monotonic()
        worker.close()
        ended = time.monotonic()
        freed = full - used_bytes()
        assert freed >= worker.ready.kv_cache_bytes, f"{freed / MIB:.0f} MiB came back when the worker had ended"
        worker = source.start(blocks)
        tell(f"restart {number}", ended, worker.ready, detect=detected - began, end=ended - detected)
        assert worker.ready.num_blocks == blocks
        prepared(source)
        drifts.append(used_bytes() - full)
    report("restarts", **{f"drift_{number}": drift / MIB for number, drift in enumerate(drifts, 1)})
    assert max(drifts) < 64 * MIB
    assert max(drifts) - min(drifts) < 64 * MIB
    source.close()
    left = used_bytes() - before
    assert left < 64 * MIB, f"{left / MIB:.0f} MiB are not free again"


@pytest.mark.parametrize("config", [{}], ids=["tiny"], indirect=True)
def test_fifty_kills_leave_no_device_memory(config: WorkerConfig) -> None:
    """Five workers, killed and replaced ten times over; every fourth time their keepers with them."""
    before = used_bytes()
    sources = [StandbySource(config, START_S) for _ in range(5)]
    try:
        with ThreadPoolExecutor(len(sources)) as pool:
            workers = list(pool.map(lambda source: source.start(None), sources))
            full, expected, drifts = idle_bytes(), answers(workers[0]), []
            for number in range(10):
                replace = functools.partial(replaced, keeper_too=number % 4 == 2)
                workers = list(pool.map(replace, sources))
                drifts.append(idle_bytes() - full)
        assert all(answers(worker) == expected for worker in workers)
    finally:
        for source in sources:
            source.close()
    left = used_bytes() - before
    report("fifty kills", least=min(drifts) / MIB, most=max(drifts) / MIB, last=drifts[-1] / MIB, left=left / MIB)
    assert max(map(abs, drifts)) < 16 * MIB
    assert max(drifts) - min(drifts) < 16 * MIB
    assert left < 16 * MIB


def replaced(source: StandbySource, *, keeper_too: bool) -> ProcessWorker:
    """The worker that comes after a `kill -9`."""
    worker = source._worker
    assert worker is not None
    for pid in (worker.ready.pid, *([source.ensure_keeper().pid] if keeper_too else [])):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="signal 9"):
        worker.receive(None)
    try:
        return source.start(worker.ready.num_blocks)
    except WorkerDiedError:  # the keeper's end was seen only now; the supervisor starts again too
        return source.start(worker.ready.num_blocks)


def test_the_whole_of_qwen_is_back_within_five_seconds(tmp_path: Path) -> None:
    """30 GB of weights, the largest step of 8192 tokens, and the KV cache that `octavo serve` would take."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | LAYERS_OF_QWEN | {"num_hidden_layers": 48}))
    config = WorkerConfig(
        model=str(tmp_path),
        load_format="dummy",
        device="cuda",
        max_model_len=4096,
        max_num_seqs=256,
        max_num_batched_tokens=8192,
        block_size=16,
    )
    source = StandbySource(config, START_S)
    try:
        began = time.monotonic()
        worker = source.start(None)
        tell("first start of 48 layers", began, worker.ready)
        expected, started = answers(worker), used_bytes()
        report("48 layers take, once idle", mib=(idle_bytes() - started) / MIB)
        for number in range(1, 4):
            prepared(source)
            keeper, standby = source.ensure_keeper().pid, source.standbys[0].channel.pid
            os.kill(worker.ready.pid, signal.SIGKILL)
            began = time.monotonic()
            with pytest.raises(WorkerDiedError, match="signal 9"):
                worker.receive(None)
            detected = time.monotonic()
            worker.close()
            ended = time.monotonic()
            worker = source.start(worker.ready.num_blocks)
            tell(f"restart {number} of 48 layers", ended, worker.ready, detect=detected - began, end=ended - detected)
            assert answers(worker) == expected
            # What makes it short: no process is started, and nothing loaded.
            assert (source.ensure_keeper().pid, worker.ready.pid) == (keeper, standby)
    finally:
        source.close()


def test_standbys_take_little_device_memory_and_none_of_the_worker_s(source: StandbySource) -> None:
    worker = source.start(None)
    alone = idle_bytes()
    prepared(source)
    each = (idle_bytes() - alone) / COUNT
    report("a prepared standby", mib=each / MIB)
    assert each < STANDBY_BYTES
    assert worker.receive(0) is None


def test_without_room_for_them_standbys_only_import(config: WorkerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo.engine.processes.standby_source.STANDBY_BYTES", 2**60)
    source = StandbySource(config, START_S)
    try:
        worker = source.start(None)
        alone = idle_bytes()
        prepared(source)
        assert abs(idle_bytes() - alone) < 8 * MIB
        expected = answers(worker)
        os.kill(worker.ready.pid, signal.SIGKILL)
        assert answers(source.start(worker.ready.num_blocks)) == expected
    finally:
        source.close()


def test_the_weights_survive_an_illegal_access(config: WorkerConfig, source: StandbySource) -> None:
    worker = source.start(None)
    expected, keeper = answers(worker), source.ensure_keeper().pid
    worker.send(msgspec.structs.replace(PLANS[0], step=9, faults=[Fault(FaultKind.OUT_OF_BOUNDS, [])]))
    with pytest.raises(WorkerDiedError, match="illegal memory access"):
        worker.receive(60)
    began = time.monotonic()
    worker = source.start(worker.ready.num_blocks)
    tell("after an illegal access", began, worker.ready)
    assert source.ensure_keeper().pid == keeper
    assert answers(worker) == expected


def test_weights_that_were_written_to_are_not_used_again(source: StandbySource) -> None:
    """A process maps them, as a worker does, and changes one byte."""
    worker = source.start(None)
    expected, keeper = answers(worker), source.ensure_keeper().pid
    assert source._keeper is not None
    kept = source._keeper.weights
    assert kept is not None
    assert isinstance(kept.block, DeviceBlock)
    program = f"""
import torch
from octavo.messages import DeviceBlock
from octavo.worker.shared_weights.device_block import map_device_block
data = map_device_block(DeviceBlock({kept.block.handle!r}), {kept.num_bytes}, torch.device("cuda"))
data[1000] += 1
torch.cuda.synchronize()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    os.kill(worker.ready.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(WorkerDiedError, match="not what was loaded"):
            source.start(worker.ready.num_blocks)
    assert answers(source.start(worker.ready.num_blocks)) == expected
    assert source.ensure_keeper().pid != keeper


def test_a_keeper_that_dies_is_replaced(source: StandbySource) -> None:
    worker = source.start(None)
    expected = answers(worker)
    os.kill(source.ensure_keeper().pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="the keeper ended: signal 9"):
        worker.receive(None)
    worker.close()
    began = time.monotonic()
    worker = source.start(worker.ready.num_blocks)
    tell("after the keeper's death", began, worker.ready)
    assert answers(worker) == expected


def answers(worker: ProcessWorker) -> list[object]:
    """What the plans give, to the bit."""
    for plan in PLANS:
        worker.send(plan)
    results = [worker.receive(60) for _ in PLANS]
    assert all(result is not None and not result.bad_slots for result in results)
    assert results[0] is not None
    assert results[0].sampled
    return [(result.sampled, result.prompt_scores) for result in results if result is not None]


def prepared(source: StandbySource) -> None:
    """Wait until the standbys have done all that they can before they are needed."""
    end_s = time.monotonic() + START_S
    while len(source.standbys) < COUNT or not all(standby.prepared for standby in source.standbys):
        assert time.monotonic() < end_s
        source.tend()
        time.sleep(0.02)


def used_bytes() -> int:
    """Device memory in use by all processes."""
    free, total = torch.cuda.mem_get_info()
    return total - free


def idle_bytes() -> int:
    """As `used_bytes`, when no process takes more: workers that have nothing else to do record graphs."""
    end_s, since_s, last = time.monotonic() + START_S, time.monotonic(), used_bytes()
    while time.monotonic() < since_s + 2 * IDLE_S:
        assert time.monotonic() < end_s
        time.sleep(0.05)
        used = used_bytes()
        if used != last:
            since_s, last = time.monotonic(), used
    return last


def tell(what: str, began_s: float, ready: WorkerReady, **before: float) -> None:
    seconds = time.monotonic() - began_s
    parts = {"open": ready.open_s, "load": ready.load_s, "allocate": ready.allocate_s, "warm_up": ready.warm_up_s}
    report(what, **before, start=seconds, other=seconds - sum(parts.values()), **parts)


def report(what: str, **numbers: float) -> None:
    """One line per measurement; `-s` shows it, and so does every failure."""
    print(f"{what}: " + ", ".join(f"{name} {number:.3f}" for name, number in numbers.items()))
