"""The answers of one call: their requests to the engine, their ids and seeds, their text and their ends."""

from __future__ import annotations

from typing import Any

import pytest

from octavo.answers import AnswerSet, Prompt
from octavo.engine.update import FinishReason, Update
from octavo.errors import RequestError, RequestFailedError
from octavo.messages import SampledToken
from octavo.sampling import SamplingParams, answer_seed
from octavo.text import NoTokenizer
from server.harness import byte_tokenizer

NOW_S = 7.0


def answer_set(stop: list[str] | None = None, **options: Any) -> AnswerSet:
    return AnswerSet("call", byte_tokenizer(), stop or [], 5.0, **options)


def news(request_id: str, text: bytes = b"", **fields: Any) -> Update:
    return Update(request_id=request_id, tokens=[SampledToken(0, byte, None) for byte in text], **fields)


def test_every_answer_gets_a_request_with_a_seed_of_its_own() -> None:
    answers = answer_set()
    prompts = [Prompt(0, [1, 2], None), Prompt(1, [3], "c")]
    requests = [request for prompt in prompts for request in answers.requests_for(prompt, SamplingParams(n=3, seed=9))]
    assert [list(request.prompt_token_ids) for request in requests] == [[1, 2]] * 3 + [[3]] * 3
    assert [request.sampling.seed for request in requests] == [9, answer_seed(9, 1), answer_seed(9, 2)] * 2
    assert {(request.sampling.n, request.arrival_s) for request in requests} == {(1, 5.0)}
    assert [answer.request_id for answer in answers] == [request.request_id for request in requests]
    assert [(answer.index, answer.prompt.index) for answer in answers] == [
        *((i, 0) for i in range(3)),
        *((i, 1) for i in range(3, 6)),
    ]
    assert [answer.index for answer in answers.firsts] == [0, 3]
    assert (len(answers), answers.running, answers.num_tokens) == (6, 6, 0)


def test_the_engine_gets_no_setting_of_how_tokens_are_read() -> None:
    """It copies what it gets for each of thousands of answers."""
    sampling = SamplingParams(n=2, stop=["cd"], logit_bias={7: 1.0}, logprobs=2, stream_interval=3)
    requests = list(answer_set(["cd"]).requests_for(Prompt(0, [1], None), sampling))
    assert {repr(request.sampling) for request in requests} == {repr(SamplingParams(logit_bias={7: 1.0}, logprobs=2))}


def test_no_two_sets_share_an_id() -> None:
    """Two calls may have the same id: the engine may still be ending the requests of the first."""
    sets = [answer_set(), answer_set(), answer_set(numbered=False), answer_set(numbered=False)]
    ids = [request.request_id for each in sets for request in each.requests_for(Prompt(0, [1], None), SamplingParams())]
    assert len(set(ids)) == len(ids)
    assert all(name.startswith("call.") for name in ids)


def test_text_grows_until_an_end_is_told() -> None:
    answers = answer_set()
    first, second = answers.requests_for(Prompt(0, [1], None), SamplingParams(n=2))
    assert answers.take(news(first.request_id, b"ab", num_cached_tokens=1), NOW_S)
    assert answers.take(news(second.request_id, b"x"), NOW_S)
    assert answers.take(news(first.request_id, b"c", finish_reason=FinishReason.LENGTH), NOW_S + 1)
    answer = answers[first.request_id]
    assert (answer.text, answer.finish_reason, answer.num_cached_tokens) == ("abc", "length", 1)
    assert (answer.first_s, answer.last_s) == (NOW_S, NOW_S + 1)
    assert (answers.running, answers.num_tokens) == (1, 4)


def test_a_stop_string_ends_an_answer_and_what_comes_later_is_not_taken() -> None:
    answers = answer_set(["cd"])
    (request,) = answers.requests_for(Prompt(0, [1], None), SamplingParams())
    assert answers.take(news(request.request_id, b"abcde"), NOW_S)
    answer = answers[request.request_id]
    assert (answer.text, answer.finish_reason, answer.stop_reason) == ("ab", "stop", "cd")
    assert not answers.take(news(request.request_id, b"f"), NOW_S)
    assert not answers.take(news(request.request_id, finish_reason=FinishReason.ABORT), NOW_S)
    assert (answer.text, answers.running, answers.num_tokens) == ("ab", 0, 4)


def test_an_end_from_outside_is_an_end_and_an_error_is_raised() -> None:
    answers = answer_set()
    first, second, third = answers.requests_for(Prompt(0, [1], None), SamplingParams(n=3))
    assert answers.take(news(first.request_id, finish_reason=FinishReason.ABORT), NOW_S)
    assert answers[first.request_id].finish_reason == "abort"
    error = RequestFailedError("its numbers are not finite")
    with pytest.raises(RequestFailedError, match="finite"):
        answers.take(news(second.request_id, finish_reason=FinishReason.ERROR, error=error), NOW_S)
    with pytest.raises(RequestFailedError):
        answers.take(news(third.request_id, finish_reason=FinishReason.ERROR), NOW_S)


def test_stop_strings_need_a_tokenizer() -> None:
    with pytest.raises(RequestError) as caught:
        AnswerSet("call", NoTokenizer(), ["x"], NOW_S)
    assert caught.value.param == "stop"
