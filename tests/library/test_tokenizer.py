"""The tokenizer of an `LLM` answers as Hugging Face's does for the same files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import transformers

from octavo import LLM
from octavo.errors import RequestError
from octavo.library.tokenizer import LLMTokenizer
from test_llm import mock_workers

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "há"}]
TEXTS = ["", "Hello, wörld", "a<|im_end|>b", "12 + 30 ="]


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[LLMTokenizer]:
    with LLM(workers=mock_workers) as opened:
        yield opened.get_tokenizer()


@pytest.fixture(scope="module")
def theirs(tokenizer: LLMTokenizer) -> Any:
    return transformers.AutoTokenizer.from_pretrained(tokenizer.name_or_path)


@pytest.mark.parametrize("text", TEXTS)
def test_texts(tokenizer: LLMTokenizer, theirs: Any, text: str) -> None:
    ids = theirs.encode(text)
    assert tokenizer.encode(text) == ids
    assert tokenizer.encode(text, add_special_tokens=False) == theirs.encode(text, add_special_tokens=False)
    assert tokenizer(text).input_ids == tokenizer(text)["input_ids"] == ids
    assert tokenizer([text, "b"])["input_ids"] == theirs([text, "b"])["input_ids"]
    assert tokenizer(text).attention_mask == [1] * len(ids)
    for skip in (False, True):
        assert tokenizer.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert tokenizer.batch_decode([ids, ids]) == theirs.batch_decode([ids, ids])
    assert tokenizer.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert tokenizer.convert_tokens_to_ids(theirs.convert_ids_to_tokens(ids)) == ids


def test_special_tokens_and_vocabulary(tokenizer: LLMTokenizer, theirs: Any) -> None:
    for name in ("eos_token", "eos_token_id", "pad_token", "pad_token_id", "bos_token", "bos_token_id"):
        assert getattr(tokenizer, name) == getattr(theirs, name), name
    assert tokenizer.decode(tokenizer.eos_token_id or 0) == tokenizer.eos_token
    assert set(theirs.all_special_ids) <= set(tokenizer.all_special_ids)
    assert tokenizer.get_vocab() == theirs.get_vocab()
    assert len(tokenizer) == len(theirs)


@pytest.mark.parametrize("generation", [False, True])
def test_chat_templates(tokenizer: LLMTokenizer, theirs: Any, generation: bool) -> None:
    text = theirs.apply_chat_template(TALK, tokenize=False, add_generation_prompt=generation)
    assert tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=generation) == text
    ids = theirs.apply_chat_template(TALK, add_generation_prompt=generation, return_dict=False)
    assert tokenizer.apply_chat_template(TALK, add_generation_prompt=generation) == ids
    assert tokenizer.apply_chat_template([TALK, TALK], tokenize=False, add_generation_prompt=generation) == [text] * 2
    assert tokenizer.apply_chat_template(TALK, add_generation_prompt=generation, return_dict=True).input_ids == ids
    own = "{% for message in messages %}{{ message.content }}{{ mark }}{% endfor %}"
    assert tokenizer.apply_chat_template(TALK, chat_template=own, tokenize=False, mark="!") == "hi!há!"
    assert tokenizer.chat_template == theirs.chat_template


def test_what_it_does_not_have(tokenizer: LLMTokenizer) -> None:
    with pytest.raises(RequestError) as error:
        tokenizer.apply_chat_template(TALK, return_tensors="pt")
    assert error.value.param == "return_tensors"
    with pytest.raises(AttributeError, match="AutoTokenizer"):
        tokenizer.save_pretrained  # type: ignore[attr-defined]  # noqa: B018
