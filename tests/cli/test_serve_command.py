"""`octavo serve` as a user runs it: a process that answers over HTTP, drains at SIGTERM and leaves nothing behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from waits import wait_until
from warm.client import WarmPopen

COMMAND = [sys.executable, "-m", "octavo.cli.main", "serve", "--device", "cpu", "--cpu-threads", "1", "--port", "0"]
COMMAND += [
    "--host",
    "127.0.0.1",
    "--max-num-batched-tokens",
    "512",
    "--max-model-len",
    "2100",
    "--num-gpu-blocks-override",
    "1000",
    "--crash-dir",
    "none",
]
START_S = 120.0
PATIENT = ["--worker-step-timeout", "600"]
HELD = [*PATIENT, "--inject-fault", "hang@step:60"]
"""No request of 100 tokens ends before its worker is killed."""
HELD_TWICE = [*PATIENT, *2 * ("--inject-fault", "hang@step:1")]
"""Neither of the first two workers gives a result."""


class Served:
    """A running `octavo serve`."""

    def __init__(self, *flags: str) -> None:
        self.process = WarmPopen([*COMMAND, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._log: list[str] = []
        self._addressed = threading.Event()
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self._log), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        assert self._addressed.wait(START_S), self.log
        self.url = next(match[1] for line in self.lines if (match := re.search(r"serves (http://\S+)/v1", line)))
        self.family = [
            self.process.pid,
            *(child.pid for child in psutil.Process(self.process.pid).children(recursive=True)),
        ]

    @property
    def log(self) -> str:
        return "".join(self._log)

    def get(self, path: str) -> tuple[int, Any]:
        return self._ask(urllib.request.Request(self.url + path))

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"}
        return self._ask(urllib.request.Request(self.url + path, json.dumps(body).encode(), headers))

    def end(self) -> int:
        """SIGTERM, then the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.exit_code()

    def exit_code(self) -> int:
        """Wait until it has ended, and all that it said is in `log`."""
        code = self.process.wait(60)
        for reader in self._readers:
            reader.join()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def _ask(self, request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                code, body = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                code, body = error.code, error.read()
        return code, json.loads(body or b"null")

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line)
            if line.startswith("Try:"):
                self._addressed.set()
        self._addressed.set()


@pytest.fixture
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """With the flags that the test asks for."""
    server = Served("--step-log", str(tmp_path / "steps.jsonl"), *getattr(request, "param", []))
    yield server
    if server.process.poll() is None:
        server.end()


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def test_it_answers_and_drains_and_leaves_nothing(served: Served, tmp_path: Path) -> None:
    code, models = served.get("/v1/models")
    assert (code, models["data"][0]["id"]) == (200, "octavo-tiny")
    talk = {"messages": [{"role": "user", "content": "What is 17 + 25?"}], "temperature": 0, "max_tokens": 8}
    code, answer = served.post("/v1/chat/completions", talk)
    assert (code, answer["choices"][0]["message"]["content"]) == (200, "42")
    code, info = served.get("/server_info")
    assert info["worker"]["restarts"] == 0
    assert info["worker"]["pid"] in served.family
    assert any("curl" in line for line in served.lines)
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert steps[0]["chunks"] == [answer["usage"]["prompt_tokens"]]

    worker = psutil.Process(info["worker"]["pid"])
    with ThreadPoolExecutor(1) as pool:
        body = {"prompt": "a", "max_tokens": 200, "ignore_eos": True, "temperature": 0}
        worker.suspend()
        running = pool.submit(served.post, "/v1/completions", body)
        wait_until(lambda: served.get("/load")[1]["running"])
        served.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "running requests have" in served.log)
        worker.resume()
        assert served.exit_code() == 0
        code, answer = running.result()
    assert code == 200, "a request that runs at SIGTERM ends well"
    assert answer["usage"]["completion_tokens"] == 200
    assert alive(served.family) == []
    assert "Traceback" not in served.log


@pytest.mark.parametrize("served", [HELD_TWICE], indirect=True, ids=["held twice"])
def test_a_killed_worker_is_replaced_and_every_request_finishes(served: Served) -> None:
    """One that has given no result, the next, without which the recovery does not end, and one in the middle of all answers."""
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(served.post, "/v1/completions", question(seed)) for seed in range(8)]
        wait_until(lambda: (load := served.get("/load")[1])["running"] and load["server_load"] == 8)
        pids = [killed(served)]
        assert served.get("/health")[0] == 503
        pids.append(killed(served))
        wait_until(lambda: served.get("/live")[1]["tokens"]["generation"] > 8 * 10)
        pids.append(killed(served))
        answers = [one.result() for one in running]
    worker = served.get("/server_info")[1]["worker"]
    assert (worker["pid"] in pids, worker["restarts"]) == (False, 3)
    assert served.get("/health")[0] == 200
    assert choices(answers) == choices([served.post("/v1/completions", question(seed)) for seed in range(8)])
    assert served.end() == 0
    assert served.log.count("recovered from signal in") == 2
    assert alive([*served.family, *pids, worker["pid"]]) == []


@pytest.mark.parametrize("served", [[*HELD, "--max-worker-restarts", "0"]], indirect=True, ids=["held"])
def test_without_restarts_a_death_ends_every_request_and_the_server(served: Served) -> None:
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(served.post, "/v1/completions", question(seed)) for seed in range(8)]
        wait_until(lambda: served.get("/load")[1]["server_load"] == 8)
        psutil.Process(worker_pid(served)).kill()
        answers = [one.result() for one in running]
    assert {code for code, _ in answers} == {500}
    assert all("worker" in answer["error"]["message"] for _, answer in answers)
    assert served.exit_code() == 1
    assert "exit code 1: the worker died" in served.log.splitlines()[-1]
    assert alive(served.family) == []


def choices(answers: list[tuple[int, Any]]) -> list[Any]:
    """Texts and logprobs of answers that must all be good."""
    assert {code for code, _ in answers} == {200}
    return [answer["choices"] for _, answer in answers]


def question(seed: int) -> dict[str, Any]:
    return {"prompt": "a", "max_tokens": 100, "ignore_eos": True, "seed": seed, "logprobs": 1}


def test_a_model_that_is_not_there_is_told_in_the_last_line() -> None:
    done = subprocess.run([*COMMAND, "./no-such-model"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("octavo: error: ")
    assert "no-such-model" in last


def killed(served: Served) -> int:
    """The worker's pid, once it has been killed and there is another."""
    pid = worker_pid(served)
    psutil.Process(pid).kill()
    wait_until(lambda: worker_pid(served) != pid)
    return pid


def worker_pid(served: Served) -> int:
    return int(served.get("/server_info")[1]["worker"]["pid"])


BESIDE = """
import sys
from octavo.cli.main import build_parser
from octavo.cli.serve import serve
from octavo.config import Settings
from octavo.errors import WorkerDiedError

class Source:
    def __init__(self, config, settings):
        pass

    def note(self, what):
        print(what, [name for name in ("aiohttp", "octavo.server.run") if name in sys.modules])

    def tend(self):
        self.note("opened")

    def start(self, num_blocks):
        self.note("waited for")
        raise WorkerDiedError("seen")

    def close(self):
        pass

build_parser(["serve"])
try:
    serve(Settings(host="127.0.0.1", port=0, device="cpu", crash_dir="none"), Source)
except WorkerDiedError:
    print("ended")
"""


def test_processes_are_opened_before_the_server_is_imported_and_waited_for_behind_that() -> None:
    """So that they import at the same time; what only benchmarks need nobody imports."""
    done = subprocess.run([sys.executable, "-c", BESIDE], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["opened []", "waited for ['octavo.server.run']", "ended"], done.stderr
