"""The real openai client against every field that must be honoured."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from octavo.sampling import answer_seed
from octavo.text import DefaultSampling
from server.harness import EOS, Running, byte_tokenizer, running

BYTES = byte_tokenizer()
MESSAGES: Any = [{"role": "user", "content": "hi"}]
RENDERED = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
EXTRA: dict[str, Any] = {"return_token_ids": True, "ignore_eos": True}


def made(client: openai.OpenAI, prompt: Any = "hello", extra: dict[str, Any] | None = None, **fields: Any) -> Any:
    """A completion of the tokens 'hello' with its token ids; 8 tokens unless told."""
    fields = {"max_tokens": 8, "seed": 3, **fields}
    return client.completions.create(model="mock", prompt=prompt, extra_body={**EXTRA, **(extra or {})}, **fields)


def streamed_text(chunks: Any) -> str:
    return "".join(choice.text for chunk in chunks for choice in chunk.choices)


def test_a_completion(client: openai.OpenAI) -> None:
    answer = made(client)
    assert answer.id.startswith("cmpl-")
    assert (answer.object, answer.model) == ("text_completion", "mock")
    assert answer.system_fingerprint.startswith("octavo-0.")
    choice = answer.choices[0]
    assert (choice.index, choice.finish_reason, choice.stop_reason, choice.logprobs) == (0, "length", None, None)
    assert choice.prompt_token_ids == list(b"hello")
    assert len(choice.token_ids) == 8
    assert choice.text == BYTES.decode(choice.token_ids)
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 8, 13)
    assert usage.prompt_tokens_details.cached_tokens == 0


def test_the_default_length_is_16_or_what_fits(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="mock", prompt="x", extra_body={"ignore_eos": True})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16
    answer = client.completions.create(model="mock", prompt=[1] * 505, extra_body={"ignore_eos": True})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 7


@pytest.mark.parametrize(
    ("prompt", "lengths"),
    [("ab", [2]), (["ab", "c"], [2, 1]), ([1, 2, 3], [3]), ([[1, 2], [3]], [2, 1])],
    ids=["text", "texts", "ids", "lists of ids"],
)
def test_prompts(client: openai.OpenAI, prompt: Any, lengths: list[int]) -> None:
    answer = made(client, prompt, n=2)
    assert [choice.index for choice in answer.choices] == list(range(2 * len(lengths)))
    assert [len(choice.prompt_token_ids) for choice in answer.choices[::2]] == lengths
    assert answer.usage.prompt_tokens == sum(lengths)


def test_n_answers_have_seeds_by_rule(client: openai.OpenAI) -> None:
    together = [choice.token_ids for choice in made(client, n=3, seed=11).choices]
    alone = [made(client, seed=answer_seed(11, index)).choices[0].token_ids for index in range(3)]
    assert together == alone
    assert len({tuple(ids) for ids in together}) == 3


def test_a_stream_tells_what_the_whole_tells(client: openai.OpenAI) -> None:
    whole = made(client, n=2, max_tokens=40)
    chunks = list(made(client, n=2, max_tokens=40, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        mine = [piece for chunk in chunks for piece in chunk.choices if piece.index == choice.index]
        assert "".join(piece.text for piece in mine) == choice.text
        assert [id_ for piece in mine for id_ in piece.token_ids] == choice.token_ids
        assert [piece.finish_reason for piece in mine][-1] == "length"
        assert not any(piece.finish_reason for piece in mine[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 80
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_running_usage(client: openai.OpenAI) -> None:
    chunks = list(made(client, stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 8


def test_stop_strings(client: openai.OpenAI) -> None:
    text = made(client, max_tokens=40).choices[0].text
    stop = text[10:12]
    before = text[: text.index(stop)]
    for stream in (False, True):
        answer = made(client, max_tokens=40, stop=["never there", stop], stream=stream)
        choices = [choice for chunk in answer for choice in chunk.choices] if stream else answer.choices
        assert "".join(choice.text for choice in choices) == before
        assert (choices[-1].finish_reason, choices[-1].stop_reason) == ("stop", stop)
    shown = made(client, max_tokens=40, stop=stop, extra={"include_stop_str_in_output": True})
    assert shown.choices[0].text == before + stop
    assert shown.usage.completion_tokens < 40


def test_stop_token_ids_eos_and_min_tokens(client: openai.OpenAI) -> None:
    ids = made(client, max_tokens=40).choices[0].token_ids
    stop = ids[5]
    first = ids.index(stop)
    choice = made(client, max_tokens=40, extra={"stop_token_ids": [stop]}).choices[0]
    assert (choice.finish_reason, choice.stop_reason, choice.token_ids) == ("stop", stop, ids[: first + 1])
    assert choice.text == BYTES.decode(ids[:first])
    choice = made(client, max_tokens=40, extra={"stop_token_ids": [stop], "min_tokens": 20}).choices[0]
    assert len(choice.token_ids) >= 20
    ended = [
        choice
        for choice in made(client, [[id_] for id_ in range(64)], max_tokens=64, extra={"ignore_eos": False}).choices
        if choice.finish_reason == "stop"
    ]
    assert ended
    assert all(choice.token_ids[-1] == EOS and choice.stop_reason is None for choice in ended)
    assert not any("<|im_end|>" in choice.text for choice in ended)


def test_skip_special_tokens(client: openai.OpenAI) -> None:
    hidden = made(client, max_tokens=400).choices[0]
    shown = made(client, max_tokens=400, extra={"skip_special_tokens": False}).choices[0]
    assert hidden.text == BYTES.decode(hidden.token_ids)
    assert shown.text == BYTES.decode(shown.token_ids, skip_special_tokens=False)
    assert shown.text != hidden.text


def test_legacy_logprobs(client: openai.OpenAI) -> None:
    choice = made(client, logprobs=2, echo=True).choices[0]
    scores = choice.logprobs
    assert choice.text.startswith("hello")
    assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.top_logprobs) == len(scores.text_offset) == 13
    assert scores.tokens[:5] == list("hello")
    assert scores.text_offset[:6] == [0, 1, 2, 3, 4, 5]
    assert scores.token_logprobs[0] is None
    assert scores.top_logprobs[0] is None
    assert all(value <= 0 for value in scores.token_logprobs[1:])
    assert all(2 <= len(top) <= 3 for top in scores.top_logprobs[1:])
    for offset, token in zip(scores.text_offset, scores.tokens, strict=True):
        if len(token) == 1:
            assert choice.text[offset:].lstrip("\ufffd").startswith(token)


@pytest.mark.parametrize("echo", [False, True], ids=["answer", "echo"])
def test_streamed_legacy_logprobs(client: openai.OpenAI, echo: bool) -> None:
    whole = made(client, logprobs=1, echo=echo, max_tokens=30).choices[0]
    chunks = list(made(client, logprobs=1, echo=echo, max_tokens=30, stream=True))
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        parts = [value for chunk in chunks for value in getattr(chunk.choices[0].logprobs, name)]
        assert parts == getattr(whole.logprobs, name)
    assert streamed_text(chunks) == whole.text


def test_scores_of_a_prompt_alone(client: openai.OpenAI) -> None:
    """As lm_eval asks for log-likelihoods: lists of token ids, echo, logprobs=1, and one token more or none."""
    prompts = [list(b"The answer"), list(b"42"), [7]]
    one = made(client, prompts, max_tokens=1, echo=True, logprobs=1, temperature=0, seed=1234)
    none = made(client, prompts, max_tokens=0, echo=True, logprobs=1, temperature=0, seed=1234)
    for prompt, with_one, alone in zip(prompts, one.choices, none.choices, strict=True):
        assert with_one.logprobs.token_logprobs[:-1] == alone.logprobs.token_logprobs
        assert len(alone.logprobs.token_logprobs) == len(prompt)
        assert alone.logprobs.token_logprobs[0] is None
        assert all(isinstance(value, float) for value in alone.logprobs.token_logprobs[1:])
        assert all(max(top.values()) <= 0 for top in alone.logprobs.top_logprobs[1:])
        assert alone.text == BYTES.decode(prompt)
        assert alone.finish_reason == "length"


def test_prompt_logprobs(client: openai.OpenAI) -> None:
    choice = made(client, extra={"prompt_logprobs": 1}).choices[0]
    assert choice.prompt_logprobs[0] is None
    assert len(choice.prompt_logprobs) == 5
    for id_, entry in zip(b"ello", choice.prompt_logprobs[1:], strict=True):
        assert entry[str(id_)]["decoded_token"] == chr(id_)
        assert entry[str(id_)]["rank"] >= 1
    chat: Any = client.chat.completions.create(
        model="mock", messages=MESSAGES, max_tokens=1, extra_body={"prompt_logprobs": 0, "return_token_ids": True}
    )
    assert len(chat.prompt_logprobs) == len(chat.prompt_token_ids) == len(BYTES.encode(RENDERED))


def test_a_chat(client: openai.OpenAI) -> None:
    answer: Any = client.chat.completions.create(
        model="alias", messages=MESSAGES, max_completion_tokens=8, max_tokens=99, n=2, seed=3, extra_body=EXTRA
    )
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", "alias")
    assert answer.prompt_token_ids == BYTES.encode(RENDERED)
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert choice.message.role == "assistant"
        assert choice.message.content == BYTES.decode(choice.token_ids)
        assert (choice.finish_reason, len(choice.token_ids)) == ("length", 8)


def test_a_chat_takes_all_the_room_there_is(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="mock", messages=MESSAGES, extra_body={"ignore_eos": True})
    assert answer.usage is not None
    assert answer.usage.total_tokens == 512


def test_a_chat_stream(client: openai.OpenAI) -> None:
    fields: Any = {"model": "mock", "messages": MESSAGES, "max_tokens": 30, "seed": 3, "extra_body": EXTRA}
    whole: Any = client.chat.completions.create(**fields)
    chunks: Any = list(client.chat.completions.create(**fields, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    assert chunks[0].prompt_token_ids == whole.prompt_token_ids
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"


def test_chat_logprobs(client: openai.OpenAI) -> None:
    fields: Any = {"model": "mock", "messages": MESSAGES, "max_tokens": 20, "logprobs": True, "seed": 3}
    whole = client.chat.completions.create(**fields, top_logprobs=2, extra_body=EXTRA)
    assert whole.choices[0].logprobs is not None
    content = whole.choices[0].logprobs.content or []
    ids = whole.choices[0].token_ids
    assert [bytes(entry.bytes or []) for entry in content] == [BYTES.piece(id_) for id_ in ids]
    assert all(len(entry.top_logprobs) == 2 and entry.logprob <= 0 for entry in content)
    chunks = client.chat.completions.create(**fields, top_logprobs=2, stream=True, extra_body=EXTRA)
    streamed = [entry for chunk in chunks for c in chunk.choices if c.logprobs for entry in c.logprobs.content or []]
    assert [entry.model_dump() for entry in streamed] == [entry.model_dump() for entry in content]
    without = client.chat.completions.create(**fields)
    assert without.choices[0].logprobs is not None
    assert all(entry.top_logprobs == [] for entry in without.choices[0].logprobs.content or [])


@pytest.mark.parametrize(
    ("messages", "extra", "rendered"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], {}, "a\nb"),
        (MESSAGES, {"add_generation_prompt": False}, "<|im_start|>user\nhi<|im_end|>\n"),
        (MESSAGES, {"chat_template_kwargs": {"shout": True}}, f"{RENDERED}LOUD"),
        (
            [*MESSAGES, {"role": "assistant", "content": "I am"}],
            {"add_generation_prompt": False, "continue_final_message": True},
            "<|im_end|>\n<|im_start|>assistant\nI am",
        ),
        (MESSAGES, {"add_special_tokens": True}, RENDERED),
    ],
    ids=["text parts", "no generation prompt", "kwargs", "continue", "special tokens"],
)
def test_how_messages_become_a_prompt(client: openai.OpenAI, messages: Any, extra: Any, rendered: str) -> None:
    answer: Any = client.chat.completions.create(
        model="mock", messages=messages, max_tokens=1, extra_body={**EXTRA, **extra}
    )
    assert rendered in BYTES.decode(answer.prompt_token_ids, skip_special_tokens=False)


def test_every_other_field_is_taken(client: openai.OpenAI, server: Running) -> None:
    sampling: Any = {"temperature": 0.5, "top_p": 0.9, "presence_penalty": 0.1, "frequency_penalty": -0.1}
    extra = {"top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1, "spaces_between_special_tokens": False, "best_of": 1}
    made(client, **sampling, logit_bias={"5": 3}, user="me", extra={**extra, "request_id": "mine", "tools": []})
    admitted = server.worker.plans[-1].admissions or next(
        p.admissions for p in reversed(server.worker.plans) if p.admissions
    )
    seen = admitted[-1].sampling
    for name, value in {**sampling, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 3}.items():
        assert getattr(seen, name) == value
    assert seen.logit_bias == {5: 3.0}
    client.chat.completions.create(
        model="mock",
        messages=MESSAGES,
        max_tokens=1,
        store=False,
        metadata={"a": "b"},
        response_format={"type": "text"},
    )


def test_tiny_temperatures_are_raised_and_seed_minus_one_is_none(client: openai.OpenAI, server: Running) -> None:
    made(client, temperature=1e-9, seed=-1)
    seen = next(p.admissions for p in reversed(server.worker.plans) if p.admissions)[-1].sampling
    assert seen.temperature == 0.01
    assert seen.seed not in (None, -1)


def test_equal_requests_get_equal_tokens(client: openai.OpenAI) -> None:
    assert made(client).choices[0].token_ids == made(client).choices[0].token_ids
    assert made(client, seed=4).choices[0].token_ids != made(client, seed=5).choices[0].token_ids


def test_cached_tokens(client: openai.OpenAI) -> None:
    prompt = list(range(100, 164))
    made(client, prompt)
    usage = made(client, prompt).usage
    assert usage.prompt_tokens_details.cached_tokens == 48
    two = made(client, [prompt, prompt], n=2).usage
    assert (two.prompt_tokens, two.prompt_tokens_details.cached_tokens) == (128, 96)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["mock", "alias"]
    model: Any = client.models.retrieve("alias")
    assert (model.id, model.root, model.max_model_len, model.owned_by) == ("alias", "mock", 512, "octavo")
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.models.retrieve("gpt-4")


def test_errors_reach_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        made(client, temperature=3.0)
    assert (caught.value.param, caught.value.type) == ("temperature", "BadRequestError")
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4", prompt="x")


def test_defaults_of_the_model() -> None:
    defaults = DefaultSampling({"temperature": 0.3, "top_k": 7}, max_tokens=5)
    with (
        running(defaults=defaults) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
    ):
        answer: Any = client.chat.completions.create(model="mock", messages=MESSAGES, extra_body=EXTRA)
        seen = server.worker.plans[0].admissions[0].sampling
        assert (seen.temperature, seen.top_k, len(answer.choices[0].token_ids)) == (0.3, 7, 5)
        made(client, temperature=0.9, max_tokens=3)
        seen = next(p.admissions for p in reversed(server.worker.plans) if p.admissions)[-1].sampling
        assert (seen.temperature, seen.top_k, seen.max_tokens) == (0.9, 7, 3)


def test_without_tokenizer_and_template() -> None:
    from octavo.text import NoTokenizer

    with (
        running(tokenizer=NoTokenizer(), template=None) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
    ):
        choice = made(client, [1, 2, 3], logprobs=1).choices[0]
        assert (choice.text, len(choice.token_ids)) == ("", 8)
        with pytest.raises(openai.BadRequestError, match="token ids"):
            made(client, "text")
        with pytest.raises(openai.BadRequestError, match="stop_token_ids"):
            made(client, [1], stop="x")
        with pytest.raises(openai.BadRequestError, match="no chat template"):
            client.chat.completions.create(model="mock", messages=MESSAGES)
