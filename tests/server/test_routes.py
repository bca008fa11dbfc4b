"""Routes that do not generate: probes, models, tokens, metrics, CORS."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from octavo.engine.statistics import EngineStatus
from octavo.server.banner import start_banner
from octavo.server.metrics import Metrics, one_two_five
from octavo.server.stats import stats_line
from octavo.version import __version__
from server.harness import ENGINE, TEMPLATE, Running, running
from waits import wait_until

COMPLETIONS = "/v1/completions"

HISTOGRAMS = [
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_inference_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_params_max_tokens",
    "request_max_num_generation_tokens",
    "request_params_n",
    "request_num_preemptions",
    "iteration_tokens_total",
]
COUNTERS = [
    "prefix_cache_queries",
    "prefix_cache_hits",
    "num_preemptions",
    "prompt_tokens",
    "generation_tokens",
    "request_success",
    "admission_rejections",
]
GAUGES = ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "cache_config_info"]


def get(server: Running, path: str) -> Any:
    answer = server.http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_health(server: Running) -> None:
    for path in ("/health", "/ping"):
        body = get(server, path)
        assert (body["status"], body["restarts"], body["worker_pid"]) == ("ok", 0, os.getpid())
    assert server.http.post("/ping").status_code == 200
    assert get(server, "/ready") == get(server, "/readyz") == {"status": "ready"}
    assert get(server, "/health_generate") == {"status": "ok"}


def test_health_generate_makes_a_token_when_nothing_else_does() -> None:
    with running() as server:
        assert server.context.loop.status().steps == 0
        assert get(server, "/health_generate") == {"status": "ok"}
        assert server.context.loop.status().steps >= 1


def test_health_notices_a_hung_worker(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    status = msgspec.structs.replace(server.context.loop.status(), waiting=3, last_step_age_s=61.0)
    monkeypatch.setattr(server.context.loop, "status", lambda: status)
    monkeypatch.setattr(server.context.dispatcher, "busy_since_s", time.monotonic() - 100)
    hung = server.http.get("/health")
    monkeypatch.setattr(server.context.dispatcher, "busy_since_s", time.monotonic() - 1)
    after_idle_time = server.http.get("/health")
    monkeypatch.undo()
    assert hung.status_code == 503
    assert hung.json()["status"] == "no step has finished for 61 s although requests wait"
    assert after_idle_time.status_code == 200


def test_ready_says_no_while_draining() -> None:
    with running() as own:
        own.server.draining = True
        assert own.http.get("/ready").json() == {"status": "shutting down"}
        assert own.http.get("/health").status_code == 200
        refused = own.http.post(COMPLETIONS, json={"prompt": [1]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


def test_version_and_load(server: Running) -> None:
    assert get(server, "/version") == {"version": __version__}
    assert get(server, "/load") == {"server_load": 0, "running": 0, "waiting": 0, "kv_cache_usage": 0.0}


def test_server_info(server: Running) -> None:
    info = get(server, "/server_info")
    assert (info["worker"]["pid"], info["worker"]["restarts"], info["worker"]["alive"]) == (os.getpid(), 0, True)
    assert info["settings"]["max_num_seqs"] == server.context.settings.max_num_seqs
    assert (info["engine"]["max_request_tokens"], info["engine"]["block_size"]) == (512, 16)
    assert info["start_s"] == {"load": 0.5}
    assert info["system_fingerprint"].startswith(f"octavo-{__version__}-")


def test_models(server: Running) -> None:
    body = get(server, "/v1/models")
    assert body["object"] == "list"
    assert get(server, "/v1/models/mock") == body["data"][0]
    assert body["data"][0]["permission"][0]["object"] == "model_permission"


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"prompt": "hé"}, [104, 195, 169]),
        ({"prompt": ""}, []),
        ({"prompt": "<|im_end|>", "add_special_tokens": False}, [256]),
        ({"messages": [{"role": "u", "content": "x"}], "add_generation_prompt": False}, [257, 117, 10, 120, 256, 10]),
    ],
    ids=["text", "empty", "special", "messages"],
)
def test_tokenize(server: Running, body: Any, tokens: list[int]) -> None:
    answer = server.http.post("/tokenize", json={**body, "model": "mock", "return_token_strs": True}).json()
    assert (answer["count"], answer["max_model_len"], answer["tokens"]) == (len(tokens), 512, tokens)
    assert len(answer["token_strs"]) == len(tokens)
    assert server.http.post("/tokenize", json=body).json()["token_strs"] is None


def test_detokenize(server: Running) -> None:
    assert server.http.post("/detokenize", json={"tokens": [104, 195, 169, 256]}).json() == {"prompt": "hé<|im_end|>"}


def test_tokenizer_info(server: Running) -> None:
    info = get(server, "/tokenizer_info")
    assert (info["eos_token"], info["chat_template"]) == ("<|im_end|>", TEMPLATE)


def test_reset_prefix_cache(server: Running) -> None:
    prompt = list(range(64))

    def cached() -> int:
        usage = server.http.post(COMPLETIONS, json={"prompt": prompt, "max_tokens": 1}).json()["usage"]
        server.wait_idle()
        return int(usage["prompt_tokens_details"]["cached_tokens"])

    cached()
    assert cached() == 48
    assert server.http.post("/reset_prefix_cache").json() == {"reset": True}
    assert cached() == 0


def test_the_prefix_cache_is_not_reset_under_running_requests() -> None:
    with running(worker={"delay_s": 0.02}) as server:
        body = {"prompt": [1], "max_tokens": 500, "ignore_eos": True, "stream": True}
        with server.http.stream("POST", COMPLETIONS, json=body) as stream:
            lines = stream.iter_lines()  # kept: a dropped iterator closes the connection
            assert "error" not in next(lines)
            assert server.http.post("/reset_prefix_cache").status_code == 409
        server.wait_idle()


def test_steps_that_workers_have_made_small_are_told() -> None:
    """In the metrics, which an alert compares, in /server_info and on the page, beside what was asked for."""
    with running(engine={"max_num_batched_tokens": 512}) as server:
        vars(vars(server.context.loop)["_engine"])["_requests"].most_tokens = 128
        families = {family.name: family for family in text_string_to_metric_families(server.http.get("/metrics").text)}
        (limit,), (budget,) = (families[f"octavo:step_token_{name}"].samples for name in ("limit", "budget"))
        assert (limit.value, budget.value) == (128, 512)
        assert limit.labels == budget.labels
        engine = get(server, "/server_info")["engine"]
        assert (engine["step_token_limit"], engine["max_num_batched_tokens"]) == (128, 512)
        assert get(server, "/live")["budget"] == 128


def test_metrics() -> None:
    with running() as server:
        for n in (1, 2):
            body = {"prompt": [1] * 20, "max_tokens": 6, "ignore_eos": True, "n": n}
            server.http.post(COMPLETIONS, json=body)
        server.wait_idle()
        server.http.get("/nothing")
        families = {family.name: family for family in text_string_to_metric_families(server.http.get("/metrics").text)}
        samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families.values()
            for sample in family.samples
        }
    own = (("engine", "0"), ("model_name", "mock"))
    for name in HISTOGRAMS:
        assert families[f"vllm:{name}"].type == "histogram", name
        assert ("vllm:" + name + "_count", own) in samples
    for name in COUNTERS:
        assert families[f"vllm:{name}"].type == "counter", name
    for name in GAUGES:
        assert families[f"vllm:{name}"].type == "gauge", name
    assert samples["vllm:generation_tokens_total", own] == 18
    assert samples["vllm:prompt_tokens_total", own] == 60
    assert samples["vllm:time_to_first_token_seconds_count", own] == 3
    assert samples["vllm:inter_token_latency_seconds_count", own] == 15
    assert samples["vllm:request_generation_tokens_sum", own] == 18
    assert samples["vllm:request_params_n_sum", own] == 3
    assert samples["vllm:num_requests_running", own] == 0
    assert samples["vllm:request_success_total", tuple(sorted([*own, ("finished_reason", "length")]))] == 3
    for cause in ("exit", "signal", "fault", "hang", "start"):
        assert samples["octavo:worker_restarts_total", tuple(sorted([*own, ("cause", cause)]))] == 0
    assert samples["octavo:recovery_seconds_count", own] == 0
    http = (("handler", COMPLETIONS), ("method", "POST"), ("status", "200"))
    assert samples["http_requests_total", http] == 2
    assert samples["http_requests_total", (("handler", "none"), ("method", "GET"), ("status", "404"))] == 1
    assert "http_request_duration_seconds" in families
    assert "process_resident_memory_bytes" in families
    info = next(sample for sample in families["vllm:cache_config_info"].samples)
    assert (info.labels["block_size"], info.labels["num_gpu_blocks"]) == ("16", "128")


def test_tokens_that_come_together_are_counted_each() -> None:
    metrics = Metrics("m", ENGINE)
    metrics.on_tokens(2.0, 4)
    text = metrics.text().decode()
    assert 'vllm:inter_token_latency_seconds_count{engine="0",model_name="m"} 4.0' in text
    assert 'vllm:inter_token_latency_seconds_sum{engine="0",model_name="m"} 2.0' in text


def test_length_buckets() -> None:
    assert one_two_five(100) == [1, 2, 5, 10, 20, 50, 100]
    assert one_two_five(512) == [1, 2, 5, 10, 20, 50, 100, 200, 500]


def test_cors_as_the_settings_say() -> None:
    asks = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "X-A",
    }
    with running(allow_credentials=True, allowed_headers=("X-A",)) as server:
        answer = server.http.options("/v1/models", headers=asks)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-credentials"] == "true"
    with running(allowed_methods=("GET",)) as server:
        assert server.http.options("/v1/models", headers=asks).status_code == 400
    with running(allowed_headers=("X-B",)) as server:
        answer = server.http.options("/v1/models", headers=asks)
        assert answer.status_code == 400
        assert "access-control-allow-credentials" not in answer.headers


def test_the_description_can_be_turned_off() -> None:
    with running() as server:
        assert server.http.get("/openapi.json").status_code == 200
    with running(disable_fastapi_docs=True) as server:
        assert server.http.get("/openapi.json").status_code == 404


def test_the_role_of_answers() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "narrator", "content": "and"}]

    def roles(server: Running, **fields: Any) -> set[str]:
        body = {"messages": messages, "max_tokens": 2, **fields}
        whole = server.http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["role"]
        events = server.http.post("/v1/chat/completions", json={**body, "stream": True}).text.splitlines()
        first = json.loads(events[0].removeprefix("data: "))
        return {whole, first["choices"][0]["delta"]["role"]}

    with running() as server:
        assert roles(server) == {"assistant"}
    with running(response_role="model") as server:
        assert roles(server) == {"model"}
        assert roles(server, add_generation_prompt=False, continue_final_message=True) == {"narrator"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_answers_are_logged_if_asked_for(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    body = {"prompt": "x", "max_tokens": 3, "stream": stream}

    def logged(**settings: Any) -> list[str]:
        caplog.clear()
        with running(script=b"abc", **settings) as server, caplog.at_level(logging.INFO):
            server.http.post("/v1/completions", json=body).raise_for_status()
            server.wait_idle()
        return [record.getMessage() for record in caplog.records if record.getMessage().startswith("answer ")]

    assert logged(enable_log_requests=True) == []
    (line,) = logged(enable_log_requests=True, enable_log_outputs=True)
    assert "3 tokens, length, text 'abc'" in line
    (line,) = logged(enable_log_requests=True, enable_log_outputs=True, max_log_len=2)
    assert "text 'ab'" in line


def test_cors() -> None:
    with running(api_key=("secret",), allowed_origins=("https://a.example",)) as server:
        asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
        allowed = server.http.options(COMPLETIONS, headers=asked)
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        refused = server.http.post(COMPLETIONS, json={}, headers={"Origin": "https://a.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://a.example"
        other = server.http.options(COMPLETIONS, headers={**asked, "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


def test_request_id_headers_can_be_switched_off() -> None:
    with running(enable_request_id_headers=False) as server:
        assert "x-request-id" not in server.http.get("/health").headers


def test_access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "octavo.access")
    with running(disable_access_log_for_endpoints=("/health",)) as server:
        server.http.get("/health")
        server.http.get("/version?x=%0a", headers={"X-Request-Id": "me"})
    lines = [record.getMessage() for record in caplog.records if record.name == "octavo.access"]
    assert len(lines) == 1
    assert '"GET /version" 200' in lines[0]
    assert lines[0].endswith(" me")
    caplog.clear()
    with running(disable_uvicorn_access_log=True) as server:
        server.http.get("/version")
    assert not [record for record in caplog.records if record.name == "octavo.access"]


def test_request_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "octavo.server")
    with running(enable_log_requests=True, max_log_len=6) as server:
        server.http.post(COMPLETIONS, json={"prompt": "a secret", "max_tokens": 1}, headers={"X-Request-Id": "me"})
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("request me")]
    assert len(lines) == 1
    assert "8 tokens" in lines[0]
    assert lines[0].endswith("prompt 'a sec")


def test_the_statistics_line() -> None:
    before = EngineStatus(
        alive=True,
        worker_pid=1,
        recovering=False,
        restarts={},
        running=0,
        waiting=0,
        kv_usage=0,
        free_blocks=1,
        cached_blocks=0,
        total_blocks=1,
        steps=0,
        step_token_limit=1,
        step_token_budget=1,
        last_step_age_s=0,
        preemptions=0,
        prefix_queries=0,
        prefix_hits=0,
        prompt_tokens=0,
        generation_tokens=0,
        requests_replayed=0,
        tokens_recomputed=0,
        finished={},
    )
    now = msgspec.structs.replace(
        before,
        running=3,
        waiting=2,
        kv_usage=0.25,
        preemptions=1,
        prefix_queries=40,
        prefix_hits=10,
        prompt_tokens=500,
        generation_tokens=123,
    )
    assert stats_line(before, now, 10) == (
        "Engine 000: Avg prompt throughput: 50.0 tokens/s, Avg generation throughput: 12.3 tokens/s, Running: 3 reqs, "
        "Waiting: 2 reqs, Preemptions: 1, GPU KV cache usage: 25.0%, Prefix cache hit rate: 25.0%"
    )


def test_the_statistics_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "octavo.stats")
    with running(log_stats_interval=0.1) as server:
        server.http.post(COMPLETIONS, json={"prompt": [1], "max_tokens": 1})
        wait_until(lambda: any(record.getMessage().startswith("Engine 000: ") for record in caplog.records))


def test_the_banner_says_why_the_cache_is_as_large_as_it_is(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = msgspec.structs.replace(server.context.worker_ready, kv_cache_source="as much as there was")
    monkeypatch.setattr(server.server, "context", dataclasses.replace(server.context, worker_ready=ready))
    (line,) = [line for line in start_banner(server.server, ("::", 1)).splitlines() if "KV cache" in line]
    assert "MiB: as much as there was)" in line


def test_the_banner(server: Running) -> None:
    banner = start_banner(server.server, ("0.0.0.0", 8000))
    for part in (
        "http://localhost:8000/v1",
        "mock, alias",
        "128 blocks of 16 tokens = 2,048",
        "512 tokens per request",
        "load 0.5 s",
    ):
        assert part in banner
    line = next(line for line in banner.splitlines() if "curl" in line)
    body = json.loads(line.split(" -d ")[1].strip("'"))
    assert server.http.post("/v1/chat/completions", json={**body, "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize("n", [1, 2])
def test_a_token_that_is_not_told_is_not_counted(server: Running, n: int) -> None:
    """Scores of a prompt alone: `echo`, and `max_tokens` 0."""
    body = {"prompt": [1, 2, 3], "echo": True, "max_tokens": 0, "logprobs": 1, "n": n, "temperature": 1}
    usage = server.http.post("/v1/completions", json=body).json()["usage"]
    assert (usage["completion_tokens"], usage["prompt_tokens"], usage["total_tokens"]) == (0, 3, 3)
