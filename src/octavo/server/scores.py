"""Log-probabilities in the shapes that clients read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Raw

from octavo.answers import Part
from octavo.messages import TokenScore
from octavo.server.json_pieces import raw_list
from octavo.text.detokenizer import Detokenizer
from octavo.text.tokenizer import Tokenizer, token_text

LEAST_LOGPROB = -9999.0
"""Stands for -infinity, which JSON lacks (vLLM's convention)."""


Name = Callable[[Tokenizer, int], str]
"""How a token is named."""


def naming(*, as_ids: bool) -> Name:
    """By its text, or `as_ids` as `token_id:7`, which no two tokens share."""
    return (lambda _tokenizer, token_id: f"token_id:{token_id}") if as_ids else token_text


def legacy_logprobs(tokenizer: Tokenizer, part: Part, start: int, name: Name = token_text) -> dict[str, Raw]:
    """The object of /v1/completions; `start` is where the answer begins in the text of the choice."""
    return {
        "text_offset": raw_list(start + offset for offset in part.offsets),
        "token_logprobs": raw_list(None if score is None else _finite(score.logprob) for score in part.scores),
        "tokens": raw_list(name(tokenizer, token_id) for token_id in part.token_ids),
        "top_logprobs": raw_list(None if score is None else _by_name(tokenizer, score, name) for score in part.scores),
    }


def chat_logprobs(tokenizer: Tokenizer, part: Part, name: Name = token_text) -> dict[str, Raw]:
    """The object of /v1/chat/completions."""
    return {"content": raw_list(_content(tokenizer, score, name) for score in part.scores)}


def prompt_logprobs(tokenizer: Tokenizer, scores: Sequence[TokenScore]) -> Raw:
    """One entry for each prompt token, by id; the first token has none."""
    return raw_list(itertools.chain([None], (_by_id(tokenizer, score) for score in scores)))


def prompt_part(tokenizer: Tokenizer, token_ids: Sequence[int], scores: Sequence[TokenScore] | None) -> Part:
    """The prompt as if it had been made, for `echo`."""
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=False)
    part = Part(token_ids=list(token_ids), scores=[None] * len(token_ids) if scores is None else [None, *scores])
    texts = []
    for token_id in token_ids:
        texts.append(detokenizer.push(token_id))
        part.offsets.append(detokenizer.offset)
    part.text = "".join([*texts, detokenizer.finish()])
    return part


def _content(tokenizer: Tokenizer, score: TokenScore | None, name: Name) -> dict[str, Any]:
    assert score is not None
    top = [_named(tokenizer, token_id, logprob, name) for token_id, logprob in score.top]
    return {**_named(tokenizer, score.token_id, score.logprob, name), "top_logprobs": top}


def _by_name(tokenizer: Tokenizer, score: TokenScore, name: Name) -> dict[str, float]:
    top: dict[str, float] = {}
    for token_id, logprob in [*score.top, (score.token_id, score.logprob)]:
        top.setdefault(name(tokenizer, token_id), _finite(logprob))  # likeliest first: equal texts keep it
    return top


def _by_id(tokenizer: Tokenizer, score: TokenScore) -> dict[str, Any]:
    ranked = [(token_id, logprob, rank) for rank, (token_id, logprob) in enumerate(score.top, start=1)]
    entries = [*ranked, (score.token_id, score.logprob, score.rank)]
    return {
        str(token_id): {"logprob": _finite(logprob), "rank": rank, "decoded_token": token_text(tokenizer, token_id)}
        for token_id, logprob, rank in entries
    }


def _named(tokenizer: Tokenizer, token_id: int, logprob: float, name: Name) -> dict[str, Any]:
    return {
        "token": name(tokenizer, token_id),
        "logprob": _finite(logprob),
        "bytes": list(tokenizer.piece(token_id)),
    }


def _finite(logprob: float) -> float:
    return logprob if logprob > LEAST_LOGPROB else LEAST_LOGPROB
