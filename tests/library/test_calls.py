"""`LLM` as vLLM's users call it: arguments by place and by name, and an error with a remedy for what is not served."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tqdm import tqdm

import octavo
from octavo import LLM, EngineArgs, RequestOutput, SamplingParams, TextPrompt, TokensPrompt
from octavo.errors import ConfigError, OctavoError, RequestError
from octavo.library.engine_args import KEYWORDS
from octavo.library.prompts import GivenPrompt
from octavo.library.unserved import ATTRIBUTES
from test_llm import mock_workers

SOME = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
TALK = [{"role": "user", "content": "hi"}]
TEMPLATE = "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}{{ mark }}"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(workers=mock_workers, max_model_len="1k") as opened:
        yield opened


def tokens(outputs: list[RequestOutput]) -> list[list[int]]:
    return [list(output.outputs[0].token_ids) for output in outputs]


def test_prompts_in_every_form(llm: LLM) -> None:
    ids = [97, 98, 99]
    expected = tokens(llm.generate("abc", SOME, False))
    prompts: list[GivenPrompt] = [
        "abc",
        ids,
        TextPrompt(prompt="abc"),
        TokensPrompt(prompt_token_ids=ids),
        {"prompt": "abc", "multi_modal_data": None},
        {"prompt_token_ids": ids, "prompt": "abc"},
    ]
    for prompt in prompts:
        assert tokens(llm.generate(prompt, SOME, False)) == expected
        assert tokens(llm.generate([prompt, prompt], [SOME, SOME], False)) == expected * 2
    assert tokens(llm.generate(prompts=("abc", ids), sampling_params=SOME, use_tqdm=False)) == expected * 2
    assert tokens(llm.generate(prompt_token_ids=[ids], sampling_params=SOME, use_tqdm=False)) == expected
    assert llm.generate([], SOME) == []


def test_arguments_that_ask_for_nothing(llm: LLM) -> None:
    expected = tokens(llm.generate("abc", SOME, False))
    assert tokens(llm.generate("abc", SOME, False, None, [0], {})) == expected
    assert (
        tokens(llm.generate(["abc"], SOME, use_tqdm=False, lora_request=[None], tokenization_kwargs=None)) == expected
    )
    without = llm.generate("abc", SOME, False, tokenization_kwargs={"add_special_tokens": False})
    assert tokens(without) == expected
    expected = tokens(llm.chat(TALK, SOME, False))
    assert tokens(llm.chat(TALK, SOME, False, None, None, "auto", True, False, None, None, None, None)) == expected
    assert tokens(llm.chat([TALK, TALK], [SOME, SOME], use_tqdm=False, tools=[], chat_template_kwargs={})) == (
        expected * 2
    )


def test_tools_are_shown_by_the_template(llm: LLM) -> None:
    template = "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}{{ messages[0].content }}"
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    (output,) = llm.chat(TALK, SOME, False, chat_template=template, tools=tools)
    assert output.prompt == '{"type": "function", "function": {"name": "f", "parameters": {}}}hi'
    made = llm.get_tokenizer().apply_chat_template(TALK, tools, chat_template=template, tokenize=False)
    assert made == output.prompt


def test_templates_of_a_call(llm: LLM) -> None:
    (output,) = llm.chat(TALK, SOME, False, chat_template=TEMPLATE, chat_template_kwargs={"mark": "!"})
    assert output.prompt == "[user]hi!"
    (parts,) = llm.chat(TALK, SOME, False, chat_template=TEMPLATE, chat_template_content_format="openai")
    assert parts.prompt == "[user][{'type': 'text', 'text': 'hi'}]"
    talk = [*TALK, {"role": "assistant", "content": "I am"}]
    (more,) = llm.chat(talk, SOME, False, add_generation_prompt=False, continue_final_message=True)
    assert more.prompt is not None
    assert more.prompt.endswith("I am")


def test_what_makes_the_bar(llm: LLM) -> None:
    made: list[dict[str, Any]] = []

    def bar(**arguments: Any) -> tqdm[Any]:
        made.append(arguments)
        return tqdm(**arguments, disable=True)

    llm.generate(["a", "b"], SOME, bar)
    assert [arguments["total"] for arguments in made] == [2]


def test_answers_without_a_text(llm: LLM) -> None:
    (output,) = llm.generate("abc", SOME.replace(detokenize=False, logprobs=0), False)
    (answer,) = output.outputs
    assert (answer.text, len(answer.token_ids)) == ("", 6)
    assert answer.logprobs is not None
    assert {each.decoded_token for entry in answer.logprobs for each in entry.values()} == {None}
    assert answer.finished()
    assert (output.lora_request, answer.lora_request) == (None, None)
    assert output.metrics.first_token_latency is not None


@pytest.mark.parametrize(
    ("call", "param"),
    [
        (lambda llm: llm.generate("a", SOME, lora_request=object()), "lora_request"),
        (lambda llm: llm.generate(["a", "b"], SOME, lora_request=[None, object()]), "lora_request"),
        (lambda llm: llm.generate("a", SOME, priority=[1]), "priority"),
        (lambda llm: llm.generate(["a", "b"], SOME, priority=[1]), "priority"),
        (lambda llm: llm.generate("a", SOME, priority=["soon"]), "priority"),
        (
            lambda llm: llm.generate("a", SOME, tokenization_kwargs={"truncate_prompt_tokens": 0}),
            "truncate_prompt_tokens",
        ),
        (lambda llm: llm.generate({"prompt": "a", "cache_salt": ""}, SOME), "cache_salt"),
        (lambda llm: llm.generate("a", SOME.replace(bad_words=[""])), "bad_words"),
        (lambda llm: llm.generate("a", SOME.replace(allowed_token_ids=[])), "allowed_token_ids"),
        (lambda llm: llm.generate("a", SOME.replace(allowed_token_ids=[10**6])), "allowed_token_ids"),
        (lambda llm: llm.generate("a", SOME.replace(logprob_token_ids=list(range(129)))), "logprob_token_ids"),
        (lambda llm: llm.generate("a", SOME, tokenization_kwargs={"padding": True}), "tokenization_kwargs"),
        (lambda llm: llm.generate("a", {"max_tokens": 1}), "sampling_params"),
        (lambda llm: llm.generate("a", [SOME, SOME]), "sampling_params"),
        (lambda llm: llm.generate(), "prompts"),
        (lambda llm: llm.generate(5, SOME), "prompts"),
        (lambda llm: llm.generate([5.5], SOME), "prompt"),
        (lambda llm: llm.generate([["a"]], SOME), "prompt"),
        (lambda llm: llm.generate({"prompt": 5}, SOME), "prompt"),
        (lambda llm: llm.generate({"prompt": "a", "colour": 5}, SOME), "colour"),
        (lambda llm: llm.generate({"prompt_token_ids": "abc"}, SOME), "prompt_token_ids"),
        (lambda llm: llm.generate({"prompt_embeds": [1.0]}, SOME), "prompt_embeds"),
        (lambda llm: llm.generate({"a", "b"}, SOME), "prompts"),
        (lambda llm: llm.generate({"a": 1}.keys(), SOME), "prompts"),
        (lambda llm: llm.generate((text for text in "ab"), SOME), "prompts"),
        (lambda llm: llm.generate("a", SOME, priority=(number for number in [0])), "priority"),
        (lambda llm: llm.generate("a", SOME, tokenization_kwargs=["truncate_prompt_tokens"]), "tokenization_kwargs"),
        (lambda llm: llm.generate("a", SOME.replace(bad_words=["\ud800"])), "bad_words"),
        (lambda llm: llm.chat(None, SOME), "messages"),
        (lambda llm: llm.chat((turn for turn in TALK), SOME), "messages"),
        (lambda llm: llm.chat("hello", SOME), "messages"),
        (lambda llm: llm.chat([TALK, None], SOME), "messages"),
        (lambda llm: llm.chat(TALK, SOME, tools=5), "tools"),
        (lambda llm: llm.chat(TALK, SOME, chat_template_kwargs="enable_thinking"), "chat_template_kwargs"),
        (lambda llm: llm.chat(TALK, SOME, mm_processor_kwargs={"a": 1}), "mm_processor_kwargs"),
        (lambda llm: llm.chat(TALK, SOME, chat_template_content_format="xml"), "chat_template_content_format"),
    ],
)
def test_what_is_refused(llm: LLM, call: Any, param: str) -> None:
    with pytest.raises(RequestError) as error:
        call(llm)
    assert error.value.param == param
    assert not llm._engine.has_work


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_an_attribute_that_vllm_has(llm: LLM, name: str) -> None:
    with pytest.raises(AttributeError) as error:
        getattr(llm, name)
    assert ATTRIBUTES[name] in str(error.value)


def test_names_that_the_package_does_not_have() -> None:
    for name in ("LLMEngine", "BeamSearchParams"):
        with pytest.raises(ImportError) as error:
            exec(f"from octavo import {name}")
        assert "instead" in str(error.value) or ":" in str(error.value)
    assert not hasattr(octavo, "something_else")


def test_threads_take_turns(llm: LLM) -> None:
    prompts = [f"{number} and so on" for number in range(6)]
    found: dict[str, list[list[int]]] = {}
    threads = [
        threading.Thread(target=lambda prompt=prompt: found.update({prompt: tokens(llm.generate(prompt, SOME, False))}))
        for prompt in prompts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {prompt: tokens(llm.generate(prompt, SOME, False)) for prompt in prompts}


VLLMS: dict[str, Any] = {
    "task": "generate",
    "tokenizer": None,
    "tokenizer_mode": "auto",
    "skip_tokenizer_init": False,
    "allowed_local_media_path": "",
    "tensor_parallel_size": 1,
    "dtype": "bfloat16",
    "quantization": None,
    "revision": None,
    "seed": None,
    "gpu_memory_utilization": 0.9,
    "cpu_offload_gb": 0,
    "enforce_eager": True,
    "hf_token": None,
    "hf_overrides": None,
    "pooler_config": None,
    "kv_cache_dtype": "auto",
    "max_num_batched_tokens": None,
    "disable_log_stats": True,
    "enable_lora": False,
    "enable_chunked_prefill": True,
    "distributed_executor_backend": "mp",
    "logits_processors": None,
    "worker_cls": "auto",
}


def test_keywords_that_vllms_users_write(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        args = EngineArgs("octavo-tiny", **VLLMS)
    assert caplog.messages == [], "all of it is so anyway"
    assert (args.seed, args.enforce_eager, args.gpu_memory_utilization) == (0, True, 0.9)
    with LLM.from_engine_args(args, workers=mock_workers) as opened:
        assert opened.settings == args.settings


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("swap_space", 4), ("trust_remote_code", True), ("max_seq_len_to_capture", 8192), ("port", 8001)],
)
def test_a_keyword_without_an_effect_is_told(keyword: str, value: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        EngineArgs(**{keyword: value})
    (line,) = caplog.messages
    assert keyword.replace("_", "-") in line.replace("_", "-")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("tensor_parallel_size", 2), ("enable_lora", True), ("speculative_model", "x"), ("worker_cls", "mine.Worker")],
)
def test_a_keyword_that_cannot_be_honoured(keyword: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        EngineArgs(**{keyword: value})
    assert keyword.replace("_", "-") in str(error.value).replace("_", "-")


def test_every_keyword_takes_none() -> None:
    nothing: dict[str, Any] = dict.fromkeys(KEYWORDS)
    EngineArgs(**nothing)
    with pytest.raises(OctavoError, match="max_model_len"):
        EngineArgs(max_model_length=5)


def test_what_bounds_the_sampling(llm: LLM) -> None:
    free = SamplingParams(temperature=1, seed=1, max_tokens=40, ignore_eos=True, allowed_token_ids=[97, 98])
    (output,) = llm.generate("abc", free.replace(bad_words=["ab"]), False)
    assert "ab" not in output.outputs[0].text
    assert set(output.outputs[0].token_ids) == {97, 98}
    (scored,) = llm.generate("abc", SOME.replace(logprob_token_ids=[5, 3]), False)
    for token_id, entry in zip(scored.outputs[0].token_ids, scored.outputs[0].logprobs or [], strict=True):
        assert set(entry) == {token_id, 5, 3}
        assert {entry[id_].rank for id_ in (5, 3) if id_ != token_id} == {None}


def test_prompts_that_are_cut_and_salted(llm: LLM) -> None:
    (cut,) = llm.generate("hello", SOME, False, tokenization_kwargs={"truncate_prompt_tokens": 3})
    assert (cut.prompt, cut.prompt_token_ids) == ("llo", list(b"llo"))
    (most,) = llm.generate("x" * 5000, SOME, False, tokenization_kwargs={"truncate_prompt_tokens": -1})
    assert len(most.prompt_token_ids) == llm.max_model_len - 6
    long = "a prompt of several blocks" * 4
    cached = [
        llm.generate({"prompt": long, "cache_salt": salt}, SOME, False)[0].num_cached_tokens > 0
        for salt in ("a", "a", "b")
    ]
    assert cached == [False, True, False]
