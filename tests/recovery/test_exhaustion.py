"""A server that has run out of something recovers all the same: every stream goes on, with the answers it would have given."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STREAMS = 6
TOKENS = 300


def moves_on(begun: list[int], answers: list[Future[list[object]]]) -> Callable[[], bool]:
    """Say, when asked later, whether a stream has got more, or all have ended."""
    before = list(begun)
    return lambda: begun != before or all(answer.done() for answer in answers)


class Served:
    """`octavo serve` with octavo-tiny in a process of its own, its folder for temporary files in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = [
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
            "--cpu-threads",
            "1",
            "--max-model-len",
            "1024",
            "--max-num-batched-tokens",
            "512",
        ]
        flags += ["--max-worker-restarts", "100", "--crash-dir", str(folder / "crashes")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "octavo.cli.main", "serve", *flags],
            env={**os.environ, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300)
        self.wait(lambda: self.get("/health").status_code == 200)
        with ThreadPoolExecutor(STREAMS) as pool:
            self.expected = [*pool.map(self.stream, range(STREAMS))]

    def get(self, path: str) -> httpx.Response:
        try:
            return self.http.get(path)
        except httpx.TransportError:
            return httpx.Response(503)

    def wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self.process.poll() is None, "the server has ended"
            time.sleep(0.05)

    def stream(self, number: int, begun: Callable[[], object] = lambda: None) -> list[object]:
        """Token ids, logprobs and reason of one answer; `begun` is called after its first token."""
        body = {"prompt": [number + 1, 5, 9], "max_tokens": TOKENS, "seed": number, "ignore_eos": True, "stream": True}
        told: list[object] = []
        with self.http.stream(
            "POST", "/v1/completions", json={**body, "logprobs": 1, "return_token_ids": True}
        ) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                (choice,) = json.loads(line[6:])["choices"]
                logprobs = (choice["logprobs"] or {}).get("token_logprobs")
                told.extend(zip(choice["token_ids"] or [], logprobs or [], strict=True))
                told.extend([choice["finish_reason"]] if choice["finish_reason"] else [])
                begun()
        return told

    def workers(self) -> list[int]:
        """The worker first, then the standbys."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(
                psutil.NoSuchProcess
            ):  # one that has just died, and that nobody has waited for yet
                found += [child.pid] * ("octavo.worker" in child.cmdline())
        return found

    @property
    def worker(self) -> int:
        return int(self.get("/server_info").json()["worker"]["pid"])

    def disturbed(self, disturb: Callable[[], None], kills: int) -> list[list[object]]:
        """All streams at once; once each has begun, `disturb`, then `kills` times the end of a worker."""
        begun = [0] * STREAMS

        def run(number: int) -> list[object]:
            return self.stream(number, lambda: begun.__setitem__(number, begun[number] + 1))

        with ThreadPoolExecutor(STREAMS) as pool:
            answers = [pool.submit(run, number) for number in range(STREAMS)]
            self.wait(lambda: all(begun) or all(answer.done() for answer in answers))
            worker = self.worker
            disturb()
            for _ in range(kills):
                moves = moves_on(begun, answers)
                os.kill(worker, signal.SIGKILL)
                self.wait(moves)
                worker = next((pid for pid in self.workers() if pid != worker), worker)
            return [answer.result() for answer in answers]

    def close(self) -> None:
        self.http.close()
        self.process.terminate()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("served"))
    yield server
    server.close()


def limit(served: Served, what: int, soft: int) -> None:
    _, hard = resource.prlimit(served.process.pid, what)
    resource.prlimit(served.process.pid, what, (soft, hard))


def no_more_descriptors(served: Served) -> None:
    limit(served, resource.RLIMIT_NOFILE, len(os.listdir(f"/proc/{served.process.pid}/fd")))


def little_more_memory(served: Served) -> None:
    """What a worker needs to import is not there any more."""
    limit(served, resource.RLIMIT_AS, psutil.Process(served.process.pid).memory_info().vms + 64 * 2**20)


def no_folder_for_temporary_files(served: Served) -> None:
    shutil.rmtree(served.temporary)


@pytest.mark.parametrize("disturb", [no_more_descriptors, little_more_memory, no_folder_for_temporary_files])
def test_streams_go_on(served: Served, disturb: Callable[[Served], None]) -> None:
    limits = [resource.prlimit(served.process.pid, what) for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)]
    served.wait(lambda: len(served.workers()) == 4)
    try:
        assert served.disturbed(lambda: disturb(served), 1) == served.expected
    finally:
        for what, both in zip((resource.RLIMIT_NOFILE, resource.RLIMIT_AS), limits, strict=True):
            resource.prlimit(served.process.pid, what, both)
    assert served.get("/health").status_code in (200, 503)
    served.wait(lambda: served.get("/health").status_code == 200)
