"""Reports a serving benchmark with vLLM's metrics, by vLLM's names, in vLLM's lines."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from octavo.cli.bench.client import Outcome
from octavo.errors import ConfigError

METRICS = {
    "ttft": ("TTFT", "Time to First Token"),
    "tpot": ("TPOT", "Time per Output Token (excl. 1st token)"),
    "itl": ("ITL", "Inter-token Latency"),
    "e2el": ("E2EL", "End-to-end Latency"),
}
"""Metric to its short name and the title of its block."""

MAX_ERRORS_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Report:
    """All numbers of a run. Times in milliseconds."""

    outcomes: Sequence[Outcome]
    duration_s: float
    goodput: Mapping[str, float]
    """Metric to the limit a good request keeps, in ms."""
    percentiles: Sequence[float]
    request_rate: float = math.inf
    max_concurrency: int | None = None

    @property
    def completed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.success]

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.success]

    def samples_ms(self, metric: str) -> list[float]:
        """All measurements of a metric."""
        done = self.completed
        match metric:
            case "ttft":
                seconds = [outcome.ttft_s for outcome in done]
            case "tpot":
                seconds = [outcome.tpot_s for outcome in done if outcome.output_tokens > 1]
            case "itl":
                seconds = [itl for outcome in done for itl in outcome.itls_s]
            case _:
                seconds = [outcome.latency_s for outcome in done]
        return [1000 * value for value in seconds]

    def num_good(self) -> int:
        """Requests that keep every limit of `goodput`."""
        return sum(
            all(1000 * value[metric] <= limit for metric, limit in self.goodput.items())
            for outcome in self.completed
            for value in [{"ttft": outcome.ttft_s, "tpot": outcome.tpot_s, "e2el": outcome.latency_s}]
        )

    def to_json(self) -> dict[str, Any]:
        """The numbers under vLLM's JSON names."""
        done = self.completed
        total_input = sum(outcome.prompt_tokens for outcome in done)
        total_output = sum(outcome.output_tokens for outcome in done)
        result: dict[str, Any] = {
            "duration": self.duration_s,
            "completed": len(done),
            "failed": len(self.failed),
            "total_input_tokens": total_input,
            "total_output_tokens": total_output,
            "request_throughput": len(done) / self.duration_s,
            "request_goodput": self.num_good() / self.duration_s if self.goodput else None,
            "output_throughput": total_output / self.duration_s,
            "total_token_throughput": (total_input + total_output) / self.duration_s,
            "max_output_tokens_per_s": peak_per_second(done),
            "max_concurrent_requests": peak_concurrency(done),
        }
        for metric in METRICS:
            result.update(self._spread(metric))
        return result

    def details(self) -> dict[str, Any]:
        """Per-request numbers under vLLM's JSON names."""
        return {
            "input_lens": [outcome.prompt_tokens for outcome in self.outcomes],
            "output_lens": [outcome.output_tokens for outcome in self.outcomes],
            "ttfts": [outcome.ttft_s if outcome.success else 0.0 for outcome in self.outcomes],
            "itls": [outcome.itls_s for outcome in self.outcomes],
            "generated_texts": [outcome.text for outcome in self.outcomes],
            "errors": [outcome.error for outcome in self.outcomes],
        }

    def lines(self, metrics: Sequence[str]) -> list[str]:
        """The report as vLLM's benchmark prints it."""
        numbers = self.to_json()
        lines = [
            f"{' Serving Benchmark Result ':=^50}",
            _line("Successful requests:", numbers["completed"]),
            _line("Failed requests:", numbers["failed"]),
        ]
        if self.max_concurrency is not None:
            lines.append(_line("Maximum request concurrency:", self.max_concurrency))
        if math.isfinite(self.request_rate):
            lines.append(_line("Request rate configured (RPS):", self.request_rate))
        lines += [
            _line("Benchmark duration (s):", numbers["duration"]),
            _line("Total input tokens:", numbers["total_input_tokens"]),
            _line("Total generated tokens:", numbers["total_output_tokens"]),
            _line("Request throughput (req/s):", numbers["request_throughput"]),
        ]
        if self.goodput:
            lines.append(_line("Request goodput (req/s):", numbers["request_goodput"]))
        lines += [
            _line("Output token throughput (tok/s):", numbers["output_throughput"]),
            _line("Peak output token throughput (tok/s):", numbers["max_output_tokens_per_s"]),
            _line("Peak concurrent requests:", float(numbers["max_concurrent_requests"])),
            _line("Total token throughput (tok/s):", numbers["total_token_throughput"]),
        ]
        for metric in metrics:
            short, title = METRICS[metric]
            lines.append(f"{title:-^50}")
            lines.append(_line(f"Mean {short} (ms):", numbers[f"mean_{metric}_ms"]))
            lines.append(_line(f"Median {short} (ms):", numbers[f"median_{metric}_ms"]))
            lines += [
                _line(f"P{word} {short} (ms):", numbers[f"p{word}_{metric}_ms"])
                for word in map(percentile_word, self.percentiles)
            ]
        return [*lines, "=" * 50]

    def error_lines(self) -> list[str]:
        """The first errors."""
        shown = [f"request failed: {outcome.error}" for outcome in self.failed[:MAX_ERRORS_SHOWN]]
        more = len(self.failed) - len(shown)
        return [*shown, f"and {more} more"] if more > 0 else shown

    def _spread(self, metric: str) -> dict[str, float]:
        samples = self.samples_ms(metric) or [0.0]
        return {
            f"mean_{metric}_ms": float(np.mean(samples)),
            f"median_{metric}_ms": float(np.median(samples)),
            f"std_{metric}_ms": float(np.std(samples)),
            **{f"p{percentile_word(p)}_{metric}_ms": float(np.percentile(samples, p)) for p in self.percentiles},
        }


def peak_per_second(outcomes: Sequence[Outcome]) -> float:
    """Most tokens that came within one second of the run; the tokens of an answer are spread over its chunks."""
    start = min((outcome.started for outcome in outcomes), default=0.0)
    tokens: dict[int, float] = collections.defaultdict(float)
    for outcome in outcomes:
        for arrival in outcome.arrivals:
            tokens[int(arrival - start)] += outcome.output_tokens / len(outcome.arrivals)
    return max(tokens.values(), default=0.0)


def peak_concurrency(outcomes: Sequence[Outcome]) -> int:
    """Most requests that were open at once."""
    changes = sorted(change for outcome in outcomes for change in [(outcome.started, 1), (outcome.arrivals[-1], -1)])
    running = peak = 0
    for _, change in changes:
        running += change
        peak = max(peak, running)
    return peak


def parse_goodput(words: Sequence[str]) -> dict[str, float]:
    """`["ttft:500", "tpot:20"]` as limits in ms.

    Raises:
        ConfigError: a word is not NAME:MS.
    """
    limits: dict[str, float] = {}
    for word in words:
        name, _, limit = word.partition(":")
        try:
            limits[name] = float(limit)
        except ValueError:
            raise ConfigError("--goodput", f"must be NAME:MS such as ttft:500, got {word!r}") from None
        if name not in ("ttft", "tpot", "e2el") or not limits[name] >= 0:
            raise ConfigError("--goodput", f"knows ttft, tpot and e2el with a limit of at least 0 ms, got {word!r}")
    return limits


def parse_metrics(text: str) -> list[str]:
    """`"ttft,tpot"` as names of `METRICS`.

    Raises:
        ConfigError: an unknown name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in METRICS]:
        raise ConfigError("--percentile-metrics", f"knows {', '.join(METRICS)}, not {unknown[0]!r}")
    return names


def parse_percentiles(text: str) -> list[float]:
    """`"50,99"` as numbers.

    Raises:
        ConfigError: not numbers in 0..100.
    """
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = [-1.0]
    if not all(0 <= number <= 100 for number in numbers):
        raise ConfigError("--metric-percentiles", f"must be numbers in 0..100 separated by commas, got {text!r}")
    return numbers


def percentile_word(percentile: float) -> str:
    """99.0 as `99`, 99.9 as `99.9`."""
    return str(int(percentile)) if percentile == int(percentile) else str(percentile)


def _line(name: str, value: float) -> str:
    return f"{name:<40} {value:<10.2f}" if isinstance(value, float) else f"{name:<40} {value:<10}"
