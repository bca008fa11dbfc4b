"""How a start fails: before anything is loaded where it can, in one line, and with nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from models.toy import raw_config
from octavo.checkpoints.folder import resolve_folder
from octavo.cli.serve import serve
from octavo.config import EngineConfig, Settings
from octavo.engine.processes.link import WorkerLink
from octavo.errors import CheckpointError, ConfigError, WorkerDiedError
from octavo.messages import WorkerConfig, WorkerReady
from octavo.server import run
from octavo.server.listening import bind
from octavo.startup import OpenWorkers, crash_log, load_model, start, worker_config
from octavo.testing.mock_worker import MockSource, MockWorker

TINY = resolve_folder("octavo-tiny", None)
START_S = 120.0


class NoWorker:
    """A source that must not be asked, or raises when it is."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error or AssertionError("a worker was started")

    def start(self, num_blocks: int | None) -> WorkerLink:
        raise self.error

    def tend(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    def close(self) -> None:
        pass


def opens(source: Any) -> OpenWorkers:
    return lambda config, settings: source


def settings(**changes: Any) -> Settings:
    return Settings(**{"device": "cpu", "host": "127.0.0.1", "port": 0, "crash_dir": None, **changes})


def octavo(*words: str, module: str = "octavo", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", module, *words]
    environment = {**os.environ, **environ}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=START_S, env=environment)


def test_the_package_runs_as_the_command() -> None:
    done = octavo("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "octavo")


def test_a_port_in_use_is_noticed_before_any_worker_starts() -> None:
    with bind("127.0.0.1", 0) as taken:
        with pytest.raises(ConfigError) as error:
            serve(settings(port=taken.getsockname()[1]), opens(NoWorker()))
        taken.listen()
        with pytest.raises(ConfigError):
            serve(settings(port=taken.getsockname()[1]), opens(NoWorker()))
    assert error.value.setting == "port"


def test_processes_are_ended_where_there_is_no_room_to_import_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Opened(NoWorker):
        def tend(self) -> None:
            events.append("opened")

        def close(self) -> None:
            events.append("closed")

    def refuse(_name: str) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("octavo.cli.serve.importlib.import_module", refuse)
    with pytest.raises(WorkerDiedError, match=r"could not start: .*Too many"):
        serve(settings(), opens(Opened()))
    assert events == ["opened", "closed"]


def test_until_it_is_ready_a_server_refuses_connections() -> None:
    """Nobody who probes it may take it for one that answers."""
    refused: list[bool] = []

    class Probing(NoWorker):
        def start(self, num_blocks: int | None) -> WorkerLink:
            refused.extend(is_refused(port) for _ in range(2))
            raise WorkerDiedError("enough")

    with bind("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    with pytest.raises(WorkerDiedError):
        serve(settings(port=port), opens(Probing()))
    assert refused == [True, True]


def is_refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


class Closing:
    """A source of mock workers whose end takes them away, as that of processes does."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = EngineConfig(
            vocab_size=300, eos_token_ids=(), max_model_len=config.max_model_len, num_blocks=999
        )
        self._closed = False
        self._source = MockSource(self._config, lambda *_: MockWorker(self._config))

    def start(self, num_blocks: int | None) -> WorkerLink:
        if self._closed:
            raise WorkerDiedError("no more workers are started: the engine is closed")
        return self._source.start(num_blocks)

    def tend(self) -> None:
        self._source.tend()

    def abandon(self) -> None:
        self._source.abandon()

    def close(self) -> None:
        self._closed = True
        self._source.close()


@pytest.mark.parametrize("error", [ConfigError("port", "gone"), RuntimeError("broken"), KeyboardInterrupt()], ids=repr)
def test_the_end_of_a_server_is_no_death_of_its_worker(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """However it ends: no crash folder, no word of a worker that could not start."""

    def fail(*_: Any) -> int:
        raise error

    before = set(threading.enumerate())
    monkeypatch.setattr(run, "run_server", fail)
    with pytest.raises(type(error)):
        serve(settings(crash_dir=str(tmp_path / "crashes")), lambda config, _: Closing(config))
    assert not [thread for thread in threading.enumerate() if thread.name == "engine" and thread not in before], (
        "somebody still asks for workers"
    )
    assert not (tmp_path / "crashes").exists()
    assert [record.getMessage() for record in caplog.records if "worker" in record.getMessage()] == []


def test_a_closed_runtime_starts_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever still steps an engine of it is told to stop, and no restart is tried."""
    from octavo.engine.loop import EngineLoop

    runtime = start(settings(), lambda config, _: Closing(config))
    loop = EngineLoop(runtime.engine(), lambda updates: None)
    loop.start()
    runtime.close()
    loop.stop()
    assert "could not start" not in caplog.text


@pytest.fixture
def config_alone(tmp_path: Path) -> Path:
    """octavo-tiny's folder without its weights."""
    for path in TINY.iterdir():
        if path.suffix in (".json", ".jinja"):
            shutil.copy(path, tmp_path)
    return tmp_path


def test_a_folder_without_weights_is_noticed_before_any_worker_starts(config_alone: Path) -> None:
    with pytest.raises(CheckpointError, match="--load-format dummy"):
        start(settings(model=str(config_alone)), opens(NoWorker()))
    with pytest.raises(AssertionError, match="a worker was started"):
        start(settings(model=str(config_alone), load_format="dummy"), opens(NoWorker()))


def test_a_missing_shard_is_noticed_before_any_worker_starts(config_alone: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (config_alone / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="the index names it"):
        start(settings(model=str(config_alone)), opens(NoWorker()))


def test_the_name_that_our_own_message_offers_says_how_to_serve_it() -> None:
    done = octavo("serve", "qwen3-30b-a3b-fp8-dynamic", "--device", "cpu", "--port", "0", "--crash-dir", "none")
    assert done.returncode == 2
    assert "--load-format dummy" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_refusal_in_the_worker_is_told_in_the_last_line_without_a_traceback(config_alone: Path) -> None:
    """Weights that take more than any machine has; keeper and worker see to it, each by itself."""
    raw = raw_config(vocab_size=2**24, hidden_size=2**16, num_hidden_layers=1)
    (config_alone / "config.json").write_text(json.dumps(raw))
    words = ["serve", str(config_alone), "--load-format", "dummy", "--device", "cpu", "--port", "0"]
    for more in ([], ["--no-keep-weights"]):
        done = octavo(*words, *more, "--crash-dir", "none")
        assert done.returncode == 2, done.stderr
        assert "GiB are free" in done.stderr.strip().splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_what_the_system_refuses_at_the_start_is_one_line() -> None:
    for error in (OSError(24, "Too many open files"), RuntimeError("can't start new thread"), MemoryError()):
        with pytest.raises(WorkerDiedError, match="could not start"):
            start(settings(), opens(NoWorker(error)))


NO_TEMPORARY_FOLDER = """
import sys, tempfile
tempfile._candidate_tempdir_list = lambda: ["/no/such/folder"]
from octavo.llm import LLM
from octavo.errors import OctavoError
try:
    with LLM("octavo-tiny", device="cpu", cpu_threads=1, max_model_len=64, max_num_batched_tokens=64, crash_dir=None) as llm:
        print("works")
except OctavoError as error:
    print("refused:", error)
"""


def test_without_a_folder_for_temporary_files_it_works_or_says_why_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_TEMPORARY_FOLDER], capture_output=True, text=True, check=False, timeout=START_S
    )
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith(("works", "refused: the worker could not start"))


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home folder, as containers have them."""

    def expanduser(path: Path) -> Path:
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", expanduser)


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_gets_no_crash_folders_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = load_model(settings())
    config = worker_config(settings(), model)
    assert crash_log(Settings(), config) is None
    assert "--crash-dir" in caplog.text
    with pytest.raises(ConfigError) as error:
        crash_log(Settings(crash_dir="~/crashes"), config)
    assert error.value.setting == "crash_dir"
    assert crash_log(Settings(crash_dir="/crashes"), config) is not None


READY = WorkerReady(
    pid=7,
    device="CPU",
    weights_format="bf16",
    num_blocks=999,
    weight_bytes=1,
    kv_cache_bytes=1,
    workspace_bytes=1,
    open_s=0.5,
    load_s=0.25,
    measure_s=2.0,
    allocate_s=0.125,
    warm_up_s=4.0,
)


def test_every_phase_of_a_start_has_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MockWorker, "ready", READY)
    runtime = start(settings(), lambda config, _: Closing(config))
    runtime.close()
    named = {"device": 0.5, "weights": 0.25, "kernels": 2.0, "KV cache": 0.125, "largest step": 4.0}
    assert {name: runtime.phases[name] for name in named} == named
    assert set(runtime.phases) == {"files", "worker process", *named}
    assert min(runtime.phases.values()) >= 0
