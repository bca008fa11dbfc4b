"""How the next token of a request is chosen."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import msgspec

from octavo.errors import RequestError

MAX_N = 16384
"""Most answers to one prompt (vLLM's VLLM_MAX_N_SEQUENCES)."""


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sampling settings of one request; names and defaults are those of vLLM's `SamplingParams`.

    Raises:
        RequestError: a value is out of range; `param` names the field.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """Keep the k most likely tokens; 0 or -1 keeps all."""
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    """Key of the random numbers, with the position; None lets the engine draw one at admission."""
    stop: list[str] = []
    include_stop_str_in_output: bool = False
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    max_tokens: int | None = 16
    """Most tokens to make; None means up to the model's limit."""
    min_tokens: int = 0
    logprobs: int | None = None
    """Log-probabilities of this many likeliest tokens per made token, besides the chosen one; None: none."""
    prompt_logprobs: int | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    def __post_init__(self) -> None:
        def check(ok: bool, param: str, rule: str) -> None:
            if not ok:
                raise RequestError(f"{param} must be {rule}, got {getattr(self, param)!r}", param=param)

        check(1 <= self.n <= MAX_N, "n", f"in 1..{MAX_N}")
        check(math.isfinite(self.temperature) and 0 <= self.temperature <= 2, "temperature", "in 0..2")
        check(0 < self.top_p <= 1, "top_p", "in (0, 1]")
        check(-1 <= self.top_k < 2**31, "top_k", "-1 (off), 0 (off) or a positive number")
        check(0 <= self.min_p <= 1, "min_p", "in 0..1")
        check(-2 <= self.presence_penalty <= 2, "presence_penalty", "in -2..2")
        check(-2 <= self.frequency_penalty <= 2, "frequency_penalty", "in -2..2")
        check(math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0, "repetition_penalty", "above 0")
        check(all(-100 <= bias <= 100 for bias in self.logit_bias.values()), "logit_bias", "token id -> -100..100")
        check(self.seed is None or -(2**63) <= self.seed < 2**63, "seed", "a 64-bit integer")
        check(all(self.stop), "stop", "free of empty strings")
        check(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "at least 1")
        check(self.min_tokens >= 0, "min_tokens", "at least 0")
        limit = self.max_tokens
        check(limit is None or self.min_tokens <= limit, "min_tokens", f"at most max_tokens ({limit})")
        check(self.logprobs is None or self.logprobs >= 0, "logprobs", "at least 0")
        check(self.prompt_logprobs is None or self.prompt_logprobs >= 0, "prompt_logprobs", "at least 0")
        check(self.n == 1 or not self.greedy, "n", "1 when temperature is 0: every answer would be the same")

    def replace(self, **changes: Any) -> SamplingParams:
        """A copy with `changes`, checked again."""
        return msgspec.structs.replace(self, **changes)


def answer_seed(seed: int, index: int) -> int:
    """The seed of answer `index` to a prompt whose `n` answers were asked for with `seed`.

    Answer 0 keeps `seed`, so it is the answer that n = 1 gives; the others get the first 8 bytes (little-endian, signed)
    of BLAKE2b over `"{seed}/{index}"`.
    """
    if index == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
