"""The numbers and lines of the serving benchmark, against values worked out by hand."""

from __future__ import annotations

import itertools

import pytest

from octavo.cli.bench.client import Outcome
from octavo.cli.bench.prompts import random_lengths, random_prompts
from octavo.cli.bench.report import Report, parse_goodput, parse_metrics, parse_percentiles, peak_concurrency
from octavo.cli.bench.serve import arrival_times
from octavo.errors import ConfigError


def outcome(started: float, arrivals: list[float], output_tokens: int) -> Outcome:
    return Outcome(10, started, True, output_tokens=output_tokens, arrivals=arrivals, ended=arrivals[-1])


REPORT = Report(
    [outcome(0.0, [0.1, 0.2, 0.4], 3), outcome(1.0, [1.5], 1), Outcome(10, 0.0, error="boom")],
    duration_s=2.0,
    goodput={"ttft": 200.0},
    percentiles=[50.0, 99.9],
    request_rate=3.0,
    max_concurrency=7,
)


def test_metrics_are_those_of_the_definitions() -> None:
    numbers = REPORT.to_json()
    assert numbers["completed"] == 2
    assert numbers["failed"] == 1
    assert numbers["total_input_tokens"] == 20
    assert numbers["total_output_tokens"] == 4
    assert numbers["request_throughput"] == 1.0
    assert numbers["request_goodput"] == 0.5
    assert numbers["output_throughput"] == 2.0
    assert numbers["total_token_throughput"] == 12.0
    assert numbers["mean_ttft_ms"] == pytest.approx(300)
    assert numbers["mean_tpot_ms"] == pytest.approx(150), "a single token has no time per further token"
    assert numbers["mean_itl_ms"] == pytest.approx(150)
    assert numbers["mean_e2el_ms"] == pytest.approx(450)
    assert numbers["p50_ttft_ms"] == pytest.approx(300)
    assert numbers["p99.9_ttft_ms"] == pytest.approx(499.6)
    assert numbers["max_output_tokens_per_s"] == 3.0
    assert numbers["max_concurrent_requests"] == 1


def test_lines_are_those_that_scripts_read() -> None:
    lines = REPORT.lines(["ttft", "tpot", "itl", "e2el"])
    assert lines[0] == "============ Serving Benchmark Result ============"
    assert lines[1] == "Successful requests:                     2         "
    assert "Maximum request concurrency:             7         " in lines
    assert "Request rate configured (RPS):           3.00      " in lines
    assert "Request goodput (req/s):                 0.50      " in lines
    assert "Output token throughput (tok/s):         2.00      " in lines
    assert "---------------Time to First Token----------------" in lines
    assert "-----Time per Output Token (excl. 1st token)------" in lines
    assert "Mean TTFT (ms):                          300.00    " in lines
    assert "P99.9 E2EL (ms):                         499.90    " in lines
    assert lines[-1] == "=" * 50


def test_a_run_without_success_still_reports() -> None:
    report = Report([Outcome(1, error="boom")] * 12, 1.0, {}, [99.0])
    assert report.to_json()["mean_ttft_ms"] == 0.0
    assert report.error_lines()[-1] == "and 2 more"


def test_concurrency_peaks_where_requests_overlap() -> None:
    assert peak_concurrency([outcome(0.0, [2.0], 1), outcome(1.0, [3.0], 1), outcome(2.0, [4.0], 1)]) == 2
    assert peak_concurrency([]) == 0


def test_arrivals_keep_the_rate_and_the_order() -> None:
    times = arrival_times(100, rate=10.0, burstiness=1.0, seed=0)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(10.0)
    assert times == arrival_times(100, rate=10.0, burstiness=1.0, seed=0)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    even = arrival_times(100, rate=10.0, burstiness=1000.0, seed=0)
    assert max(gaps) > 2 * max(b - a for a, b in itertools.pairwise(even)), "high burstiness is even"
    assert arrival_times(3, rate=float("inf"), burstiness=1.0, seed=0) == [0.0, 0.0, 0.0]


def test_prompts_are_seeded_different_and_as_long_as_asked() -> None:
    prompts = random_prompts(count=50, length=20, vocab_size=97, seed=3, prefix_length=5)
    assert prompts == random_prompts(count=50, length=20, vocab_size=97, seed=3, prefix_length=5)
    assert prompts != random_prompts(count=50, length=20, vocab_size=97, seed=4, prefix_length=5)
    assert {len(prompt) for prompt in prompts} == {25}
    assert len({tuple(prompt) for prompt in prompts}) == 50
    assert {tuple(prompt[:5]) for prompt in prompts} == {tuple(prompts[0][:5])}
    assert all(0 <= token < 97 for prompt in prompts for token in prompt)
    lengths = random_lengths(count=200, length=100, seed=0, range_ratio=0.5)
    assert min(lengths) >= 50
    assert max(lengths) <= 150
    assert len(set(lengths)) > 20


@pytest.mark.parametrize(
    "call",
    [
        lambda: parse_goodput(["ttft"]),
        lambda: parse_goodput(["itl:5"]),
        lambda: parse_goodput(["ttft:nan"]),
        lambda: parse_metrics("ttft,xyz"),
        lambda: parse_percentiles("101"),
        lambda: parse_percentiles("x"),
        lambda: random_prompts(count=0, length=1, vocab_size=5, seed=0),
        lambda: random_prompts(count=1, length=1, vocab_size=0, seed=0),
        lambda: random_lengths(count=1, length=1, seed=0, range_ratio=1.0),
    ],
    ids=["goodput", "goodput-itl", "goodput-nan", "metric", "p101", "px", "count", "vocab", "ratio"],
)
def test_wrong_values_are_refused(call: object) -> None:
    assert callable(call)
    with pytest.raises(ConfigError):
        call()


def test_values_are_parsed() -> None:
    assert parse_goodput(["ttft:500", "e2el:1e3"]) == {"ttft": 500.0, "e2el": 1000.0}
    assert parse_metrics("ttft, e2el") == ["ttft", "e2el"]
    assert parse_percentiles("50,99.9") == [50.0, 99.9]
