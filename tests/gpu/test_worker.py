"""The worker on a GPU: memory shared out by measurement, and the sampler's bits on another device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bits.tiny import CONFIG
from octavo.messages import Admission, Chunk, StepPlan, WorkerConfig
from octavo.sampling import SamplingParams
from octavo.worker.inprocess import InProcessWorker
from octavo.worker.sampling.adjust import Row
from octavo.worker.sampling.counts import TokenCounts
from octavo.worker.sampling.sampler import sample
from octavo.worker.sampling.scores import Scores, score

pytestmark = pytest.mark.gpu
QWEN_VOCAB = 151_936
SETTINGS = [
    SamplingParams(temperature=0),
    SamplingParams(),
    SamplingParams(temperature=0.7, top_k=20, top_p=0.8),
    SamplingParams(temperature=1.6, min_p=0.02),
    SamplingParams(top_p=0.95, repetition_penalty=1.2, presence_penalty=0.5),
    SamplingParams(temperature=0.3, logit_bias={7: 5.0}, frequency_penalty=0.3),
]


def rows_of(count: int) -> list[Row]:
    """All with the counts of slot 1."""
    return [Row(SETTINGS[i % len(SETTINGS)].replace(seed=i), 40 + i, [3, 4] if i % 2 else [], 1) for i in range(count)]


def counts_of(vocab_size: int, device: str) -> TokenCounts:
    """Of two slots, the first without a request."""
    counts = TokenCounts(2, vocab_size, torch.device(device))
    counts.begin(1, range(0, 60, 3), [5, 5])
    counts.add(torch.tensor([1], device=device), torch.tensor([6], device=device))
    return counts


def random_logits(rows: int, vocab_size: int) -> torch.Tensor:
    return 4 * torch.randn((rows, vocab_size), generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("vocab_size", [1000, 1003, QWEN_VOCAB])
def test_the_gpu_samples_what_the_cpu_samples(vocab_size: int) -> None:
    logits, rows = random_logits(66, vocab_size), rows_of(66)
    on_gpu = sample(logits.cuda(), rows, counts_of(vocab_size, "cuda")).token_ids
    assert on_gpu.tolist() == sample(logits, rows, counts_of(vocab_size, "cpu")).token_ids.tolist()


@pytest.mark.parametrize("vocab_size", [61, 1003, QWEN_VOCAB])
def test_a_row_has_the_same_bits_in_any_company(vocab_size: int) -> None:
    logits, rows = random_logits(110, vocab_size).cuda(), rows_of(110)
    counts = counts_of(vocab_size, "cuda")
    token_ids = sample(logits, rows, counts).token_ids
    together = score(logits, token_ids, 20)
    for i in range(0, 110, 7):
        for part in ([i], [i, 0, 1], [*range(i, 110)]):
            chosen = sample(logits[part], [rows[j] for j in part], counts).token_ids
            assert chosen[0] == token_ids[i]
            for a, b in zip(tensors(score(logits[part], chosen, 20)), tensors(together), strict=True):
                assert torch.equal(a[0], b[i])


def tensors(scores: Scores) -> list[torch.Tensor]:
    return [scores.logprobs, scores.ranks, scores.top_ids, scores.top_logprobs]


@pytest.mark.alone
def test_memory_is_shared_out_by_measurement(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    config = WorkerConfig(
        model=str(tmp_path),
        load_format="dummy",
        device="cuda",
        max_model_len=64,
        max_num_seqs=64,
        max_num_batched_tokens=512,
        block_size=4,
        gpu_memory_utilization=0.5,
    )
    worker = InProcessWorker(config)
    ready = worker.ready
    total = torch.cuda.get_device_properties(0).total_memory
    assert ready.workspace_bytes > 0
    assert ready.num_blocks > 64 * 16, "what requests leave of the share keeps their prefixes"
    assert 0.45 * total < torch.cuda.max_memory_reserved() < 0.5 * total
    sampling = SamplingParams(seed=1, logprobs=2, prompt_logprobs=1)
    worker.send(StepPlan(1, [], [Admission(3, [5, 6, 7, 8], 4, sampling, [])], [Chunk(3, 0, 4, [2], True)]))
    result = worker.receive(None)
    assert result is not None
    assert [token.slot for token in result.sampled] == [3]
    assert len(result.prompt_scores[0].scores) == 3
    assert result.bad_slots == []
