"""A worker that dies is a pause: streams stay open, new requests wait in line, and the server says what goes on."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import msgspec
import pytest

from engine.harness import PacedWorker
from octavo.config import EngineConfig
from octavo.errors import WorkerDiedError
from octavo.messages import StepPlan, StepResult
from octavo.testing.mock_worker import MockSource, MockWorker
from server.harness import Running, running
from waits import wait_until

COMPLETIONS = "/v1/completions"
TEXT = "€😀é"


class SlowSource(MockSource):
    """Starts no worker after the first before it is let."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config, lambda _, config: PacedWorker(config))
        self.let = threading.Event()
        self.failures = 0
        """Starts that fail before one succeeds."""

    def start(self, num_blocks: int | None) -> MockWorker:
        if self.workers:
            assert self.let.wait(120)
            if self.failures:
                self.failures -= 1
                raise WorkerDiedError("the worker ended: exit code 2", exit_code=2)
        return super().start(num_blocks)


class StuckSource(MockSource):
    """Its second worker does not start until it is given up."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config, lambda _, config: PacedWorker(config))
        self.abandoned = threading.Event()

    def start(self, num_blocks: int | None) -> MockWorker:
        if self.workers:
            assert self.abandoned.wait(120)
            raise WorkerDiedError("the worker ended: signal 9")
        return super().start(num_blocks)

    def abandon(self) -> None:
        self.abandoned.set()


class SpellingSource(MockSource):
    """Workers that spell `TEXT` byte by byte to a prompt of one token; the first dies when it gets plan `die_at_step`."""

    def __init__(self, config: EngineConfig, die_at_step: int) -> None:
        super().__init__(config, lambda number, config: Spelling(config, die_at_step if number == 0 else None))


class Spelling(MockWorker):
    def __init__(self, config: EngineConfig, die_at_step: int | None) -> None:
        super().__init__(config, delay_s=0.002, die_at_step=die_at_step)
        self._places: dict[int, int] = {}

    def send(self, plan: StepPlan) -> None:
        for chunk in plan.chunks:
            self._places[plan.step] = chunk.start + chunk.count - 1
        super().send(plan)

    def receive(self, timeout_s: float | None) -> StepResult | None:
        result = super().receive(timeout_s)
        if result is None:
            return None
        byte = TEXT.encode()[self._places[result.step]]
        sampled = [msgspec.structs.replace(token, token_id=byte) for token in result.sampled]
        return msgspec.structs.replace(result, sampled=sampled)


@pytest.fixture
def server() -> Iterator[Running]:
    with running(source=SlowSource, engine={"max_num_queued_reqs": 8}) as server:
        yield server
        slow(server).let.set()


def slow(server: Running) -> SlowSource:
    """The source of a server whose next workers wait."""
    assert isinstance(server.source, SlowSource)
    return server.source


def ask(server: Running, number: int, **fields: object) -> httpx.Response:
    body = {"prompt": [1, 2, number], "max_tokens": 60, "ignore_eos": True, "seed": number, "logprobs": 2, **fields}
    return server.http.post(COMPLETIONS, json=body)


def ask_and_hold(server: Running, pool: ThreadPoolExecutor, count: int) -> list[Future[httpx.Response]]:
    """Ask `count` requests; when this returns all of them have made tokens, and the worker makes no more."""
    server.hold()
    answers = [pool.submit(ask, server, number) for number in range(count)]
    wait_until(lambda: server.alive() == count)
    server.hold(10)
    server.wait_held()
    assert server.context.loop.status().running == count
    return answers


def choice(answer: httpx.Response) -> object:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def die(server: Running) -> None:
    server.worker.die("the worker ended: signal 9; its last output:\nnothing", exit_code=-9)
    wait_until(lambda: server.context.loop.status().recovering)


def test_requests_finish_as_if_nothing_had_happened(server: Running) -> None:
    assert isinstance(server.source, SlowSource)
    expected = [choice(ask(server, number)) for number in range(8)]
    pid = server.http.get("/server_info").json()["worker"]["pid"]
    with ThreadPoolExecutor(8) as pool:
        answers = ask_and_hold(server, pool, 8)
        die(server)
        health = server.http.get("/health")
        assert health.status_code == 503
        assert health.json()["status"].startswith("recovering")
        assert server.http.get("/ready").status_code == 503
        assert 'octavo:worker_alive{engine="0",model_name="mock"} 0.0' in server.http.get("/metrics").text
        server.source.let.set()
        assert [choice(answer.result()) for answer in answers] == expected
    server.wait_idle()
    health = server.http.get("/health")
    assert (health.status_code, health.json()["restarts"]) == (200, 1)
    told = server.http.get("/server_info").json()["worker"]
    assert (told["pid"], told["restarts"], told["alive"]) == (pid, 1, True)
    metrics = server.http.get("/metrics").text
    assert re.search(r'octavo:worker_restarts_total\{cause="signal",.*\} 1\.0', metrics)
    assert re.search(r'octavo:worker_restarts_total\{cause="hang",.*\} 0\.0', metrics)
    assert re.search(r"octavo:requests_replayed_total\{.*\} 8\.0", metrics)
    recomputed = re.search(r"octavo:tokens_recomputed_total\{.*\} (\d+)", metrics)
    assert recomputed is not None
    assert int(recomputed[1]) >= 8 * 3, "of each request at least its prompt"
    assert re.search(r"octavo:recovery_seconds_count\{.*\} 1\.0", metrics)


def test_a_stream_stays_open_and_says_that_it_waits(server: Running) -> None:
    assert isinstance(server.source, SlowSource)
    expected = ask(server, 1, stream=True).text
    server.hold(10)
    lines: list[str] = []
    body = {"prompt": [1, 2, 1], "max_tokens": 60, "ignore_eos": True, "seed": 1, "logprobs": 2, "stream": True}
    with server.http.stream("POST", COMPLETIONS, json=body) as answer:
        for line in answer.iter_lines():
            lines.append(line)
            if len(lines) == 1:
                server.wait_held()
                die(server)
            if line == ": recovering":
                slow(server).let.set()
    assert ": recovering" in lines
    assert events("\n".join(lines)) == events(expected)


@pytest.mark.parametrize("die_at_step", range(2, len(TEXT.encode()) + 1))
def test_a_death_inside_a_character_does_not_break_it(die_at_step: int) -> None:
    with running(source=lambda config: SpellingSource(config, die_at_step)) as server:
        body = {"prompt": [1], "max_tokens": len(TEXT.encode()), "stream": True, "ignore_eos": True, "temperature": 0}
        lines = server.http.post(COMPLETIONS, json=body).text.splitlines()
        parts = [json.loads(line[6:])["choices"][0]["text"] for line in lines if line.startswith("data: {")]
        assert "".join(parts) == TEXT
        assert not any("\ufffd" in part for part in parts)
        assert sum(server.context.loop.status().restarts.values()) == 1


def test_new_requests_queue_within_bounds_while_the_worker_is_away(server: Running) -> None:
    assert isinstance(server.source, SlowSource)
    with ThreadPoolExecutor(16) as pool:
        running = ask_and_hold(server, pool, 6)
        die(server)
        waiting: list[Future[httpx.Response]] = []
        while len(waiting) < 8:
            waiting.append(pool.submit(ask, server, 10 + len(waiting)))
            wait_until(lambda: server.context.dispatcher.num_streams == 6 + len(waiting))
        refused = ask(server, 99)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "the queue is full" in refused.text
        server.source.let.set()
        for answer in running + waiting:
            choice(answer.result())


def test_a_client_that_leaves_meanwhile_leaves_nothing_behind(server: Running) -> None:
    assert isinstance(server.source, SlowSource)
    server.hold(10)
    body = {"prompt": [1], "max_tokens": 500, "ignore_eos": True, "stream": True}
    with server.http.stream("POST", COMPLETIONS, json=body) as answer:
        next(answer.iter_lines())
        die(server)
    wait_until(lambda: not server.context.dispatcher.num_streams)
    server.source.let.set()
    server.wait_idle()
    assert server.context.loop.status().finished["abort"] == 1


def test_a_worker_that_cannot_start_counts_and_is_tried_again(server: Running) -> None:
    assert isinstance(server.source, SlowSource)
    expected = choice(ask(server, 0))
    server.source.failures = 3
    server.source.let.set()
    with ThreadPoolExecutor(1) as pool:
        [answer] = ask_and_hold(server, pool, 1)
        server.worker.die("the worker ended: signal 9", exit_code=-9)
        assert choice(answer.result()) == expected
    restarts = server.context.loop.status().restarts
    assert (restarts["signal"], restarts["start"]) == (1, 3)


def test_a_spent_budget_ends_every_request_and_says_why(server: Running) -> None:
    assert isinstance(server.source, SlowSource)
    server.source.failures = 1000
    server.source.let.set()
    with ThreadPoolExecutor(4) as pool:
        answers = ask_and_hold(server, pool, 4)
        server.worker.die("the worker ended: signal 9", exit_code=-9)
        for answer in answers:
            error = answer.result().json()["error"]
            assert error["code"] == 500
            assert (
                "started again 10 times within 600 s, which is all that max_worker_restarts allows" in error["message"]
            )
            assert "exit code 2" in error["message"]
    assert server.http.get("/health").json()["status"].startswith("the worker is gone")


def test_a_server_that_stops_does_not_wait_for_a_worker() -> None:
    with running(source=StuckSource) as server, ThreadPoolExecutor(4) as pool:
        answers = ask_and_hold(server, pool, 4)
        die(server)
        assert not server.context.loop.drain(0.2)
        server.context.loop.stop()
        assert isinstance(server.source, StuckSource)
        assert server.source.abandoned.is_set(), "the start that was waited for was given up"
        for answer in answers:
            assert answer.result().status_code == 503
            assert "shutting down" in answer.result().text
        status = server.context.loop.status()
        assert (status.finished["abort"], status.restarts["start"], status.alive) == (4, 0, True)


def events(text: str) -> tuple[str, list[float], str]:
    """Text, logprobs and finish reason of a stream: how they are cut into chunks differs from call to call."""
    chunks = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert chunks.pop() == "[DONE]"
    parts = [json.loads(chunk)["choices"][0] for chunk in chunks]
    logprobs = [value for part in parts for value in part["logprobs"]["token_logprobs"]]
    assert len(logprobs) == 60
    return "".join(part["text"] for part in parts), logprobs, parts[-1]["finish_reason"]
