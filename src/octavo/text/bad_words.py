"""Words that no answer may come to hold, as the token ids in which a model would write them."""

from __future__ import annotations

from collections.abc import Iterable

from octavo.errors import RequestError
from octavo.text.tokenizer import Tokenizer


def forbidden_ids(words: Iterable[str], tokenizer: Tokenizer) -> list[list[int]]:
    """The token ids of each word, and of the word behind a space where that is as many tokens and begins with another one:
    vLLM's rule.

    Raises:
        RequestError: there is no tokenizer, or a word has no tokens.
    """
    try:
        return _forbidden(words, tokenizer)
    except RequestError as error:
        error.param = "bad_words"
        raise


def _forbidden(words: Iterable[str], tokenizer: Tokenizer) -> list[list[int]]:
    found: list[list[int]] = []
    for word in words:
        bare = tokenizer.encode(word.lstrip(), add_special_tokens=False)
        if not bare:
            raise RequestError(f"bad_words holds {word[:100]!r}, which has no tokens")
        spaced = tokenizer.encode(" " + word.lstrip(), add_special_tokens=False)
        found += [bare, spaced] if len(spaced) == len(bare) and spaced[0] != bare[0] else [bare]
    return found
