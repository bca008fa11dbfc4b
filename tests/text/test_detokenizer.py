"""Deltas joined are the decoded text, for any ids and any stop strings."""

from __future__ import annotations

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from octavo.errors import RequestError
from octavo.text import Detokenizer, NoTokenizer, StopStrings
from octavo.text.stop import StopScanner
from octavo.text.tokenizer import FileTokenizer
from server.harness import VOCABULARY, byte_tokenizer

BYTES = byte_tokenizer()
IDS = st.lists(st.integers(0, VOCABULARY - 1), max_size=40)
TEXTS = st.text("ab€é😀", max_size=30)
STOPS = st.lists(st.text("ab€é😀", min_size=1, max_size=4), max_size=4)


def word_tokenizer() -> FileTokenizer:
    """Whole words, joined with spaces by the decoder: a token's text depends on its place."""
    backend = tokenizers.Tokenizer(
        models.WordPiece(vocab={"un": 0, "##able": 1, "be": 2, "[UNK]": 3}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    return FileTokenizer(backend, {})


def shown_until_stop(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """By brute force: the text ends at the first character that completes a stop string; the longest one counts."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@given(IDS, st.booleans())
@example([0xE2, 0x82], False)
@example([0xF0, 0x9F, 0x98, 0x80, 256, 0xFF], True)
@example([0xE2, 256, 0x82, 0xAC], True)
def test_joined_deltas_are_the_decoded_text(ids: list[int], skip: bool) -> None:
    detokenizer = Detokenizer(BYTES, skip_special_tokens=skip)
    deltas = [detokenizer.push(id_) for id_ in ids] + [detokenizer.finish()]
    assert "".join(deltas) == BYTES.decode(ids, skip_special_tokens=skip)


@given(TEXTS)
def test_no_delta_holds_half_a_character(text: str) -> None:
    detokenizer = Detokenizer(BYTES)
    for id_ in text.encode():
        assert "\ufffd" not in detokenizer.push(id_)
    assert detokenizer.finish() == ""


@given(TEXTS)
def test_offsets_are_where_a_token_begins(text: str) -> None:
    detokenizer = Detokenizer(BYTES)
    ids = list(text.encode())
    for position, id_ in enumerate(ids):
        detokenizer.push(id_)
        assert detokenizer.offset == len(bytes(ids[:position]).decode(errors="ignore"))


@given(st.data())
def test_stop_strings_end_the_text_and_never_leak(data: st.DataObject) -> None:
    text, stops, include = data.draw(TEXTS), data.draw(STOPS), data.draw(st.booleans())
    expected, stop = shown_until_stop(text, stops, include)
    scanner = StopScanner(StopStrings(stops), include=include)
    shown = ""
    while text and scanner.found is None:
        size = data.draw(st.integers(1, len(text)))
        shown += scanner.push(text[:size])
        text = text[size:]
        assert expected.startswith(shown), "something of a stop string was shown"
    if scanner.found is None:
        shown += scanner.finish()
    assert (shown, scanner.found) == (expected, stop)


@given(TEXTS, STOPS, st.booleans())
def test_the_same_through_the_detokenizer(text: str, stops: list[str], include: bool) -> None:
    detokenizer = Detokenizer(BYTES, stop=StopStrings(stops), include_stop_str_in_output=include)
    shown = ""
    for id_ in text.encode():
        shown += detokenizer.push(id_)
        if detokenizer.stop is not None:
            break
    shown += detokenizer.finish()
    assert (shown, detokenizer.stop) == shown_until_stop(text, stops, include)


def test_text_is_held_only_while_it_may_become_a_stop_string() -> None:
    scanner = StopScanner(StopStrings(["abc"]))
    assert [scanner.push(char) for char in "xabab"] == ["x", "", "", "ab", ""]
    assert scanner.finish() == "ab"


def test_min_tokens_disarm_stop_strings() -> None:
    detokenizer = Detokenizer(BYTES, stop=StopStrings(["a"]), min_tokens=2)
    assert "".join(detokenizer.push(id_) for id_ in b"aab") == "aab"
    assert detokenizer.stop is None
    assert detokenizer.push(ord("a")) == ""
    assert detokenizer.stop == "a"


@pytest.mark.parametrize(("include", "shown"), [(False, ""), (True, "<|im_end|>")], ids=["hidden", "shown"])
def test_the_token_that_ends_an_answer(include: bool, shown: str) -> None:
    detokenizer = Detokenizer(BYTES, skip_special_tokens=False, include_stop_str_in_output=include)
    assert detokenizer.push_stop(256) == shown


@given(st.lists(st.sampled_from([0, 1, 2]), max_size=12))
def test_a_decoder_that_looks_at_neighbours(ids: list[int]) -> None:
    tokenizer = word_tokenizer()
    detokenizer = Detokenizer(tokenizer)
    deltas = [detokenizer.push(id_) for id_ in ids] + [detokenizer.finish()]
    assert "".join(deltas) == tokenizer.decode(ids)


def test_a_decoder_that_looks_at_neighbours_continues_the_prompt() -> None:
    detokenizer = Detokenizer(word_tokenizer(), context=[0])
    assert [detokenizer.push(1), detokenizer.push(2)] == ["able", " be"]


def test_a_step_costs_the_same_at_any_length() -> None:
    """A long pathological text: each character is looked at once, so a million take seconds, not hours."""
    scanner = StopScanner(StopStrings(["a" * 100 + "b", "a" * 99 + "c"]))
    assert sum(len(scanner.push("a" * 100)) for _ in range(2000)) == 2000 * 100 - 100


@pytest.mark.parametrize("strings", [["a"] * 1025, ["a" * 16385]], ids=["many", "long"])
def test_too_many_stop_strings_are_refused(strings: list[str]) -> None:
    with pytest.raises(RequestError, match="1024") as caught:
        StopStrings(strings)
    assert caught.value.param == "stop"


def test_without_a_tokenizer_answers_have_no_text() -> None:
    detokenizer = Detokenizer(NoTokenizer())
    assert detokenizer.push(7) + detokenizer.finish() == ""
