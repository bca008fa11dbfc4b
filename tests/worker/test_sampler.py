"""The sampler against its slow float64 reference, its distribution, and the independence of rows."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo.sampling import SamplingParams
from octavo.worker.sampling import sampler
from octavo.worker.sampling.adjust import Row, adjust_logits
from octavo.worker.sampling.counter_rng import uniform
from octavo.worker.sampling.counts import TokenCounts
from octavo.worker.sampling.sampler import sample
from worker.reference import (
    reference_adjusted,
    reference_choices,
    reference_distribution,
    reference_uniform,
)

VOCAB = 23
SLACK = 1e-9
"""Of a cumulative probability: above the rounding of masses, far below any real difference."""

ids = st.integers(0, VOCAB - 1)
histories = st.lists(ids, max_size=12)
samplings = st.builds(
    SamplingParams,
    temperature=st.one_of(st.just(0.0), st.just(1.0), st.floats(0.05, 2)),
    top_k=st.integers(-1, VOCAB + 3),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 1)),
    min_p=st.one_of(st.just(0.0), st.floats(0, 1)),
    presence_penalty=st.one_of(st.just(0.0), st.floats(-2, 2)),
    frequency_penalty=st.one_of(st.just(0.0), st.floats(-2, 2)),
    repetition_penalty=st.one_of(st.just(1.0), st.floats(0.5, 2)),
    logit_bias=st.dictionaries(ids, st.floats(-10, 10), max_size=4),
    min_tokens=st.integers(0, 8),
    seed=st.integers(-(2**63), 2**63 - 1),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[float], SamplingParams, list[int], list[int], list[int], int]:
    """Logits (with ties), settings, prompt, made tokens, stop ids, position."""
    logits = draw(st.lists(st.integers(-24, 24).map(lambda x: x / 4), min_size=VOCAB, max_size=VOCAB))
    stop_ids = draw(st.lists(ids, max_size=4, unique=True))
    return logits, draw(samplings), draw(histories), draw(histories), stop_ids, draw(st.integers(0, 2**31))


Case = tuple[list[float], SamplingParams, list[int], list[int], list[int], int]


def rows_of(drawn: list[Case]) -> list[Row]:
    """Each in a slot of its own."""
    return [
        Row(sampling, position, stop_ids if len(made) < sampling.min_tokens else [], slot)
        for slot, (_, sampling, _, made, stop_ids, position) in enumerate(drawn)
    ]


def counts_of(drawn: list[Case]) -> TokenCounts:
    """The last token that each has made came after the others."""
    counts = TokenCounts(len(drawn), VOCAB, torch.device("cpu"))
    for slot, (_, _, prompt, made, *_) in enumerate(drawn):
        counts.begin(slot, prompt, made[:-1])
    late = [(slot, made[-1]) for slot, (_, _, _, made, *_) in enumerate(drawn) if made]
    counts.add(*torch.tensor(late, dtype=torch.int64).view(-1, 2).T)
    return counts


@settings(deadline=None, max_examples=300)
@given(st.lists(cases(), min_size=1, max_size=7))
def test_a_row_is_what_the_reference_says_and_the_same_in_any_company(
    drawn: list[Case],
) -> None:
    logits = torch.tensor([case[0] for case in drawn])
    rows, counts = rows_of(drawn), counts_of(drawn)
    before = logits.clone()
    choice = sample(logits, rows, counts)
    assert torch.equal(logits, before)
    assert choice.finite.all()
    for i, (values, sampling, prompt, made, stop_ids, position) in enumerate(drawn):
        alone = sample(logits[i : i + 1].clone(), rows[i : i + 1], counts)
        assert choice.token_ids[i] == alone.token_ids[0]
        adjusted = adjust_logits(logits[i : i + 1], rows[i : i + 1], counts)
        expected = reference_adjusted(values, sampling, prompt, made, stop_ids)
        assert adjusted[0].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)
        # From here on the reference starts at the float32 values: a tie made by rounding is a tie.
        probabilities = reference_distribution(adjusted[0].tolist(), sampling)
        truncated = sampling.top_k > 0 or sampling.top_p < 1
        order = sorted(range(VOCAB), key=lambda i: -adjusted[0, i].item()) if truncated else list(range(VOCAB))
        u = reference_uniform(sampling.seed or 0, position)
        assert int(choice.token_ids[i]) in reference_choices(probabilities, order, u, SLACK)


def test_the_reference_leaves_no_choice_nearly_always() -> None:
    """The twin of the test above: its slack lets nothing but the right token pass."""
    probabilities = reference_distribution([i / 7 for i in range(VOCAB)], SamplingParams(seed=0))
    numbers = [reference_uniform(3, position) for position in range(2000)]
    choices = [reference_choices(probabilities, range(VOCAB), u, SLACK) for u in numbers]
    assert all(len(choice) == 1 for choice in choices)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**31)), min_size=1, max_size=9))
def test_numbers_are_those_of_splitmix64_in_python_integers(keys: list[tuple[int, int]]) -> None:
    numbers = uniform([seed for seed, _ in keys], [position for _, position in keys])
    assert numbers.tolist() == [reference_uniform(seed, position) for seed, position in keys]
    assert ((numbers >= 0) & (numbers < 1)).all()


def test_numbers_fill_the_unit_square_evenly() -> None:
    """Pairs of neighbouring positions and of neighbouring seeds, in 16 x 16 cells; 330.5 is the 99.9 % point of
    chi-square with 255 degrees of freedom."""
    count = 64_000
    by_position = uniform([7] * (2 * count), range(2 * count))
    by_seed = uniform(range(2 * count), [5] * (2 * count))
    for numbers in (by_position, by_seed):
        cells: Counter[tuple[int, ...]] = Counter(
            zip((numbers[::2] * 16).astype(int).tolist(), (numbers[1::2] * 16).astype(int).tolist(), strict=True)
        )
        assert chi_square([cells[cell] for cell in itertools.product(range(16), repeat=2)], [1 / 256] * 256) < 330.5


def chi_square(counts: list[int], probabilities: list[float]) -> float:
    total = sum(counts)
    assert all(count == 0 for count, p in zip(counts, probabilities, strict=True) if p == 0)
    return sum((count - total * p) ** 2 / (total * p) for count, p in zip(counts, probabilities, strict=True) if p > 0)


DISTRIBUTIONS = {
    "plain": SamplingParams(seed=11),
    "hot": SamplingParams(seed=11, temperature=1.7),
    "cold": SamplingParams(seed=11, temperature=0.6),
    "top-k": SamplingParams(seed=11, top_k=5),
    "top-p": SamplingParams(seed=11, top_p=0.8),
    "min-p": SamplingParams(seed=11, min_p=0.3),
    "all": SamplingParams(seed=11, temperature=1.3, top_k=9, top_p=0.9, min_p=0.1),
}
LOGITS = [math.sin(3 * i) * 1.5 for i in range(VOCAB)]


def draw_many(sampling: SamplingParams, count: int = 20_000) -> list[int]:
    rows = [Row(sampling, position) for position in range(count)]
    tokens = Counter(sample(torch.tensor([LOGITS]).expand(count, -1), rows).token_ids.tolist())
    return [tokens[i] for i in range(VOCAB)]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_frequencies_match_the_distribution(name: str) -> None:
    """48.3 is the 99.9 % point of chi-square with 22 degrees of freedom; fewer kept ids have fewer."""
    probabilities = reference_distribution(LOGITS, DISTRIBUTIONS[name])
    assert chi_square(draw_many(DISTRIBUTIONS[name]), probabilities) < 48.3


def test_frequencies_of_another_temperature_do_not_match() -> None:
    probabilities = reference_distribution(LOGITS, SamplingParams(seed=11, temperature=1.1))
    assert chi_square(draw_many(DISTRIBUTIONS["plain"]), probabilities) > 48.3


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(temperature=0),
        SamplingParams(temperature=0, top_k=3, top_p=0.5, min_p=0.2),
        SamplingParams(seed=1, top_k=1),
        SamplingParams(seed=1, top_p=1e-300),
        SamplingParams(seed=1, temperature=1e-300, top_k=1),
    ],
    ids=["greedy", "greedy with everything", "top-k 1", "tiny top-p", "tiny temperature"],
)
def test_ties_go_to_the_lower_id(sampling: SamplingParams) -> None:
    logits = torch.zeros((40, VOCAB))
    logits[:, [17, 4, 9]] = 2.0
    assert sample(logits, [Row(sampling, position) for position in range(40)]).token_ids.tolist() == [4] * 40


def test_minus_zero_ties_with_zero() -> None:
    logits = torch.full((1, VOCAB), -1.0)
    logits[0, 3], logits[0, 5] = -0.0, 0.0
    for sampling in (SamplingParams(temperature=0), SamplingParams(seed=1, top_k=1)):
        assert sample(logits, [Row(sampling, 0)]).token_ids.tolist() == [3]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-40, 1e-5])
@pytest.mark.parametrize("scale", [1.0, 3e38], ids=["usual", "huge"])
def test_a_tiny_temperature_is_greedy_and_does_not_overflow(temperature: float, scale: float) -> None:
    logits = torch.linspace(-1, 1, VOCAB)[None].flip(1) * scale
    choice = sample(logits, [Row(SamplingParams(temperature=temperature, seed=3), 9)])
    assert choice.finite.tolist() == [True]
    assert choice.token_ids.tolist() == [0]


@pytest.mark.parametrize("penalty", [5e-324, 1e-300, 1e300], ids=["smallest", "tiny", "huge"])
def test_an_extreme_repetition_penalty_makes_no_nan(penalty: float) -> None:
    logits = torch.tensor([[3e38, -3e38, 0.0, 1.0, -1.0]])
    row = Row(SamplingParams(seed=1, repetition_penalty=penalty), 3, (), 0)
    counts = TokenCounts(1, 5, torch.device("cpu"))
    counts.begin(0, range(5), [0])
    assert torch.isfinite(adjust_logits(logits, [row], counts)).all()
    assert sample(logits, [row], counts).finite.all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_is_reported_and_touches_no_other(value: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, VOCAB)
    rows = [Row(sampling, 5) for sampling in (*DISTRIBUTIONS.values(),)][3:]
    clean = sample(logits, rows)
    logits[1, 6] = value
    choice = sample(logits, rows)
    assert choice.finite.tolist() == [True, False, True, True]
    assert choice.token_ids[[0, 2, 3]].tolist() == clean.token_ids[[0, 2, 3]].tolist()
    assert 0 <= int(choice.token_ids[1]) < VOCAB


def test_a_row_with_every_id_masked_is_reported() -> None:
    rows = [
        Row(SamplingParams(seed=1, min_tokens=2), 0, range(VOCAB)),
        Row(SamplingParams(seed=1, top_k=2), 0, range(VOCAB)),
    ]
    choice = sample(torch.randn(2, VOCAB), rows)
    assert choice.finite.tolist() == [False, False]


def test_a_masked_id_is_never_sampled() -> None:
    logits = torch.zeros((500, 3))
    logits[:, 1] = 50.0
    choice = sample(logits, [Row(SamplingParams(seed=2, min_tokens=1), position, [1]) for position in range(500)])
    assert set(choice.token_ids.tolist()) == {0, 2}


def test_a_zero_number_takes_no_id_without_mass(monkeypatch: pytest.MonkeyPatch) -> None:
    for u, expected in ((0.0, 2), (1 - 2.0**-53, 6)):
        monkeypatch.setattr("octavo.worker.sampling.sampler.uniform", constant(u))
        logits = torch.full((1, 9), -1e9)
        logits[0, [2, 4, 6]] = 0.0
        assert sample(logits, [Row(SamplingParams(seed=0), 0)]).token_ids.tolist() == [expected]


def constant(u: float) -> Callable[..., object]:
    def numbers(seeds: list[int], positions: list[int]) -> object:
        return torch.full((len(seeds),), u, dtype=torch.float64).numpy()

    return numbers


# Mutated twins: a wrong sampler must not pass what the tests above check.


def disagreement(mutant: Callable[[torch.Tensor, list[Row]], torch.Tensor]) -> int:
    """Rows of 64 whose token in company is not the token alone."""
    torch.manual_seed(1)
    logits = torch.randn(64, VOCAB)
    rows = [Row(SamplingParams(seed=i, temperature=1.5, top_k=i % 9), 100 + i) for i in range(64)]
    together = mutant(logits, rows)
    return sum(int(mutant(logits[i : i + 1], rows[i : i + 1])[0] != together[i]) for i in range(64))


def test_the_sampler_agrees_with_itself() -> None:
    assert disagreement(lambda logits, rows: sample(logits, rows).token_ids) == 0


def test_numbers_keyed_by_row_are_noticed() -> None:
    def keyed_by_row(logits: torch.Tensor, rows: list[Row]) -> torch.Tensor:
        return sample(logits, [Row(row.sampling.replace(seed=i), row.position) for i, row in enumerate(rows)]).token_ids

    assert disagreement(keyed_by_row) > 0


def test_a_top_k_shared_by_the_rows_is_noticed() -> None:
    def shared(logits: torch.Tensor, rows: list[Row]) -> torch.Tensor:
        most = max(row.sampling.top_k for row in rows)
        return sample(logits, [Row(row.sampling.replace(top_k=most), row.position) for row in rows]).token_ids

    assert disagreement(shared) > 0


def bits_of(allowed: list[int]) -> bytes:
    number = sum(1 << id_ for id_ in allowed)
    return number.to_bytes(-(-VOCAB // 8), "little")


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(cases(), st.lists(ids, min_size=1, unique=True)), min_size=1, max_size=5), st.data())
def test_allowed_ids_are_those_not_masked_and_touch_no_other_row(
    drawn: list[tuple[Case, list[int]]], data: st.DataObject
) -> None:
    """A mask of bits does what a list of forbidden ids does, in its row alone."""
    logits = torch.tensor([case[0] for case, _ in drawn])
    cases_alone = [case for case, _ in drawn]
    plain, counts = rows_of(cases_alone), counts_of(cases_alone)
    under = [data.draw(st.booleans()) for _ in drawn]
    rows, twins = [], []
    for row, (_, allowed), masked in zip(plain, drawn, under, strict=True):
        free = dataclasses.replace(row, masked_ids=())
        rows.append(dataclasses.replace(free, allowed=bits_of(allowed)) if masked else row)
        forbidden = [id_ for id_ in range(VOCAB) if id_ not in allowed]
        twins.append(dataclasses.replace(free, masked_ids=forbidden) if masked else row)
    choice = sample(logits, rows, counts)
    assert choice.finite.all()
    assert torch.equal(choice.token_ids, sample(logits, twins, counts).token_ids)
    without = sample(logits, plain, counts).token_ids
    for token, (_, allowed), masked, other in zip(
        choice.token_ids.tolist(), drawn, under, without.tolist(), strict=True
    ):
        assert token in allowed if masked else token == other


def test_picking_the_likeliest_gives_what_sorting_all_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    pick = random.Random(5)
    noise = torch.Generator().manual_seed(5)
    for vocab in (1, 5, 300):
        logits = (torch.randn((40, vocab), generator=noise) * 2).round() / 2  # many ties
        logits[::7] = logits[::7].masked_fill(torch.rand(logits[::7].shape, generator=noise) < 0.9, -30.0)
        rows = [
            Row(
                SamplingParams(
                    temperature=pick.choice([0.3, 1.0, 2.0]),
                    top_k=pick.choice([-1, 0, 1, 2, 20, 299, 1000]),
                    top_p=pick.choice([1.0, 0.8, 0.1]),
                    min_p=pick.choice([0, 0.05]),
                    seed=pick.randrange(1000),
                ),
                pick.randrange(100),
            )
            for _ in logits
        ]
        picked = sample(logits, rows).token_ids
        assert len(set(picked.tolist())) > 1 or vocab == 1
        monkeypatch.setattr(sampler, "SMALL", 0)
        assert torch.equal(sample(logits, rows).token_ids, picked)
        monkeypatch.undo()


def test_an_unbounded_row_is_drawn_from_all_ids() -> None:
    for top_k in (0, -1):
        rows = [Row(SamplingParams(seed=seed, top_k=top_k), 3) for seed in range(50)]
        assert len(set(sample(torch.zeros((50, 8)), rows).token_ids.tolist())) == 8
