"""Log-probabilities against math.log in float64, and the independence of rows."""

from __future__ import annotations

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.worker.sampling.scores import Scores, score
from octavo.worker.transfer import Download
from worker.reference import reference_score

quarters = st.integers(-120, 120).map(lambda x: x / 4)


@st.composite
def matrices(draw: st.DrawFn) -> list[list[float]]:
    width = draw(st.integers(1, 40))
    return draw(st.lists(st.lists(quarters, min_size=width, max_size=width), min_size=1, max_size=5))


@settings(deadline=None, max_examples=200)
@given(matrices(), st.integers(0, 40), st.randoms())
def test_scores_are_those_of_the_reference(matrix: list[list[float]], n: int, random: Random) -> None:
    n = min(n, len(matrix[0]))
    token_ids = [random.randrange(len(row)) for row in matrix]
    scores = score(torch.tensor(matrix), torch.tensor(token_ids), n)
    for i, row in enumerate(matrix):
        logprob, rank, top = reference_score(row, token_ids[i], n)
        assert scores.logprobs[i].item() == pytest.approx(logprob, rel=1e-6, abs=1e-7)
        assert scores.ranks[i].item() == rank
        assert scores.top_ids[i].tolist() == [token_id for token_id, _ in top]
        assert scores.top_logprobs[i].tolist() == pytest.approx([value for _, value in top], rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("most", [1, 61, 3 * 61, 5 * 61 + 7])
def test_scores_of_some_rows_at_a_time_are_those_of_all(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last piece is shorter, and some rows ask for ids of their own."""
    logits = torch.randn((8, 61), generator=torch.Generator().manual_seed(8))
    token_ids, asked = torch.arange(8), [[i, 60 - i] if i % 3 else [] for i in range(8)]
    whole = score(logits, token_ids, 4, asked)
    assert whole.top_ids[7, :2].tolist() == [7, 53]
    monkeypatch.setattr("octavo.worker.sampling.scores.MAX_SCORED", most)
    parts = score(logits, token_ids, 4, asked)
    for name in ("logprobs", "ranks", "top_ids", "top_logprobs"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))
    assert score(logits[:0], token_ids[:0], 4).top_ids.shape == (0, 4)


@pytest.mark.parametrize("vocab_size", [1, 7, 61, 1023, 4099])
def test_a_row_has_the_same_bits_in_any_company(vocab_size: int) -> None:
    torch.manual_seed(2)
    logits = 5 * torch.randn(37, vocab_size)
    token_ids = torch.randint(vocab_size, (37,))
    n = min(5, vocab_size)
    together = score(logits, token_ids, n)
    for i in range(37):
        for rows in ([i], [i, 0, 1], [*range(i, 37)]):
            part = score(logits[rows], token_ids[rows], n)
            assert all(torch.equal(a[0], b[i]) for a, b in zip(tensors(part), tensors(together), strict=True))


def tensors(scores: Scores) -> list[torch.Tensor]:
    return [scores.logprobs, scores.ranks, scores.top_ids, scores.top_logprobs]


def test_a_large_vocabulary_keeps_float32_precision() -> None:
    torch.manual_seed(3)
    logits = 3 * torch.randn(2, 151_936)
    token_ids = torch.tensor([5, 151_935])
    exact = logits.double().log_softmax(-1).gather(1, token_ids[:, None])[:, 0]
    assert (score(logits, token_ids, 0).logprobs.double() - exact).abs().max() < 1e-6


def test_ties_rank_by_id() -> None:
    logits = torch.tensor([[0.0, 1.0, -0.0, 1.0]])
    assert [score(logits, torch.tensor([i]), 4).ranks.item() for i in range(4)] == [3, 1, 4, 2]
    assert score(logits, torch.tensor([0]), 4).top_ids.tolist() == [[1, 3, 0, 2]]


def test_nan_in_one_row_leaves_the_others_alone() -> None:
    torch.manual_seed(4)
    logits = torch.randn(3, 50)
    clean = score(logits, torch.tensor([1, 2, 3]), 4)
    logits[1, 7] = torch.nan
    dirty = score(logits, torch.tensor([1, 2, 3]), 4)
    for a, b in zip(tensors(clean), tensors(dirty), strict=True):
        assert torch.equal(a[[0, 2]], b[[0, 2]])
    assert ((dirty.top_ids >= 0) & (dirty.top_ids < 50)).all()


def test_tensors_come_to_the_host_with_their_bits() -> None:
    originals = [
        torch.tensor([[0.1, -0.0], [torch.inf, 1e-45]]),
        torch.tensor([True, False]),
        torch.tensor([2**62, -1]),
        torch.empty((3, 0)),
    ]
    for copy, original in zip(Download(originals).tensors(), originals, strict=True):
        assert copy.dtype == original.dtype
        assert torch.equal(copy, original)
        assert torch.equal(
            copy.signbit() if copy.is_floating_point() else copy,
            original.signbit() if copy.is_floating_point() else original,
        )
