"""When the worker dies, every request gets an error within a second, and the server says so."""

from __future__ import annotations

import json
import threading
from typing import Any

from server.harness import running
from waits import wait_until

COMPLETIONS = "/v1/completions"


def test_worker_death() -> None:
    with running() as server:
        server.hold()
        outcomes: list[tuple[bool, int, str]] = []

        def ask(stream: bool) -> None:
            body = {"prompt": [1] * 30, "max_tokens": 400, "ignore_eos": True, "stream": stream}
            answer = server.http.post(COMPLETIONS, json=body)
            outcomes.append((stream, answer.status_code, answer.text))

        threads = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(16)]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.alive() == 16)
        server.hold(10)
        server.wait_held()
        assert server.context.loop.status().running == 16
        assert server.http.get("/health").status_code == 200
        server.worker.die(
            "the worker was killed, see /home/somebody/octavo/crash.json; its last output:\nsecrets", exit_code=-9
        )
        for thread in threads:
            thread.join()
        assert len(outcomes) == 16
        for stream, status, text in outcomes:
            error = _last_error(text) if stream else json.loads(text)["error"]
            assert status == (200 if stream else 500)
            assert (error["code"], error["type"]) == (500, "InternalServerError")
            assert "the worker was killed" in error["message"]
            assert "somebody" not in error["message"]
            assert "secrets" not in error["message"]
        _check_dead(server)
        assert 'finished_reason="error",model_name="mock"} 16.0' in server.http.get("/metrics").text


def _last_error(text: str) -> Any:
    *_, last, done = [line for line in text.splitlines() if line]
    assert done == "data: [DONE]"
    return json.loads(last.removeprefix("data: "))["error"]


def _check_dead(server: Any) -> None:
    for path in ("/health", "/ping", "/ready", "/health_generate"):
        answer = server.http.get(path)
        assert answer.status_code == 503, path
        assert answer.json()["status"] == "the worker is gone: the worker was killed, see <path>"
    refused = server.http.post(COMPLETIONS, json={"prompt": [1]})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert server.http.get("/version").status_code == 200
    assert server.http.get("/server_info").json()["worker"]["alive"] is False
    assert "octavo:worker_alive" in server.http.get("/metrics").text
