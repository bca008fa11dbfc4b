"""The shape that broke another engine, through the real engine and model: many prompts of 1001 tokens under every budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from octavo import LLM, SamplingParams
from octavo.cli.bench.prompts import random_prompts
from octavo.messages import StepResult
from octavo.startup import in_this_process
from octavo.worker.inprocess import InProcessWorker

SETTINGS: dict[str, Any] = {
    "workers": in_this_process,
    "device": "cpu",
    "cpu_threads": 1,
    "max_model_len": 2100,
    "num_gpu_blocks_override": 1000,
}
ONE_TOKEN = SamplingParams(temperature=0, max_tokens=1, logprobs=3)

Bits = list[tuple[int, dict[int, float]]]


def burst(prompts: list[list[int]], budget: int, step_log: Path) -> tuple[Bits, list[list[int]]]:
    """Token and logprobs of every prompt, and the prefill chunks of every step."""
    with LLM(**SETTINGS, max_num_batched_tokens=budget, step_log=str(step_log)) as llm:
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], ONE_TOKEN, use_tqdm=False)
    answers = [output.outputs[0] for output in outputs]
    bits = [
        (answer.token_ids[0], {token: entry.logprob for token, entry in (answer.logprobs or [])[0].items()})
        for answer in answers
    ]
    return bits, [json.loads(line)["chunks"] for line in step_log.read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[list[int]], Bits]:
    """Ten prompts, and the answer to each when it is the only one."""
    prompts = random_prompts(count=10, length=1001, vocab_size=256, seed=0)
    logs = tmp_path_factory.mktemp("alone")
    with LLM(**SETTINGS, step_log=str(logs / "steps.jsonl")) as llm:
        outputs = [llm.generate({"prompt_token_ids": p}, ONE_TOKEN, use_tqdm=False)[0].outputs[0] for p in prompts]
    return prompts, [
        (o.token_ids[0], {token: entry.logprob for token, entry in (o.logprobs or [])[0].items()}) for o in outputs
    ]


@pytest.mark.parametrize("budget", [184, 8191, 8192, 8193])
def test_answers_have_the_bits_of_the_request_alone(
    budget: int, alone: tuple[list[list[int]], Bits], tmp_path: Path
) -> None:
    prompts, expected = alone
    bits, chunks = burst(prompts, budget, tmp_path / "steps.jsonl")
    assert bits == expected
    assert sum(map(sum, chunks)) == 10 * 1001
    assert max(map(sum, chunks)) == min(budget, 10 * 1001)
    if budget == 8192:
        assert chunks[0] == [1001] * 8 + [184], "eight whole prompts and 184 tokens of a ninth"


@pytest.mark.parametrize("budget", [1, 7])
def test_tiny_budgets_give_the_same_bits(budget: int, tmp_path: Path) -> None:
    prompts = random_prompts(count=3, length=40, vocab_size=256, seed=1)
    expected, _ = burst(prompts, 8192, tmp_path / "large.jsonl")
    bits, chunks = burst(prompts, budget, tmp_path / "steps.jsonl")
    assert bits == expected
    assert max(map(sum, chunks)) == budget


def test_the_comparison_sees_a_single_bit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The twin: the worker tells one logprob one bit of a float32 off, and the answers must show it."""
    prompts = random_prompts(count=3, length=40, vocab_size=256, seed=1)
    expected, _ = burst(prompts, 8192, tmp_path / "right.jsonl")
    receive = InProcessWorker.receive
    damaged: list[tuple[int, float, float]] = []

    def off_by_a_bit(self: InProcessWorker, timeout_s: float | None) -> StepResult | None:
        result = receive(self, timeout_s)
        if result is None or not result.sampled or damaged:
            return result
        first, *others = result.sampled
        assert first.score is not None
        *likelier, (token, logprob) = first.score.top
        damaged.append((token, logprob, float(np.nextafter(np.float32(logprob), np.float32(0)))))
        score = msgspec.structs.replace(first.score, top=[*likelier, (token, damaged[0][2])])
        return msgspec.structs.replace(result, sampled=[msgspec.structs.replace(first, score=score), *others])

    monkeypatch.setattr(InProcessWorker, "receive", off_by_a_bit)
    bits, _ = burst(prompts, 8192, tmp_path / "wrong.jsonl")
    assert bits != expected
    [(token, logprob, wrong)] = damaged
    differ = [(right, got) for right, got in zip(expected, bits, strict=True) if right != got]
    [((chosen, before), (chosen_too, after))] = differ
    assert chosen == chosen_too
    assert (before.pop(token), after.pop(token)) == (logprob, wrong)
    assert before == after, "nothing but that bit differs"
