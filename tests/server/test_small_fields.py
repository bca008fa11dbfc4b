"""Fields of vLLM's that bound what is sampled, say what is told of it, cut prompts, and part the prefix cache."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from server.harness import TEMPLATE, Running, running

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
FREE = {"temperature": 1.0, "seed": 3, "ignore_eos": True, "max_tokens": 40, "return_token_ids": True}
TALK = [{"role": "user", "content": "hi"}]
SHOWING = "{% for document in documents or [] %}<{{ document.title }}>{% endfor %}" + TEMPLATE


@pytest.fixture(scope="module")
def showing() -> Iterator[Running]:
    """A server whose template shows documents, and which honours priorities."""
    with running(template=SHOWING, engine={"priorities": True, "max_num_seqs": 1}) as server:
        yield server


def ask(server: Running, path: str = COMPLETIONS, **fields: Any) -> Any:
    body = {"prompt": "hello"} if path == COMPLETIONS else {"messages": TALK}
    answer = server.http.post(path, json={**body, **FREE, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_nothing_but_allowed_ids_is_sampled(server: Running, path: str) -> None:
    allowed = [65, 66, 90, 200]
    (choice,) = ask(server, path, allowed_token_ids=allowed)["choices"]
    assert len(choice["token_ids"]) == 40
    assert set(choice["token_ids"]) <= set(allowed)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_bad_words_are_never_made(server: Running, path: str) -> None:
    letters = {"allowed_token_ids": [97, 98, 99]}
    free, bound = ask(server, path, **letters), ask(server, path, **letters, bad_words=["ab", "cc", "bca"])
    made = ["".join(map(chr, told["choices"][0]["token_ids"])) for told in (free, bound)]
    assert [any(word in text for word in ("ab", "cc", "bca")) for text in made] == [True, False]


def test_where_nothing_is_left_the_error_says_so(server: Running) -> None:
    fields = {"prompt": "x", **FREE, "allowed_token_ids": [97], "bad_words": ["aa"]}
    answer = server.http.post(COMPLETIONS, json=fields)
    assert answer.status_code == 500
    assert "bad_words" in answer.json()["error"]["message"]


def test_a_grammar_and_bounds_hold_together(server: Running) -> None:
    fields: dict[str, Any] = {"structured_outputs": {"regex": "[abc]{12}"}, "ignore_eos": False}
    (choice,) = ask(server, **fields, bad_words=["ab", "cc"], allowed_token_ids=[97, 98, 99, 120])["choices"]
    assert re.fullmatch("[abc]{12}", choice["text"])
    assert "ab" not in choice["text"]
    assert "cc" not in choice["text"]
    for bound in ({"bad_words": ["ab"]}, {"allowed_token_ids": [120]}):
        none = {"prompt": "x", **FREE, "structured_outputs": {"choice": ["ab"]}, **bound}
        answer = server.http.post(COMPLETIONS, json=none)
        assert answer.status_code == 500
        assert "grammar" in answer.json()["error"]["message"], "it says that it is what the grammar leaves"


def test_the_scores_of_given_ids(server: Running) -> None:
    ids = [250, 66, 65]
    told = ask(server, logprobs=3, logprob_token_ids=ids, return_tokens_as_token_ids=True, max_tokens=4)["choices"][0]
    names = [f"token_id:{id_}" for id_ in ids]
    assert told["logprobs"]["tokens"] == [f"token_id:{id_}" for id_ in told["token_ids"]]
    for id_, top in zip(told["token_ids"], told["logprobs"]["top_logprobs"], strict=True):
        assert list(top) == [*names, *([] if id_ in ids else [f"token_id:{id_}"])]
    talked = ask(server, CHAT, logprobs=True, logprob_token_ids=ids, return_tokens_as_token_ids=True, max_tokens=2)
    for entry in talked["choices"][0]["logprobs"]["content"]:
        assert [top["token"] for top in entry["top_logprobs"]] == names
        assert entry["token"].startswith("token_id:")
    assert ask(server, logprobs=0, max_tokens=1)["choices"][0]["logprobs"]["tokens"] != names


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate_prompt_tokens": 3}, "llo"),
        ({"truncate_prompt_tokens": 3, "truncation_side": "right"}, "hel"),
        ({"truncate_prompt_tokens": 9}, "hello"),
        ({"truncate_prompt_tokens": -1}, "hello"),
    ],
)
def test_a_prompt_that_is_cut(server: Running, fields: dict[str, Any], kept: str) -> None:
    told = ask(server, echo=True, **fields)["choices"][0]
    assert told["prompt_token_ids"] == list(kept.encode())
    assert told["text"].startswith(kept)
    assert told["token_ids"][-40:] == ask(server, prompt=kept)["choices"][0]["token_ids"], "as if sent so"


def test_a_prompt_cut_to_what_fits_leaves_room_for_the_answer(server: Running) -> None:
    told = ask(server, prompt="x" * 5000, truncate_prompt_tokens=-1)
    assert told["usage"]["prompt_tokens"] == 512 - 40
    talk = [{"role": "user", "content": "x" * 5000}]
    told = ask(server, CHAT, messages=talk, truncate_prompt_tokens=-1, max_tokens=100)
    assert (told["usage"]["prompt_tokens"], told["usage"]["completion_tokens"]) == (412, 100)
    assert bytes(told["prompt_token_ids"][-10:]).endswith(b"assistant\n")


def test_prefixes_are_shared_with_the_same_salt_only(server: Running) -> None:
    prompt = "salted" * 20

    def cached(salt: str | None) -> int:
        told = ask(server, prompt=prompt, max_tokens=2, cache_salt=salt)
        made.append(told["choices"][0]["token_ids"])
        return int(told["usage"]["prompt_tokens_details"]["cached_tokens"])

    made: list[list[int]] = []
    assert [cached(salt) for salt in ("a", "a", "b", None, None, "b", "a")] == [0, 112, 0, 0, 112, 112, 112]
    assert made == made[:1] * 7, "no bit depends on it"


def test_documents_come_to_the_template(showing: Running) -> None:
    documents = [{"title": "One", "text": "x"}, {"title": "Two"}]
    told = ask(showing, CHAT, documents=documents, max_tokens=1)
    assert bytes(told["prompt_token_ids"][:10]) == b"<One><Two>"
    shown = showing.http.post("/tokenize", json={"messages": TALK, "documents": documents}).json()
    assert bytes(shown["tokens"][:10]) == b"<One><Two>"


def test_a_priority_where_they_are_honoured(showing: Running) -> None:
    assert ask(showing, priority=-7, max_tokens=2)["usage"]["completion_tokens"] == 2
