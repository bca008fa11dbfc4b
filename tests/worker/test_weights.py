"""Weights in one shared block: the bits of loaded ones, where they may be written, and what a change of them does."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
import torch

from bits.tiny import CONFIG
from octavo.messages import Admission, Begin, Chunk, HostBlock, KeptWeights, StepPlan, WorkerConfig
from octavo.models.config import ModelConfig
from octavo.models.cpu_operations import CpuOperations
from octavo.models.decoder.parameters import DecoderParameters, SparseMlp
from octavo.models.load import fill_parameters
from octavo.models.placing import ParameterMaker, fresh_memory
from octavo.models.registry import decode_config, read_folder
from octavo.sampling import SamplingParams
from octavo.worker.inprocess import InProcessWorker
from octavo.worker.runner import Runner
from octavo.worker.shared_weights.host_block import map_host_block
from octavo.worker.shared_weights.weights import (
    ALIGNMENT,
    MappedWeights,
    PlacedWeights,
    _Layout,
    block_bytes,
    checksum,
    load_weights,
)
from octavo.worker.start import prepare, start

CPU = torch.device("cpu")
SAMPLING = SamplingParams(seed=1, logprobs=5, prompt_logprobs=3)
PLANS = [
    StepPlan(1, [], [Admission(3, [5, 6, 7, 8], 4, SAMPLING, [])], [Chunk(3, 0, 4, [2], True)]),
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
        seed=3,
    )


@pytest.fixture
def kept(config: WorkerConfig) -> KeptWeights:
    return PlacedWeights(config, CPU).load()


def mapped(kept: KeptWeights) -> tuple[ModelConfig, DecoderParameters]:
    assert isinstance(kept.block, HostBlock)
    model = decode_config(kept.model)
    return model, model.place_parameters(_Layout(map_host_block(kept.block, kept.num_bytes)))


def test_mapped_weights_are_the_loaded_ones(config: WorkerConfig, kept: KeptWeights) -> None:
    model, parameters = mapped(kept)
    fresh = model.place_parameters(fresh_memory(CPU))
    fill_parameters(fresh, model, Path(config.model), load_format="dummy", seed=3, progress=False)
    assert model == read_folder(Path(config.model))
    assert list(fresh.sources) == list(parameters.sources)
    for name, view in parameters.sources.items():
        assert torch.equal(view.view(torch.uint8), fresh.sources[name].view(torch.uint8)), name


def test_a_worker_on_mapped_weights_gives_the_bits_of_one_that_loads(config: WorkerConfig, kept: KeptWeights) -> None:
    on_kept = msgspec.structs.replace(config, weights=kept)
    assert run(on_kept) == run(config)


def test_the_rotary_table_has_the_positions_that_requests_can_have(config: WorkerConfig, kept: KeptWeights) -> None:
    loaded, _ = load_weights(config, CPU, CpuOperations())
    on_kept = map_weights(kept, config.max_model_len).build()
    for model in (loaded.model, on_kept.model):
        assert len(model._rotary.cos) == config.max_model_len < loaded.config.max_position_embeddings


def test_what_fills_weights_is_looked_for_only_where_they_are_loaded(
    config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a worker: Qwen3-30B-A3B has 37,491 tensors, which took most of the time of its model."""
    placed = PlacedWeights(config, CPU)

    def sources(_maker: ParameterMaker) -> None:
        raise AssertionError("looked for")

    monkeypatch.setattr(ParameterMaker, "sources", sources)
    map_weights(placed.kept).build()
    assert block_bytes(decode_config(placed.kept.model)) == placed.kept.num_bytes
    with pytest.raises(AssertionError, match="looked for"):
        placed.load()


def test_other_weights_give_other_bits(config: WorkerConfig, kept: KeptWeights) -> None:
    """The twin: one parameter of the keeper's differs by one bit."""
    _, parameters = mapped(kept)
    changed = msgspec.structs.replace(kept, checksum=write_into(kept, parameters.layers[0].input_norm, 0x0040))
    assert run(msgspec.structs.replace(config, weights=changed)) != run(config)


def test_changed_weights_are_not_mapped(config: WorkerConfig, kept: KeptWeights) -> None:
    _, parameters = mapped(kept)
    last = parameters.layers[-1].mlp
    assert isinstance(last, SparseMlp)
    write_into(kept, last.experts.down.data[-1, -1], 0x01)
    with pytest.raises(RuntimeError, match="loaded"):
        map_weights(kept).verify(kept)


def test_weights_are_mapped_before_they_are_loaded(config: WorkerConfig) -> None:
    """And the model is built on what they are then. The twin: a start that does not wait for them is none."""
    placed = PlacedWeights(config, CPU)
    on_placed = msgspec.structs.replace(config, weights=placed.kept)
    unloaded = msgspec.structs.replace(placed.kept, checksum=7)
    with pytest.raises(RuntimeError, match="loaded"):
        prepare(on_placed)(Begin(None, False, unloaded, 0.0))
    began = prepare(on_placed)
    kept = placed.load()
    runner, ready = began(Begin(None, False, kept, 0.0))
    assert ready.weights_checksum == kept.checksum
    assert outputs(runner) == outputs(start(config)[0])


def test_a_config_that_changes_on_the_disk_changes_nothing(config: WorkerConfig, kept: KeptWeights) -> None:
    before = run(config)
    (Path(config.model) / "config.json").write_text(json.dumps(CONFIG | {"rms_norm_eps": 0.1}))
    assert run(msgspec.structs.replace(config, weights=kept)) == before
    assert run(config) != before


def test_parameters_lie_apart_and_aligned(kept: KeptWeights) -> None:
    model, parameters = mapped(kept)
    spans = sorted((view.data_ptr(), view.data_ptr() + view.nbytes) for view in parameters.sources.values())
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    assert parameters.embedding.data_ptr() == spans[0][0]
    assert [layer.input_norm.data_ptr() % ALIGNMENT for layer in parameters.layers] == [
        parameters.embedding.data_ptr() % ALIGNMENT
    ] * len(parameters.layers)
    assert spans[-1][1] - spans[0][0] <= kept.num_bytes == block_bytes(model)


def test_a_write_into_mapped_weights_is_a_segmentation_fault(config: WorkerConfig, kept: KeptWeights) -> None:
    assert isinstance(kept.block, HostBlock)
    program = f"""
        from octavo.messages import HostBlock
        from octavo.worker.shared_weights.host_block import map_host_block
        map_host_block(HostBlock({kept.block.path!r}), {kept.num_bytes})[5] = 1
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=60)
    assert done.returncode == -signal.SIGSEGV
    map_weights(kept).verify(kept)


def test_the_weights_of_a_process_that_is_gone_cannot_be_mapped(config: WorkerConfig, kept: KeptWeights) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    away = msgspec.structs.replace(kept, block=HostBlock(f"/proc/{gone.pid}/fd/5"))
    with pytest.raises(FileNotFoundError):
        map_weights(away)


def test_a_block_that_is_too_small_is_refused(kept: KeptWeights) -> None:
    longer = msgspec.structs.replace(kept, num_bytes=kept.num_bytes + 4096)
    with pytest.raises(ValueError, match="mmap"):
        map_weights(longer)


@pytest.mark.parametrize("at", [0, 1001, 8191], ids=["first", "inner", "last"])
def test_the_checksum_sees_one_byte(at: int) -> None:
    data = torch.arange(8192).to(torch.uint8)
    before = checksum(data)
    data[at] ^= 0x80
    assert checksum(data) != before


@pytest.mark.parametrize("size", [512, 8192, 8190, 700, 3], ids=str)
@pytest.mark.parametrize("rows_at_a_time", [1, 7, 100], ids=str)
def test_the_checksum_sees_rows_that_changed_places(
    size: int, rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against plain Python, which has no 64-bit words to overflow."""
    monkeypatch.setattr("octavo.worker.shared_weights.weights.ROWS", rows_at_a_time)
    data = torch.randint(0, 256, (size,), dtype=torch.uint8)
    filled = bytes(data.tolist()) + bytes(-size % ALIGNMENT)
    rows = [filled[at : at + ALIGNMENT] for at in range(0, len(filled), ALIGNMENT)]
    words = [sum(int.from_bytes(row[at : at + 8], "little") for at in range(0, ALIGNMENT, 8)) for row in rows]
    assert checksum(data) % 2**64 == sum(word * (2 * number + 1) for number, word in enumerate(words)) % 2**64
    assert checksum(data, 5) % 2**64 == sum(word * (2 * number + 1) for number, word in enumerate(words, 5)) % 2**64
    if len(rows) > 1:
        assert checksum(torch.cat([data[ALIGNMENT:], data[:ALIGNMENT]])) != checksum(data)


def test_a_worker_tells_the_same_checksum_whoever_holds_the_weights(config: WorkerConfig, kept: KeptWeights) -> None:
    def told(config: WorkerConfig) -> int:
        worker = InProcessWorker(config)
        worker.close()
        return worker.ready.weights_checksum

    assert told(config) == told(msgspec.structs.replace(config, weights=kept)) == kept.checksum
    assert told(msgspec.structs.replace(config, seed=4)) != kept.checksum


def map_weights(kept: KeptWeights, positions: int = 24) -> MappedWeights:
    return MappedWeights(kept, CPU, CpuOperations(), positions)


def outputs(runner: Runner) -> list[object]:
    results = [runner.run(plan) for plan in PLANS]
    assert all(result.sampled for result in results)
    return [(result.sampled, result.prompt_scores) for result in results]


def run(config: WorkerConfig) -> list[object]:
    worker = InProcessWorker(config)
    for plan in PLANS:
        worker.send(plan)
    results = [worker.receive(None) for _ in PLANS]
    worker.close()
    assert all(result is not None and result.sampled for result in results)
    return [(result.sampled, result.prompt_scores) for result in results if result is not None]


def write_into(kept: KeptWeights, target: torch.Tensor, bit: int) -> int:
    """Flip `bit` in the first two bytes of `target`, a view of the mapped block; return the block's new checksum."""
    assert isinstance(kept.block, HostBlock)
    whole = map_host_block(kept.block, kept.num_bytes)
    start = int(target.storage_offset()) * target.element_size()
    before = int.from_bytes(bytes(whole[start : start + 2].tolist()), sys.byteorder)
    file = os.open(kept.block.path, os.O_RDWR)
    try:
        os.pwrite(file, (before ^ bit).to_bytes(2, sys.byteorder), start)
    finally:
        os.close(file)
    return checksum(map_host_block(kept.block, kept.num_bytes))
