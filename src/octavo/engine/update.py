"""An update: new tokens of a request, and its end, as the engine tells them to the one who asked."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from octavo.errors import OctavoError
from octavo.messages import SampledToken, TokenScore


class FinishReason(enum.Enum):
    """Why a request ended; the values are OpenAI's."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """News of one request after one step. Every accepted request gets exactly one update with `finish_reason`."""

    request_id: str
    tokens: Sequence[SampledToken] = ()
    """New tokens in order. A token that ended the request (EOS, stop id) is included as the last."""
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    """The stop id (not EOS) that ended it."""
    error: OctavoError | None = None
    """With FinishReason.ERROR: what to answer."""
    num_cached_tokens: int = 0
    """Prompt tokens whose KV came from the prefix cache at first admission."""
    num_preemptions: int = 0
    """How often it has lost its KV blocks to others so far."""
    prompt_scores: Sequence[TokenScore] | None = None
    """Scores of prompt tokens 1 .. n-1, all at once with the first update, if asked for."""
    queue_s: float | None = None
    """With the first token: seconds from arrival until the request first ran."""
