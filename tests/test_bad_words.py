"""What may not come next, so that no forbidden word is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.harness import completing
from octavo.bad_words import BadWords
from octavo.errors import RequestError
from octavo.text.bad_words import forbidden_ids
from server.harness import byte_tokenizer

ids = st.integers(0, 3)


@given(
    st.lists(st.lists(ids, min_size=1, max_size=4), max_size=6), st.lists(ids, max_size=4), st.lists(ids, max_size=8)
)
def test_it_is_what_trying_word_by_word_finds(words: list[list[int]], prompt: list[int], made: list[int]) -> None:
    found = BadWords(words).completing([*prompt, *made], len(prompt))
    assert set(found) == completing(words, made)


@given(st.lists(st.lists(ids, min_size=1, max_size=4), min_size=1, max_size=6), st.lists(ids, max_size=20))
def test_who_obeys_never_makes_one(words: list[list[int]], wishes: list[int]) -> None:
    bad, made = BadWords(words), list[int]()
    for wish in wishes:
        left = sorted({*range(5)}.difference(bad.completing(made, 0)))
        made.append(left[wish % len(left)])
    text = "".join(map(str, made))
    assert not any("".join(map(str, word)) in text for word in words)


def test_a_word_is_forbidden_behind_a_space_too_where_that_is_one_token_as_well() -> None:
    assert forbidden_ids(["ab", " c"], byte_tokenizer()) == [[97, 98], [99]]
    with pytest.raises(RequestError):
        forbidden_ids([" "], byte_tokenizer())
