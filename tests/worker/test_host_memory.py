"""What a host has free, in control groups of both versions, and what is refused for want of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models.toy import raw_config, raw_qwen3_next
from octavo.config import Settings
from octavo.engine.processes.worker_process import ProcessSource
from octavo.errors import ConfigError
from octavo.messages import WorkerConfig
from octavo.models.load import load_model
from octavo.models.registry import read_config
from octavo.startup import Model, require_files_and_memory, worker_config
from octavo.text import DefaultSampling
from octavo.worker.host_memory import free_host_bytes, require_room
from octavo.worker.sampling.counts import TokenCounts
from octavo.worker.shared_weights import weights
from octavo.worker.shared_weights.weights import PlacedWeights, block_bytes, copy_bytes, require_weight_room

CPU = torch.device("cpu")
GIB = 2**30


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A machine with 8 GiB free, as the kernel tells it under `root`."""
    told = {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    8388608 kB\n", "proc/self/cgroup": groups, **files}
    for name, text in told.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def group(version: int, path: str, limit: str, usage: int, cached: int) -> dict[str, str]:
    """The files of one control group."""
    if version == 2:
        names, folder, prefix = ("memory.max", "memory.current"), "sys/fs/cgroup", ""
    else:
        names, folder, prefix = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "sys/fs/cgroup/memory", "total_"
    stat = f"{prefix}inactive_file {cached}\n{prefix}active_file 0\nanon {usage}\n"
    texts = {names[0]: f"{limit}\n", names[1]: f"{usage}\n", "memory.stat": stat}
    return {f"{folder}{path}/{name}": text for name, text in texts.items()}


MACHINES: dict[str, tuple[str, dict[str, str], int]] = {
    "no groups": ("", {}, 8 * GIB),
    "version 2": ("0::/a\n", group(2, "/a", str(4 * GIB), 3 * GIB, GIB), 2 * GIB),
    "version 2, no limit": ("0::/a\n", group(2, "/a", "max", 3 * GIB, 0), 8 * GIB),
    "version 2, a limit above": (
        "0::/a/b\n",
        group(2, "/a", str(2 * GIB), GIB, 0) | group(2, "/a/b", str(4 * GIB), 0, 0),
        GIB,
    ),
    "version 2, in a container": ("0::/\n", group(2, "", str(5 * GIB), 2 * GIB, 0), 3 * GIB),
    "version 1": ("5:cpu:/a\n4:memory:/a\n", group(1, "/a", str(4 * GIB), 3 * GIB, 0), GIB),
    "version 1, no limit": ("4:memory:/\n", group(1, "", str(2**63 - 4096), 3 * GIB, 0), 8 * GIB),
    "version 1, the host's name": ("4:memory:/docker/7\n", group(1, "", str(4 * GIB), GIB, 0), 3 * GIB),
    "over the limit": ("0::/a\n", group(2, "/a", str(GIB), 2 * GIB, 0), 0),
}


@pytest.mark.parametrize("name", MACHINES)
def test_the_tightest_limit_counts(name: str, tmp_path: Path) -> None:
    groups, files, free = MACHINES[name]
    assert free_host_bytes(machine(tmp_path, groups, files)) == free


def test_this_machine_has_memory() -> None:
    assert free_host_bytes() > 0


def test_what_does_not_fit_is_refused_with_both_numbers() -> None:
    require_room(GIB, GIB, "model", "it takes")
    with pytest.raises(ConfigError, match=r"2\.0 GiB.* 1\.0 GiB") as error:
        require_room(2 * GIB, GIB, "model", "it takes")
    assert error.value.setting == "model"


@pytest.mark.parametrize("tied", [False, True])
def test_the_copies_are_those_that_are_made(tied: bool, tmp_path: Path) -> None:
    """All float32 matrices of a loaded model, found in it; rotary tables are no copies of weights."""
    (tmp_path / "config.json").write_text(json.dumps(raw_config(tie_word_embeddings=tied)))
    loaded = load_model(tmp_path, load_format="dummy", device=CPU, seed=0, progress=False)
    assert copy_bytes(loaded.config) == sum(float32_storages(loaded.model, set()).values())


def float32_storages(value: Any, seen: set[int]) -> dict[int, int]:
    """Address and bytes of what is behind the float32 matrices in `value` and in all that it holds."""
    if id(value) in seen or type(value).__name__ == "RotaryTable":
        return {}
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        return {storage.data_ptr(): storage.nbytes()} if value.dtype == torch.float32 and value.ndim > 1 else {}
    held = value if isinstance(value, (list, tuple)) else getattr(value, "__dict__", {}).values()
    return {address: size for item in held for address, size in float32_storages(item, seen).items()}


HUGE = raw_config(vocab_size=2**24, hidden_size=2**16, num_hidden_layers=1)
"""Two tebibytes of embedding: more than any machine has."""


def config(folder: Path, raw: dict[str, Any], **changes: Any) -> WorkerConfig:
    (folder / "config.json").write_text(json.dumps(raw))
    fields = {"load_format": "dummy", "max_model_len": 24, "max_num_seqs": 4, "max_num_batched_tokens": 32}
    return WorkerConfig(**{"model": str(folder), "block_size": 4, **fields, **changes})


def test_dummy_weights_larger_than_memory_are_refused_before_they_are_made(tmp_path: Path) -> None:
    """By a keeper and by a worker on its own, in a process: what reaches the parent is the setting and the numbers."""
    huge = config(tmp_path, HUGE)
    with pytest.raises(ConfigError, match="GiB of memory"):
        PlacedWeights(huge, CPU)
    source = ProcessSource(huge, 60.0)
    try:
        with pytest.raises(ConfigError, match="GiB of memory") as error:
            source.start(None)
    finally:
        source.close()
    assert error.value.setting == "model"


def test_copies_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_config(raw_config())
    monkeypatch.setattr(weights, "free_bytes", lambda device: block_bytes(model) + copy_bytes(model))
    require_weight_room(model, CPU)
    monkeypatch.setattr(weights, "free_bytes", lambda device: block_bytes(model) + copy_bytes(model) - 1)
    with pytest.raises(ConfigError, match="float32"):
        require_weight_room(model, CPU)


def test_states_count_beside_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    model = read_config(raw_qwen3_next())
    weights_bytes = block_bytes(model) + copy_bytes(model)
    monkeypatch.setattr(weights, "free_bytes", lambda device: weights_bytes + 5 * model.facts.state_bytes_per_request)
    require_weight_room(model, CPU, num_states=5)
    with pytest.raises(ConfigError) as error:
        require_weight_room(model, CPU, num_states=6)
    assert error.value.setting == "max_num_seqs"


def test_counts_of_tokens_count_beside_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as all requests that run at once would hold if each had a penalty."""
    model = read_config(raw_config())
    table = TokenCounts(5, model.vocab_size, CPU).table
    room = block_bytes(model) + copy_bytes(model) + table.numel() * table.element_size()
    monkeypatch.setattr(weights, "free_bytes", lambda device: room)
    require_weight_room(model, CPU, num_requests=5)
    with pytest.raises(ConfigError) as error:
        require_weight_room(model, CPU, num_requests=6)
    assert error.value.setting == "max_num_seqs"


@pytest.mark.parametrize(("setting", "value"), [("kv_cache_memory_bytes", 2**60), ("num_gpu_blocks_override", 2**50)])
def test_a_cache_larger_than_memory_is_refused_at_once(setting: str, value: int, tmp_path: Path, model: Model) -> None:
    told: dict[str, Any] = {setting: value}
    settings = Settings(load_format="dummy", device="cpu", **told)
    with pytest.raises(ConfigError) as error:
        require_files_and_memory(worker_config(settings, model), model)
    assert error.value.setting == setting


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tmp_path, read_config(raw_config()).facts, None, None, DefaultSampling())  # type: ignore[arg-type]
