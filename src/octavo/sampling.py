"""How the next token of a request is chosen."""

from __future__ import annotations

import copy
import enum
import hashlib
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from octavo.errors import RequestError
from octavo.structured_outputs import StructuredOutputsParams, read_structure

MAX_N = 16384
"""Most answers to one prompt (vLLM's VLLM_MAX_N_SEQUENCES)."""


MAX_SCORED_IDS = 128
"""Most `logprob_token_ids` (vLLM's MAX_LOGPROB_TOKEN_IDS)."""
MAX_BAD_WORDS = 1024


class RequestOutputKind(enum.Enum):
    """Says what each output of a stream holds."""

    CUMULATIVE = 0
    """All of the answers so far."""
    DELTA = 1
    """What is new since the output before."""
    FINAL_ONLY = 2
    """The whole answers, once."""


class UnservedParams(msgspec.Struct, kw_only=True, omit_defaults=True, repr_omit_defaults=True):
    """Fields of vLLM's `SamplingParams` that are taken only with values that ask for nothing."""

    best_of: Any = None
    use_beam_search: Any = None
    length_penalty: Any = None
    early_stopping: Any = None
    logits_processors: Any = None
    prompt_logprob_token_ids: Any = None
    prompt_logprob_start: Any = None
    flat_logprobs: Any = None
    truncate_prompt_tokens: Any = None
    thinking_token_budget: Any = None
    repetition_detection: Any = None
    skip_reading_prefix_cache: Any = None
    extra_args: Any = None


_ONE_ANSWER = "ask for n answers and choose the one with the highest cumulative_logprob"
_SOME_SCORES = "ask for logprobs and read those of the tokens you want"
UNSERVED = {
    "best_of": _ONE_ANSWER,
    "use_beam_search": _ONE_ANSWER,
    "length_penalty": "it belongs to beam search, which is not served",
    "early_stopping": "it belongs to beam search, which is not served",
    "logits_processors": "code of requests is never run; logit_bias adds to the logits of tokens",
    "prompt_logprob_token_ids": _SOME_SCORES,
    "prompt_logprob_start": "prompt_logprobs scores the whole prompt; drop what you do not need",
    "flat_logprobs": "logprobs come as one mapping for each token",
    "truncate_prompt_tokens": "give it in tokenization_kwargs of generate()",
    "thinking_token_budget": "thinking is part of the text, so max_tokens bounds both",
    "repetition_detection": "bound answers with max_tokens, or set repetition_penalty",
    "skip_reading_prefix_cache": "cached prefixes change no answer; start with enable_prefix_caching=False to have none",
    "extra_args": "nothing in Octavo reads them",
}
"""Field of `UnservedParams` to what to do instead."""
NOTHING: dict[str, tuple[Any, ...]] = {"length_penalty": (1.0,), "thinking_token_budget": (-1,)}
"""Values that ask for nothing, besides None, False and what is empty."""


class SamplingParams(UnservedParams, omit_defaults=True, repr_omit_defaults=True):
    """Sampling settings of one request; names, order and defaults are those of vLLM's `SamplingParams`.

    Fields may be set: an engine that has taken a request does not see it, and checks what it is given next.

    Raises:
        RequestError: a value is out of range, or not served; `param` names the field.
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """Keep the k most likely tokens; 0 or -1 keeps all."""
    min_p: float = 0.0
    seed: int | None = None
    """Key of the random numbers, with the position; None lets the engine draw one at admission."""
    stop: list[str] = []
    """Also taken as one text, or None."""
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    max_tokens: int | None = 16
    """Most tokens to make; None means up to the model's limit."""
    min_tokens: int = 0
    logprobs: int | None = None
    """Log-probabilities of this many likeliest tokens per made token, besides the chosen one; -1: all; None: none."""
    prompt_logprobs: int | None = None
    detokenize: bool = True
    """Answers have a text; read by `LLM` and `AsyncLLM`."""
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    """Read by `AsyncLLM`."""
    stream_interval: int | None = None
    """Least tokens between two outputs of a stream, if more than the setting of that name; read by `AsyncLLM`."""
    logit_bias: dict[int, float] = {}
    allowed_token_ids: list[int] | None = None
    """The only ids that may be sampled; None: all."""
    bad_words: list[str] = []
    """Texts that no answer comes to hold, where the model would write them in the tokens that the tokenizer does."""
    bad_word_ids: list[list[int]] = []
    """Those as token ids (`forbidden_ids`), which the engine reads; whoever has the tokenizer fills it in."""
    logprob_token_ids: list[int] | None = None
    """Ids whose log-probabilities are given for each made token, besides that of the chosen one and instead of those of
    the likeliest."""
    structured_outputs: StructuredOutputsParams | None = None
    """The form of the answer; also taken as a dict of the fields."""
    guided_decoding: StructuredOutputsParams | None = None
    """The older name of `structured_outputs`; what is given here is found there."""

    if TYPE_CHECKING:  # what is taken is wider than what the fields hold then

        def __init__(
            self,
            n: int = 1,
            presence_penalty: float = 0.0,
            frequency_penalty: float = 0.0,
            repetition_penalty: float = 1.0,
            temperature: float = 1.0,
            top_p: float = 1.0,
            top_k: int = 0,
            min_p: float = 0.0,
            seed: int | None = None,
            stop: str | Iterable[str] | None = None,
            stop_token_ids: Iterable[int] | None = None,
            ignore_eos: bool = False,
            max_tokens: int | None = 16,
            min_tokens: int = 0,
            logprobs: int | None = None,
            prompt_logprobs: int | None = None,
            detokenize: bool = True,
            skip_special_tokens: bool = True,
            spaces_between_special_tokens: bool = True,
            include_stop_str_in_output: bool = False,
            output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE,
            stream_interval: int | None = None,
            logit_bias: Mapping[int, float] | None = None,
            allowed_token_ids: Iterable[int] | None = None,
            bad_words: Iterable[str] | None = None,
            bad_word_ids: Iterable[Sequence[int]] = (),
            logprob_token_ids: Iterable[int] | None = None,
            structured_outputs: StructuredOutputsParams | Mapping[str, Any] | None = None,
            guided_decoding: StructuredOutputsParams | Mapping[str, Any] | None = None,
            **unserved: Any,
        ) -> None: ...

    @classmethod
    def from_optional(cls, **values: Any) -> SamplingParams:
        """Settings from values of which those that are None are defaults, but for `max_tokens`.

        Ids in `logit_bias` may be texts, and biases are cut to -100..100.

        Raises:
            RequestError: as the class.
        """
        given = {name: value for name, value in values.items() if value is not None or name == "max_tokens"}
        if "logit_bias" in given:
            given["logit_bias"] = _read_bias(given["logit_bias"])
        return cls(**given)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def num_scores(self) -> int | None:
        """Log-probabilities of each made token besides that of the chosen one; None: not that one either."""
        return len(self.logprob_token_ids) if self.logprob_token_ids is not None else self.logprobs

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            setattr(self, name, _plain(getattr(self, name)))
        stop: Any = self.stop
        self.stop = [stop] if isinstance(stop, str) else _listed(stop, "stop")
        for name in ("stop_token_ids", "bad_words", "bad_word_ids"):
            setattr(self, name, _listed(getattr(self, name), name))
        for name in ("allowed_token_ids", "logprob_token_ids"):
            if getattr(self, name) is not None:
                setattr(self, name, _listed(getattr(self, name), name))
        bias: Any = self.logit_bias
        self.logit_bias = {} if bias is None else bias
        self._read_structure()
        for name in ("logprobs", "prompt_logprobs"):
            if isinstance(asked := getattr(self, name), bool):
                setattr(self, name, 1 if asked else None)
        for param, (fits, rule) in _RULES.items():
            _check(self, fits, param, rule)
        _refuse_unserved(self)  # behind the rules: best_of is measured by an n that can be
        limit = self.max_tokens
        _check(self, lambda least: limit is None or least <= limit, "min_tokens", f"at most max_tokens ({limit})")
        if self.greedy:
            _check(self, lambda n: n == 1, "n", "1 when temperature is 0: every answer would be the same")
        if not self.detokenize:
            _check(
                self, lambda stop: not stop, "stop", "empty when detokenize is False: there is no text to find it in"
            )

    def replace(self, **changes: Any) -> SamplingParams:
        """A copy with `changes`, checked again."""
        return msgspec.structs.replace(self, **changes)

    def clone(self) -> SamplingParams:
        """A copy, checked again, that shares nothing with this one.

        Raises:
            RequestError: as the class: a field was set to what cannot be.
        """
        cloned = self.replace()
        for name in _LISTS:
            if (values := getattr(cloned, name)) is not None:
                setattr(cloned, name, list(values))
        cloned.logit_bias = dict(cloned.logit_bias)
        return cloned

    def _read_structure(self) -> None:
        """Take a form under either name, as a dict or whole."""
        for name in ("structured_outputs", "guided_decoding"):
            given: Any = getattr(self, name)
            if given is None:
                continue
            if name == "guided_decoding" and self.structured_outputs is not None:
                raise RequestError("give structured_outputs or guided_decoding, not both", param=name)
            self.structured_outputs = read_structure(given, name)
        self.guided_decoding = None


def each_alone(sampling: SamplingParams) -> Iterator[SamplingParams]:
    """The settings of each of the `n` answers: the engine makes one answer for a request. They share their lists."""
    alone = sampling if sampling.n == 1 else sampling.replace(n=1)
    for index in range(sampling.n):
        if sampling.seed is not None and index:
            # not `replace`, which would check `n` times what was checked
            alone = copy.copy(alone)
            alone.seed = answer_seed(sampling.seed, index)
        yield alone


def answer_seed(seed: int, index: int) -> int:
    """The seed of answer `index` to a prompt whose `n` answers were asked for with `seed`.

    Answer 0 keeps `seed`, so it is the answer that n = 1 gives; the others get the first 8 bytes (little-endian, signed)
    of BLAKE2b over `"{seed}/{index}"`.
    """
    if index == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _within(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: low <= value <= high


def _optional(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _whole(low: int, high: int = 2**63 - 1) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and low <= value <= high


def _plain(value: Any) -> Any:
    """A number of numpy's, and of whoever else has some, as Python's; what is no number stays."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def _few_texts(values: Any) -> bool:
    return len(values) <= MAX_BAD_WORDS and all(isinstance(text, str) and text for text in values)


_SCORES = _optional(_whole(-1))
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n": (_whole(1, MAX_N), f"in 1..{MAX_N}"),
    "temperature": (_within(0, 2), "in 0..2"),
    "top_p": (lambda value: 0 < value <= 1, "in (0, 1]"),
    "top_k": (_whole(-1, 2**31 - 1), "-1 (off), 0 (off) or a positive number"),
    "min_p": (_within(0, 1), "in 0..1"),
    "presence_penalty": (_within(-2, 2), "in -2..2"),
    "frequency_penalty": (_within(-2, 2), "in -2..2"),
    "repetition_penalty": (lambda value: math.isfinite(value) and value > 0, "above 0"),
    "logit_bias": (lambda value: all(-100 <= bias <= 100 for bias in value.values()), "token id -> -100..100"),
    "seed": (_optional(_whole(-(2**63))), "a 64-bit integer"),
    "stop": (lambda value: all(isinstance(text, str) and text for text in value), "texts, none of them empty"),
    "allowed_token_ids": (_optional(lambda value: len(value) > 0), "a list of token ids, not an empty one"),
    "bad_words": (_few_texts, f"at most {MAX_BAD_WORDS} texts, none of them empty"),
    "bad_word_ids": (lambda value: all(len(word) > 0 for word in value), "lists of token ids, none of them empty"),
    "logprob_token_ids": (
        _optional(lambda value: 0 < len(value) <= MAX_SCORED_IDS and len(set(value)) == len(value)),
        f"a list of 1 to {MAX_SCORED_IDS} token ids, each once",
    ),
    "max_tokens": (_optional(_whole(1)), "at least 1 and below 2^63"),
    "min_tokens": (_whole(0), "at least 0 and below 2^63"),
    "logprobs": (_SCORES, "at least 0, or -1 for all"),
    "prompt_logprobs": (_SCORES, "at least 0, or -1 for all"),
    "detokenize": (lambda value: isinstance(value, bool), "True or False"),
    "output_kind": (lambda value: isinstance(value, RequestOutputKind), "a RequestOutputKind"),
    "stream_interval": (_optional(_whole(1)), "at least 1"),
}
_LISTS = ("stop", "stop_token_ids", "allowed_token_ids", "bad_words", "bad_word_ids", "logprob_token_ids")
_NUMBERS = [name for name in _RULES if name not in ("logit_bias", *_LISTS)]


def _check(params: SamplingParams, fits: Callable[[Any], bool], param: str, rule: str) -> None:
    value = getattr(params, param)
    try:
        if fits(value):
            return
    except (TypeError, AttributeError):  # a value of a type that cannot be compared so
        pass
    raise RequestError(f"{param} must be {rule}, got {value!r}"[:500], param=param)


def _listed(values: Sequence[Any] | None, param: str) -> list[Any]:
    if isinstance(values, list):
        return values
    try:
        if not isinstance(values, str | bytes):
            return list(values or ())
    except TypeError:
        pass
    raise RequestError(f"{param} must be a list, got {values!r}"[:500], param=param)


def _refuse_unserved(params: SamplingParams) -> None:
    """Refuse what asks for something that is not served; what asks for nothing becomes None."""
    for name in UNSERVED:
        value = getattr(params, name)
        if value is None:
            continue
        nothing = (False, *NOTHING.get(name, ()), *([params.n] if name == "best_of" else []))
        if value not in nothing and not (hasattr(value, "__len__") and len(value) == 0):
            raise RequestError(f"{name} is not served: {UNSERVED[name]}", param=name)
        setattr(params, name, None)


def _read_bias(bias: Mapping[Any, float]) -> dict[int, float]:
    try:
        return {int(token): min(100.0, max(-100.0, value)) for token, value in bias.items()}
    except (TypeError, ValueError, AttributeError) as exc:
        raise RequestError(f"logit_bias must be token id -> -100..100: {exc}", param="logit_bias") from exc
