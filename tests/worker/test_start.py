"""Loading, the ready message, and the two ways to run a worker, with a real (random) Qwen3-MoE."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
import torch

from bits.tiny import CONFIG
from octavo.engine.processes.worker_process import ProcessWorker
from octavo.errors import CheckpointError, ConfigError, WorkerDiedError
from octavo.messages import STANDBY_BYTES, Admission, Begin, Chunk, StepPlan, WorkerConfig, WorkerReady
from octavo.models.cpu_operations import CpuOperations
from octavo.models.forward_batch import ForwardBatch
from octavo.models.kv_cache import KVCache
from octavo.models.load import load_model
from octavo.ops import compiler_process
from octavo.sampling import SamplingParams
from octavo.startup.model import read_facts
from octavo.worker.inprocess import InProcessWorker
from octavo.worker.runner import Model
from octavo.worker.start import AHEAD_BYTES, _load_kernels_ahead, ahead_config, prepare, waited_for
from octavo.worker.warm_up import warm_up
from worker.toy import toy_config

START_S = 60.0
PLANS = [
    StepPlan(
        1,
        [],
        [Admission(3, [5, 6, 7, 8], 4, SamplingParams(seed=1, logprobs=2, prompt_logprobs=1), [])],
        [Chunk(3, 0, 4, [2], True)],
    ),
    StepPlan(2, [], [], [Chunk(3, 4, 1, [9], True)]),
]


@pytest.fixture
def config(tmp_path: Path) -> WorkerConfig:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return WorkerConfig(
        model=str(tmp_path),
        load_format="dummy",
        max_model_len=24,
        max_num_seqs=4,
        max_num_batched_tokens=32,
        block_size=4,
        threads=torch.get_num_threads(),
    )


class NotedProcess:
    """A process that compiles kernels, of which only its beginning and its end are noted."""

    events: ClassVar[list[str]] = []
    connections: ClassVar[list[object]] = []

    def __init__(self) -> None:
        self.events.append("fork")

    def kill(self) -> None:
        self.events.append("kill")


@pytest.mark.parametrize(
    ("device", "has_predecessor", "cores", "count"),
    [("cuda", False, 6, 3), ("cuda", False, 1, 0), ("cuda", False, 200, 8), ("cuda", True, 6, 0), ("cpu", False, 6, 0)],
)
def test_processes_that_compile_are_forked_before_the_device_is_opened_and_end_with_a_start_that_fails(
    config: WorkerConfig, monkeypatch: pytest.MonkeyPatch, device: str, has_predecessor: bool, cores: int, count: int
) -> None:
    """Of the first worker of its kind on a GPU: one for two cores, up to eight."""

    def refuse(_: WorkerConfig) -> torch.device:
        NotedProcess.events.append("open")
        raise ConfigError("device", "none here")

    NotedProcess.events.clear()
    monkeypatch.setattr(compiler_process, "CompilerProcess", NotedProcess)
    monkeypatch.setattr("octavo.worker.start.open_device", refuse)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    with pytest.raises(ConfigError, match="none here"):
        prepare(msgspec.structs.replace(config, device=device, has_predecessor=has_predecessor))
    assert NotedProcess.events == [*["fork"] * count, "open", *["kill"] * count]


def test_ready_says_what_there_is(config: WorkerConfig, capfd: pytest.CaptureFixture[str]) -> None:
    ready = InProcessWorker(config).ready
    assert ready.pid == os.getpid()
    assert ready.device == f"CPU ({torch.get_num_threads()} threads)"
    assert ready.weights_format == "compressed-tensors FP8 (per-channel weights, per-token activations)"
    assert ready.num_blocks == 4 * 6
    assert ready.kv_cache_bytes == 24 * 4 * 2 * 2 * 2 * 2 * 8
    assert "--kv-cache-memory-bytes gives more" in ready.kv_cache_source
    assert ready.weight_bytes > 128 * 3 * 32 * 16 * 2
    assert ready.load_s > 0
    assert ready.warm_up_s > 0
    assert "kv cache" in capfd.readouterr().err


def test_a_process_gives_the_bits_of_an_in_process_worker(config: WorkerConfig) -> None:
    inside, outside = InProcessWorker(config), ProcessWorker(config, START_S)
    try:
        for plan in PLANS:
            inside.send(plan)
            outside.send(plan)
        for _ in PLANS:
            one, other = inside.receive(0), outside.receive(30)
            assert one is not None
            assert other is not None
            assert one.sampled == other.sampled != []
            assert one.prompt_scores == other.prompt_scores
        assert outside.ready.pid != os.getpid()
    finally:
        outside.close()


def test_a_fault_in_process_is_the_worker_s_death(config: WorkerConfig) -> None:
    worker = InProcessWorker(config)
    worker.send(StepPlan(1, [2], [], []))
    with pytest.raises(WorkerDiedError, match="slot 2"):
        worker.receive(None)
    with pytest.raises(WorkerDiedError, match="closed"):
        worker.receive(0)
    with pytest.raises(WorkerDiedError, match="closed"):
        worker.send(PLANS[0])
    worker.close()


def test_a_model_folder_that_is_not_there_is_named(config: WorkerConfig) -> None:
    missing = msgspec.structs.replace(config, model="no-such-model")
    with pytest.raises(CheckpointError, match="no-such-model"):
        InProcessWorker(missing)
    with pytest.raises(CheckpointError) as error:
        ProcessWorker(missing, START_S)
    assert error.value.file == "no-such-model/config.json"
    assert "Traceback" not in str(error.value)


def test_cuda_without_a_device_names_the_remedy(config: WorkerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cuda = msgspec.structs.replace(config, device="cuda")
    with pytest.raises(ConfigError, match=r"device: .*--device cpu"):
        InProcessWorker(on_cuda)


def test_what_a_worker_has_proven_the_next_does_not_try_again(config: WorkerConfig) -> None:
    steps: list[int] = []

    class Counted:
        """A model that notes how many tokens it is given."""

        def __init__(self, model: Model) -> None:
            self._model = model
            self.logits = model.logits

        def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
            steps.append(len(batch.token_ids))
            return self._model.forward(batch, kv_cache)

    whole = msgspec.structs.replace(config, max_num_batched_tokens=90)
    loaded = load_model(Path(config.model), load_format="dummy", device=torch.device("cpu"), seed=0, progress=False)
    cache = KVCache.allocate(loaded.config.cache, num_blocks=24, block_size=4, device=torch.device("cpu"))
    for briefly in (False, True):
        warm_up(Counted(loaded.model), cache, whole, vocab_size=loaded.config.vocab_size, briefly=briefly)
    assert steps == [90, 64]


class Kept:
    """In place of `MappedWeights`: notes what is done with them."""

    def __init__(self, events: list[str], *, are_loaded: bool) -> None:
        self._events, self.are_loaded, self.taken_bytes = events, are_loaded, 0

    def verify(self, told: object) -> int:
        self._events.append("verify")
        return 0

    def build(self) -> str:
        self._events.append("build")
        return "model"


@pytest.mark.parametrize("has_predecessor", [False, True])
@pytest.mark.parametrize("are_loaded", [False, True])
def test_kernels_are_compiled_before_weights_are_there_and_launched_behind_that(
    config: WorkerConfig, monkeypatch: pytest.MonkeyPatch, has_predecessor: bool, are_loaded: bool
) -> None:
    events: list[str] = []
    ready, kept = InProcessWorker(config).ready, Kept(events, are_loaded=are_loaded)

    def begin(*_args: object) -> tuple[str, WorkerReady]:
        events.append("launch")
        return "runner", ready

    monkeypatch.setattr("octavo.worker.start.open_device", lambda _config: torch.device("cuda"))
    monkeypatch.setattr("octavo.worker.start._describe", str)
    monkeypatch.setattr("octavo.worker.start._weights", lambda *_args: kept)
    monkeypatch.setattr("octavo.worker.start._compile_kernels", lambda *_args: events.append("compile"))
    monkeypatch.setattr("octavo.worker.start._load_kernels_ahead", lambda *_args: events.append("launch ahead"))
    monkeypatch.setattr("octavo.worker.start._begin", begin)
    told = msgspec.structs.replace(config, device="cuda", has_predecessor=has_predecessor)
    start = prepare(told, choose=lambda _config, _device: CpuOperations())
    prepared = len(events)
    start(Begin(None, has_predecessor, None, 0.0))
    ahead = ["launch ahead"] if has_predecessor else []
    if are_loaded:
        assert events[:prepared] == ["build", *(ahead or ["compile"])]
        assert events[prepared:] == ["verify", "launch"]
    else:  # what was built on weights that were not there is not used
        assert events[:prepared] == ["build", "compile"]
        assert events[prepared:] == ["verify", "build", *ahead, "launch"]


@pytest.mark.parametrize(
    ("waited_s", "told"),
    [(-1.0, [0, 0, 0]), (0.0, [0, 0, 0]), (3.0, [0, 0, 3]), (5.0, [0, 1, 4]), (6.5, [0.5, 2, 4]), (9.0, [1, 2, 4])],
)
def test_what_is_prepared_is_told_as_far_as_somebody_waited(waited_s: float, told: list[float]) -> None:
    assert waited_for([1.0, 2.0, 4.0], waited_s) == told


@pytest.mark.parametrize(("since_s", "waited_s"), [(0.0, 0.1), (math.inf, 0.0)])
def test_what_nobody_waited_for_is_told_apart(
    config: WorkerConfig, monkeypatch: pytest.MonkeyPatch, since_s: float, waited_s: float
) -> None:
    monkeypatch.setattr("octavo.worker.start.open_device", slow_device)
    _, ready = prepare(config)(Begin(None, False, None, since_s))
    assert ready.open_s >= waited_s
    assert ready.ahead_s >= 0.1 - waited_s
    assert not (ready.ahead_s if waited_s else ready.open_s)


def slow_device(_config: WorkerConfig) -> torch.device:
    time.sleep(0.1)
    return torch.device("cpu")


@pytest.mark.parametrize("shape", ["qwen3-30b-a3b-fp8", "qwen3.6-35b-a3b-fp8", "qwen3-next-80b-a3b-fp8"])
def test_a_standby_runs_steps_that_have_room_beside_the_worker(shape: str) -> None:
    facts = read_facts(Path(__file__).parents[2] / "benchmarks/shapes" / shape)
    config = toy_config(
        device="cuda", max_num_seqs=256, max_num_batched_tokens=8192, num_snapshots=128, max_model_len=40_960
    )
    ahead = ahead_config(config, facts)
    bytes_of_caches = facts.cache_bytes(tokens=ahead.max_num_batched_tokens, requests=ahead.num_states)
    assert bytes_of_caches < AHEAD_BYTES / 2 < STANDBY_BYTES / 2
    assert ahead.max_num_batched_tokens == 4096
    assert (ahead.max_num_seqs == 256) == (facts.state_bytes_per_request == 0)
    assert ahead.max_num_seqs >= 1
    small = toy_config(device="cuda", max_num_seqs=2, max_num_batched_tokens=512)
    assert ahead_config(small, facts) == small


def test_a_standby_that_finds_no_room_is_a_standby_yet(config: WorkerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its share is bounded while it prepares, and no longer when it may become the worker."""
    shares: list[float] = []

    def set_share(share: float, device: int | None = None) -> None:
        assert device is None, "torch takes no device without a number here"
        shares.append(share)

    def run_out(*_args: object, **_options: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", set_share)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 8 * AHEAD_BYTES))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr("octavo.worker.start._run_all_sizes", run_out)
    loaded = load_model(Path(config.model), load_format="dummy", device=torch.device("cpu"), seed=0, progress=False)
    _load_kernels_ahead(loaded, config, torch.device("cpu"))
    assert shares == [1 / 8, 1.0]
