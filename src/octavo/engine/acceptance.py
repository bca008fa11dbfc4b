"""Which requests are accepted: what can never be served is refused before it reaches the schedule."""

from __future__ import annotations

import hashlib
import itertools
import re
from array import array
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Items

import msgspec

from octavo.config import EngineConfig
from octavo.engine.request import Request
from octavo.engine.scheduler import Scheduler
from octavo.engine.sequence import Sequence
from octavo.errors import OverloadedError, PromptTooLongError, RequestError
from octavo.sampling import SamplingParams

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SamplingParams).decode
_FIELD = re.compile(r"\$\.(\w+)")
"""The name of a field, as msgspec tells where it found something wrong."""


def accept(request: Request, config: EngineConfig) -> Sequence:
    """Check `request` against the limits and resolve its seed, its stop ids and its max_tokens.

    Raises:
        RequestError: it can never be served; `param` names the field.
    """
    if request.priority and not config.priorities:
        raise RequestError(
            f"priority is {request.priority}, but requests are served first come, first served; leave it out, or start "
            "with --scheduling-policy priority",
            param="priority",
        )
    prompt = checked_prompt(request.prompt_token_ids, config)
    room = _room(len(prompt), config)
    sampling = _checked(request.sampling, config)
    max_tokens = room if sampling.max_tokens is None else min(sampling.max_tokens, room)
    if sampling.min_tokens > max_tokens:
        raise RequestError(
            f"min_tokens is {sampling.min_tokens}, but only {max_tokens} tokens fit behind {len(prompt)} prompt tokens",
            param="min_tokens",
        )
    seed = sampling.seed
    if seed is None and not sampling.greedy:
        seed = draw_seed(config.seed, request.request_id)
    stop_ids = frozenset(sampling.stop_token_ids)
    if not sampling.ignore_eos:
        stop_ids |= frozenset(config.eos_token_ids)
    if sampling.min_tokens and len(stop_ids) >= config.vocab_size:
        raise RequestError("min_tokens forbids every token, as all are stop_token_ids", param="min_tokens")
    allowed = sampling.allowed_token_ids
    if sampling.min_tokens and allowed is not None and stop_ids.issuperset(allowed):
        raise RequestError(
            "min_tokens forbids every one of allowed_token_ids, as all end it", param="allowed_token_ids"
        )
    if max_tokens != sampling.max_tokens or seed != sampling.seed:
        sampling = sampling.replace(max_tokens=max_tokens, seed=seed)
    return Sequence(request, prompt, sampling, stop_ids)


def check_room(
    sequence: Sequence, arriving: Mapping[str, Sequence], scheduler: Scheduler, config: EngineConfig
) -> None:
    """Check that the queue has room for `sequence`, behind those `arriving` that are not in it yet.

    Raises:
        OverloadedError: the queue is full.
    """
    waiting = scheduler.num_queued + len(arriving)
    if not waiting:
        return  # an empty queue takes one request of any size
    bound = config.max_num_queued_reqs
    if bound is not None and waiting >= bound:
        raise OverloadedError(f"the queue is full: {waiting} requests wait, max_num_queued_reqs is {bound}")
    bound = config.max_num_queued_tokens
    if bound is not None:
        tokens = scheduler.num_queued_tokens + sum(len(other.tokens) for other in arriving.values())
        if tokens + len(sequence.tokens) > bound:
            raise OverloadedError(
                f"the queue is full: {tokens} prompt tokens wait, this request has {len(sequence.tokens)}, "
                f"max_num_queued_tokens is {bound}"
            )


def draw_seed(base: int, request_id: str) -> int:
    """A signed 64-bit seed that depends on nothing but its arguments, so that a replay draws it again."""
    digest = hashlib.blake2b(f"{base}/{request_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def checked_prompt(ids: Items[int], config: EngineConfig) -> array[int]:
    """`ids` as the engine keeps a prompt; too many are refused unread.

    Raises:
        RequestError: none, too many, or not ids of the vocabulary.
    """
    _room(len(ids), config)
    return _token_ids(ids, config, "prompt")


def _room(num_prompt_tokens: int, config: EngineConfig) -> int:
    """Tokens that an answer to a prompt of this length may have."""
    if num_prompt_tokens == 0:
        raise RequestError("prompt is empty: at least one token is needed", param="prompt")
    limit = config.max_request_tokens
    if num_prompt_tokens >= limit:
        raise PromptTooLongError(
            f"prompt has {num_prompt_tokens} tokens, but at most {limit - 1} fit: a request may have {limit} tokens, "
            f"one of them made (max_model_len {config.max_model_len}, KV pool {config.pool_tokens})",
            param="prompt",
            num_tokens=num_prompt_tokens,
            most=limit - 1,
        )
    return limit - num_prompt_tokens


def _token_ids(ids: Iterable[int], config: EngineConfig, param: str) -> array[int]:
    """`ids` as an array of unsigned 32-bit integers within the vocabulary."""
    try:
        checked = array("q", ids)
    except (TypeError, OverflowError) as exc:
        raise RequestError(f"{param} must hold token ids (0 .. {config.vocab_size - 1}): {exc}", param=param) from exc
    if checked and (min(checked) < 0 or max(checked) >= config.vocab_size):
        position, wrong = next((i, t) for i, t in enumerate(checked) if not 0 <= t < config.vocab_size)
        raise RequestError(
            f"{param} holds token id {wrong} at index {position}; ids go from 0 to {config.vocab_size - 1}", param=param
        )
    return array("I", checked)


def _checked(sampling: SamplingParams, config: EngineConfig) -> SamplingParams:
    """`sampling` as the worker will decode it, its ids and counts within the limits."""
    try:
        sampling = _decode(_encode(sampling))
    except RequestError:
        raise
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as exc:
        field = _FIELD.search(str(exc))
        raise RequestError(
            f"sampling settings of the wrong type: {exc}", param=None if field is None else field[1]
        ) from exc
    if sampling.structured_outputs is not None:
        raise RequestError("structured_outputs must be compiled first", param=sampling.structured_outputs.asked_as)
    if sampling.n != 1:
        raise RequestError(f"n is {sampling.n}, but one request to the engine makes one answer", param="n")
    _token_ids(sampling.stop_token_ids, config, "stop_token_ids")
    if sampling.bad_words:
        raise RequestError("bad_words must be made token ids first (bad_word_ids)", param="bad_words")
    _token_ids(sampling.logit_bias, config, "logit_bias")
    _token_ids(sampling.allowed_token_ids or (), config, "allowed_token_ids")
    _token_ids(sampling.logprob_token_ids or (), config, "logprob_token_ids")
    _token_ids(itertools.chain.from_iterable(sampling.bad_word_ids), config, "bad_words")
    for name in ("logprobs", "prompt_logprobs"):
        asked = getattr(sampling, name)
        count = config.vocab_size if asked == -1 else asked
        if count is not None and count > config.max_logprobs:
            every = f", for all {count} tokens" if asked == -1 else ""
            raise RequestError(f"{name} is {asked}{every}, but at most {config.max_logprobs} are given", param=name)
        if count != asked:
            sampling = sampling.replace(**{name: count})
    return sampling
