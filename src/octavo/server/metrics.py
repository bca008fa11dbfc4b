"""Prometheus metrics under vLLM's names, so that dashboards made for it work, and a few of Octavo's own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from octavo.answers import Answer
from octavo.config import EngineConfig
from octavo.engine.statistics import EngineStatus, RecoveryRecord, StepRecord

FIRST_TOKEN_S: tuple[float, ...] = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
TOKEN_S: tuple[float, ...] = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80),
)
"""vLLM's buckets, with finer ones below 10 ms."""
REQUEST_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
RECOVERY_S = (0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 7.5, 10, 20, 40, 80, 160, 320, 640, 1280)
ANSWERS = (1, 2, 5, 10, 20)
PREEMPTIONS = (0, 1, 2, 5, 10, 20, 50)
HTTP_S = (0.1, 0.5, 1)
LATEST_STEPS = 256
"""Kept for who looks at them live."""
FINISH_REASONS = ("stop", "length", "abort", "error")


class Metrics:
    """All metrics of one server, in a registry of their own. `on_step` and `on_recovery` may be called from any thread."""

    def __init__(self, model_name: str, config: EngineConfig) -> None:
        self.registry = CollectorRegistry()
        self._latest: deque[StepRecord] = deque(maxlen=LATEST_STEPS)
        self._families: dict[str, Counter] = {}
        self._labels = {"model_name": model_name, "engine": "0"}
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        lengths = one_two_five(config.max_model_len)
        self._success = {reason: self._counter("request_success", finished_reason=reason) for reason in FINISH_REASONS}
        self._rejected = self._counter("admission_rejections")
        self._first_token = self._histogram("time_to_first_token_seconds", FIRST_TOKEN_S)
        self._between = self._histogram("inter_token_latency_seconds", TOKEN_S)
        self._per_token = self._histogram("request_time_per_output_token_seconds", TOKEN_S)
        self._whole = self._histogram("e2e_request_latency_seconds", REQUEST_S)
        self._queue = self._histogram("request_queue_time_seconds", REQUEST_S)
        self._inference = self._histogram("request_inference_time_seconds", REQUEST_S)
        self._prefill = self._histogram("request_prefill_time_seconds", REQUEST_S)
        self._decode = self._histogram("request_decode_time_seconds", REQUEST_S)
        self._prompt_tokens = self._histogram("request_prompt_tokens", lengths)
        self._made_tokens = self._histogram("request_generation_tokens", lengths)
        self._max_tokens = self._histogram("request_params_max_tokens", lengths)
        self._most_made = self._histogram("request_max_num_generation_tokens", lengths)
        self._n = self._histogram("request_params_n", ANSWERS)
        self._preemptions = self._histogram("request_num_preemptions", PREEMPTIONS)
        self._step_tokens = self._histogram("iteration_tokens_total", STEP_TOKENS)
        self._recovery = self._histogram("recovery_seconds", RECOVERY_S, "octavo")
        self._requests, self._request_s = self._http()
        self._describe_cache(config)

    def watch(self, status: Callable[[], EngineStatus]) -> None:
        """Read the engine's own figures from `status` whenever the metrics are asked for."""
        self.registry.register(_EngineCollector(status, self._labels))

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def on_step(self, record: StepRecord) -> None:
        self._step_tokens.observe(record.tokens)
        self._latest.append(record)

    def latest_steps(self) -> list[StepRecord]:
        """The last steps, oldest first."""
        return list(self._latest)

    def on_recovery(self, record: RecoveryRecord) -> None:
        self._recovery.observe(record.seconds)

    def on_request(self, n: int, max_tokens: int | None) -> None:
        """A prompt was accepted."""
        self._n.observe(n)
        if max_tokens is not None:
            self._max_tokens.observe(max_tokens)

    def on_rejection(self) -> None:
        """A request found the queue full."""
        self._rejected.inc()

    def on_tokens(self, seconds: float, count: int) -> None:
        """`count` tokens of an answer came `seconds` after those before."""
        for _ in range(count):
            self._between.observe(seconds / count)

    def on_first_token(self, seconds: float) -> None:
        self._first_token.observe(seconds)

    def on_end(self, answer: Answer, reason: str, arrival_s: float, now_s: float) -> None:
        """An answer ended, for better or worse."""
        self._success[reason].inc()
        self._whole.observe(now_s - arrival_s)
        self._prompt_tokens.observe(len(answer.prompt.token_ids))
        self._made_tokens.observe(answer.num_tokens)
        self._preemptions.observe(answer.num_preemptions)
        if answer.first_s is None:
            return
        decode_s = answer.last_s - answer.first_s
        self._queue.observe(answer.queue_s)
        self._prefill.observe(max(0.0, answer.first_s - arrival_s - answer.queue_s))
        self._inference.observe(max(0.0, answer.last_s - arrival_s - answer.queue_s))
        self._decode.observe(decode_s)
        if answer.num_tokens > 1:
            self._per_token.observe(decode_s / (answer.num_tokens - 1))

    def on_call(self, most_made: int) -> None:
        """All answers of a call ended; the longest has `most_made` tokens."""
        self._most_made.observe(most_made)

    def on_http(self, handler: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(handler, method, str(status)).inc()
        self._request_s.labels(handler, method).observe(seconds)

    def _http(self) -> tuple[Counter, Histogram]:
        labels = ["handler", "method"]
        return (
            Counter("http_requests", "HTTP requests", [*labels, "status"], registry=self.registry),
            Histogram(
                "http_request_duration_seconds", "Seconds of a request", labels, buckets=HTTP_S, registry=self.registry
            ),
        )

    def _describe_cache(self, config: EngineConfig) -> None:
        labels = {
            **self._labels,
            "block_size": str(config.block_size),
            "num_gpu_blocks": str(config.num_blocks),
            "enable_prefix_caching": str(config.prefix_caching),
            "cache_dtype": "auto",
        }
        family = Gauge("vllm:cache_config_info", "KV cache settings", list(labels), registry=self.registry)
        family.labels(**labels).set(1)

    def _histogram(self, name: str, buckets: Iterable[float], prefix: str = "vllm") -> Histogram:
        family = Histogram(
            f"{prefix}:{name}", _help(name), list(self._labels), buckets=tuple(buckets), registry=self.registry
        )
        return family.labels(**self._labels)

    def _counter(self, name: str, **extra: str) -> Counter:
        labels = {**self._labels, **extra}
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = Counter(f"vllm:{name}", _help(name), list(labels), registry=self.registry)
        return family.labels(**labels)


class _EngineCollector(Collector):
    """Figures that the engine keeps itself."""

    def __init__(self, status: Callable[[], EngineStatus], labels: dict[str, str]) -> None:
        self._status = status
        self._names, self._values = list(labels), list(labels.values())

    def collect(self) -> Iterable[Metric]:
        status = self._status()
        gauges = {
            "vllm:num_requests_running": status.running,
            "vllm:num_requests_waiting": status.waiting,
            "vllm:kv_cache_usage_perc": status.kv_usage,
            "octavo:last_step_age_seconds": status.last_step_age_s,
            "octavo:kv_blocks": status.total_blocks,
            "octavo:kv_blocks_in_use": status.total_blocks - status.free_blocks,
            "octavo:kv_blocks_cached": status.cached_blocks,
            "octavo:step_token_limit": status.step_token_limit,
            "octavo:step_token_budget": status.step_token_budget,
            "octavo:worker_alive": int(status.alive and not status.recovering),
        }
        counters = {
            "vllm:prefix_cache_queries": status.prefix_queries,
            "vllm:prefix_cache_hits": status.prefix_hits,
            "vllm:num_preemptions": status.preemptions,
            "vllm:prompt_tokens": status.prompt_tokens,
            "vllm:generation_tokens": status.generation_tokens,
            "octavo:requests_replayed": status.requests_replayed,
            "octavo:tokens_recomputed": status.tokens_recomputed,
            "octavo:steps": status.steps,
        }
        for families, kind in ((gauges, GaugeMetricFamily), (counters, CounterMetricFamily)):
            for name, value in families.items():
                family = kind(name, _help(name.partition(":")[2]), labels=self._names)
                family.add_metric(self._values, value)
                yield family
        restarts = CounterMetricFamily("octavo:worker_restarts", "worker restarts", labels=[*self._names, "cause"])
        for cause, count in status.restarts.items():
            restarts.add_metric([*self._values, cause], count)
        yield restarts


def one_two_five(most: int) -> list[int]:
    """1, 2, 5, 10, 20, 50 ... up to `most`."""
    buckets: list[int] = []
    power = 1
    while power <= most:
        buckets.extend(step * power for step in (1, 2, 5) if step * power <= most)
        power *= 10
    return buckets


def _help(name: str) -> str:
    return name.replace("_", " ")
