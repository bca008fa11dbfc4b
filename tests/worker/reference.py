"""The sampler said slowly: one row, float64, Python lists."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from octavo.sampling import SamplingParams


def reference_uniform(seed: int, position: int) -> float:
    """Output `position` of SplitMix64 started at the mixed seed, in Python integers."""
    return (_mix(_mix(seed % 2**64) + position * 0x9E3779B97F4A7C15) >> 11) * 2.0**-53


def _mix(value: int) -> int:
    value %= 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def reference_adjusted(
    logits: Sequence[float],
    sampling: SamplingParams,
    prompt: Sequence[int],
    made: Sequence[int],
    stop_ids: Sequence[int],
) -> list[float]:
    values = [x + sampling.logit_bias.get(i, 0.0) for i, x in enumerate(logits)]
    times = Counter(made)
    for i in {*prompt, *made}:
        x = values[i]
        x = x / sampling.repetition_penalty if x > 0 else x * sampling.repetition_penalty
        x -= sampling.frequency_penalty * times[i]
        values[i] = x - sampling.presence_penalty * (times[i] > 0)
    if len(made) < sampling.min_tokens:
        for i in stop_ids:
            values[i] = -math.inf
    return values


def reference_distribution(adjusted: Sequence[float], sampling: SamplingParams) -> list[float]:
    """Probability of every id; greedy: all on the first of the largest."""
    order = sorted(range(len(adjusted)), key=lambda i: (-adjusted[i], i))
    best = adjusted[order[0]]
    if sampling.greedy:
        return [float(i == order[0]) for i in range(len(adjusted))]
    likelihood = [math.exp((x - best) / sampling.temperature) for x in adjusted]
    kept = [i for i in order if likelihood[i] >= sampling.min_p]
    if sampling.top_k > 0:
        kept = kept[: sampling.top_k]
    total = sum(likelihood[i] for i in kept)
    before, head = 0.0, []
    for i in kept:
        if before < sampling.top_p * total:
            head.append(i)
        before += likelihood[i]
    total = sum(likelihood[i] for i in head)
    return [likelihood[i] / total if i in head else 0.0 for i in range(len(adjusted))]


def reference_choices(probabilities: Sequence[float], order: Sequence[int], u: float, slack: float) -> set[int]:
    """The ids that inverting the cumulative distribution (in `order`) gives for numbers within `slack` of u."""
    choices, before = set(), 0.0
    for i in order:
        if probabilities[i] > 0 and before - slack <= u < before + probabilities[i] + slack:
            choices.add(i)
        before += probabilities[i]
    return choices


def reference_score(logits: Sequence[float], token_id: int, n: int) -> tuple[float, int, list[tuple[int, float]]]:
    """Log-probability and rank of `token_id`, and the n likeliest with theirs."""
    best = max(logits)
    log_total = best + math.log(math.fsum(math.exp(x - best) for x in logits))
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    return logits[token_id] - log_total, 1 + order.index(token_id), [(i, logits[i] - log_total) for i in order[:n]]
