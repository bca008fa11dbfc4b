"""What is accepted, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest

from engine.harness import config, request
from octavo.engine import Engine, Request
from octavo.engine.acceptance import accept, draw_seed
from octavo.errors import OverloadedError, RequestError
from octavo.sampling import SamplingParams
from octavo.testing.mock_worker import MockWorker

LIMITS = config(max_model_len=64, block_size=16, num_blocks=3)  # the pool allows 48 tokens


def test_the_one_limit_is_the_smaller_of_model_and_pool() -> None:
    assert accept(request("a", [1] * 47, max_tokens=9), LIMITS).limit == 48
    assert accept(request("a", [1] * 40, max_tokens=None), LIMITS).limit == 48
    assert accept(request("a", [1] * 40, max_tokens=3), LIMITS).limit == 43


@pytest.mark.parametrize("length", [48, 49, 480], ids="tokens{}".format)
def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers(length: int) -> None:
    with pytest.raises(RequestError, match=f"prompt has {length} tokens, but at most 47 fit") as caught:
        accept(request("a", [1] * length), LIMITS)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("length", [46, 47], ids="tokens{}".format)
def test_a_prompt_at_the_limit_is_served(length: int) -> None:
    engine = Engine(LIMITS, MockWorker(LIMITS))
    engine.add(request("a", [1] * length, max_tokens=None, ignore_eos=True))
    tokens = 0
    while engine.has_work:
        tokens += sum(len(update.tokens) for update in engine.step())
    assert tokens == 48 - length


@pytest.mark.parametrize("wrong", [-1, 97, 98, 2**31 - 1, 2**63 - 1], ids="id{}".format)
@pytest.mark.parametrize("field", ["prompt", "stop_token_ids", "logit_bias"])
def test_ids_outside_the_vocabulary_are_refused(field: str, wrong: int) -> None:
    prompt = [1, wrong, 2] if field == "prompt" else [1]
    sampling: dict[str, Any] = {"stop_token_ids": [wrong]} if field == "stop_token_ids" else {}
    sampling = {"logit_bias": {wrong: 1.0}} if field == "logit_bias" else sampling
    with pytest.raises(
        RequestError, match=rf"{field} holds token id {wrong} at index \d; ids go from 0 to 96"
    ) as caught:
        accept(request("a", prompt, **sampling), LIMITS)
    assert caught.value.param == field


@pytest.mark.parametrize("field", ["prompt", "stop_token_ids", "logit_bias"])
def test_the_last_id_of_the_vocabulary_is_accepted(field: str) -> None:
    sampling: dict[str, Any] = {"stop_token_ids": [96]} if field == "stop_token_ids" else {}
    sampling = {"logit_bias": {96: 1.0}} if field == "logit_bias" else sampling
    accept(request("a", [96], **sampling), LIMITS)


@pytest.mark.parametrize(
    ("prompt", "sampling", "param"),
    [
        pytest.param([], {}, "prompt", id="empty"),
        pytest.param([1, 2.5], {}, "prompt", id="float-id"),
        pytest.param([1, "2"], {}, "prompt", id="text-id"),
        pytest.param([2**70], {}, "prompt", id="id-past-64-bits"),
        pytest.param([1], {"logprobs": 21}, "logprobs", id="logprobs"),
        pytest.param([1], {"prompt_logprobs": 21}, "prompt_logprobs", id="prompt-logprobs"),
        pytest.param([1], {"n": 2, "temperature": 1.0}, "n", id="n"),
        pytest.param([1] * 40, {"max_tokens": 100, "min_tokens": 9}, "min_tokens", id="min-tokens-without-room"),
        pytest.param([1], {"top_k": 1.5}, "top_k", id="fractional-top-k"),
        pytest.param([1], {"seed": 2.0**40 + 0.5}, "seed", id="fractional-seed"),
        pytest.param([1], {"stop": [b"x"]}, "stop", id="bytes-stop"),
    ],
)
def test_refused(prompt: list[int], sampling: dict[str, object], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        accept(request("a", prompt, **sampling), LIMITS)
    assert caught.value.param == param


def test_seed_is_drawn_once_and_for_all() -> None:
    sampling = SamplingParams(temperature=1.0)
    first, again, other = (accept(Request(i, [1], sampling), LIMITS).sampling.seed for i in ("a", "a", "b"))
    assert first == again != other
    assert first == draw_seed(LIMITS.seed, "a") == 140742745180244919
    assert accept(Request("a", [1], sampling), config(seed=1)).sampling.seed != first
    assert accept(Request("a", [1], sampling.replace(seed=5)), LIMITS).sampling.seed == 5
    assert accept(request("a", [1]), LIMITS).sampling.seed is None


def test_eos_ends_unless_ignored() -> None:
    assert accept(request("a", [1], stop_token_ids=[3]), LIMITS).stop_ids == {3, 96}
    assert accept(request("a", [1], stop_token_ids=[3], ignore_eos=True), LIMITS).stop_ids == {3}


def engine(**bounds: int) -> Engine:
    limits = config(max_num_seqs=1, **bounds)
    return Engine(limits, MockWorker(limits))


def test_queue_of_requests_is_bounded() -> None:
    bounded = engine(max_num_queued_reqs=2)
    bounded.add(request("a", [1]))
    bounded.add(request("b", [1]))
    with pytest.raises(OverloadedError, match="max_num_queued_reqs is 2"):
        bounded.add(request("c", [1]))
    bounded.step()
    bounded.add(request("c", [1]))


def test_queue_of_tokens_is_bounded_but_an_empty_one_takes_any_request() -> None:
    bounded = engine(max_num_queued_tokens=10)
    bounded.add(request("a", [1] * 50))
    with pytest.raises(OverloadedError, match="max_num_queued_tokens is 10"):
        bounded.add(request("b", [1]))
    bounded.step()
    bounded.add(request("b", [1] * 6))
    bounded.add(request("c", [1] * 4))
    with pytest.raises(OverloadedError, match=r"10 .* 1"):
        bounded.add(request("d", [1]))


def test_an_id_in_use_is_refused() -> None:
    busy = engine()
    busy.add(request("a", [1], max_tokens=1))
    with pytest.raises(RequestError, match="'a'"):
        busy.add(request("a", [1]))
    while busy.has_work:
        busy.step()
    busy.add(request("a", [1]))


@pytest.mark.parametrize("field", ["stop_token_ids", "allowed_token_ids", "logprob_token_ids"])
def test_ids_of_the_wrong_type_are_named(field: str) -> None:
    with pytest.raises(RequestError, match="wrong type") as caught:
        accept(request("a", [1], **{field: ["x"]}), LIMITS)
    assert caught.value.param == field
