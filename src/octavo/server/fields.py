"""Request fields that completions and chat share. Rules and defaults are vLLM's; every field is honoured, refused with
a 400 that names it, or known to change nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from octavo.errors import RequestError
from octavo.sampling import SamplingParams
from octavo.text.generation_config import DefaultSampling

log = logging.getLogger(__name__)

Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
TokenId = Annotated[StrictInt, Field(ge=0, lt=2**63, description="Token id within the vocabulary")]
Json = dict[str, Any]

LEAST_TEMPERATURE = 0.01
"""Smaller ones above 0 are raised to it, as vLLM does: below, float32 logits overflow."""

WITHOUT_EFFECT = frozenset(
    [
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "parallel_tool_calls",
        "request_id",
    ]
)
"""Fields that clients send and that change no answer."""

REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "suffix": ((None, ""), "insertion is not supported"),
    "use_beam_search": ((None, False), "beam search is not supported"),
    "length_penalty": ((None, 1, 1.0), "it belongs to beam search, which is not supported"),
    "tools": ((None, []), "tool calls are not supported yet"),
    "tool_choice": ((None, "none", "auto"), "tool calls are not supported yet"),
    "functions": ((None, []), "tool calls are not supported yet"),
    "function_call": ((None, "none", "auto"), "tool calls are not supported yet"),
    "structured_outputs": ((None,), "structured outputs are not supported yet"),
    "guided_json": ((None,), "structured outputs are not supported yet"),
    "guided_regex": ((None,), "structured outputs are not supported yet"),
    "guided_choice": ((None,), "structured outputs are not supported yet"),
    "guided_grammar": ((None,), "structured outputs are not supported yet"),
    "prompt_embeds": ((None,), "prompts are texts or token ids"),
    "truncate_prompt_tokens": ((None,), "prompts are never cut; send a shorter one"),
    "logprob_token_ids": ((None, []), "choose the tokens with logprobs"),
    "return_tokens_as_token_ids": ((None, False), "use return_token_ids"),
    "allowed_token_ids": ((None, []), "use logit_bias"),
    "bad_words": ((None, []), "use logit_bias"),
    "priority": ((None, 0), "requests are served first come, first served"),
    "cache_salt": ((None,), "the prefix cache is one for all"),
    "kv_transfer_params": ((None,), "there is one engine"),
    "documents": ((None, []), "put them into the messages"),
    "chat_template": ((None,), "templates come from the model or from --chat-template, never from a request"),
    "modalities": ((None, ["text"]), "answers are text"),
    "audio": ((None,), "answers are text"),
    "mm_processor_kwargs": ((None,), "prompts are text"),
}
"""Fields that would change the answer, the values that ask for nothing, and what to do instead."""

_seen_unknown: set[frozenset[str]] = set()
_MOST_WARNINGS = 1000


class StreamOptions(BaseModel):
    """What a stream tells besides the answer."""

    include_usage: bool = False
    continuous_usage_stats: bool = False


class ResponseFormat(BaseModel):
    """The form of the answer; only `text` for now."""

    model_config = ConfigDict(extra="allow")
    type: str


class GenerationFields(BaseModel):
    """Fields of both generation routes."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)
    prompt_field: ClassVar[str]

    model: str | None = None
    n: int | None = None
    best_of: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[Int64, float] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    include_stop_str_in_output: bool = False
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True)] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = None
    min_tokens: int | None = None
    prompt_logprobs: Int64 | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    return_token_ids: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    request_id: str | None = None

    def check(self) -> None:
        """Refuse what is not supported and what makes no sense together; name unknown fields in the log.

        Raises:
            RequestError: `param` names the field.
        """
        extra = self.model_extra or {}
        for name, value in extra.items():
            harmless, remedy = REFUSED.get(name, ((value,), ""))
            if value not in harmless:
                raise RequestError(f"{name}: {remedy}", param=name)
        self._check_combinations()
        warn_unknown(extra)

    def sampling(self, defaults: DefaultSampling, **own: Any) -> SamplingParams:
        """Sampling settings with the model's defaults for what is left out; `own` are the route's fields.

        Raises:
            RequestError: a value is out of range; `param` names the field.
        """
        names = "n temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty logit_bias seed"
        given = {name: getattr(self, name) for name in f"{names} stop_token_ids min_tokens".split()}
        values = {**defaults.values, **{name: value for name, value in given.items() if value is not None}}
        if values.get("seed") == -1:
            del values["seed"]
        if 0 < values.get("temperature", 0) < LEAST_TEMPERATURE:
            values["temperature"] = LEAST_TEMPERATURE
        return SamplingParams(
            **values,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop or [],
            include_stop_str_in_output=self.include_stop_str_in_output,
            ignore_eos=self.ignore_eos,
            skip_special_tokens=self.skip_special_tokens,
            spaces_between_special_tokens=self.spaces_between_special_tokens,
            **own,
        )

    @property
    def wants_usage_chunk(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def wants_running_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.continuous_usage_stats

    def _check_combinations(self) -> None:
        if self.response_format is not None and self.response_format.type != "text":
            raise RequestError(
                f"response_format {self.response_format.type[:40]!r} is not supported yet; only text is",
                param="response_format",
            )
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise RequestError("best_of must equal n: answers are not ranked", param="best_of")
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream to be true", param="stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise RequestError("prompt_logprobs cannot be streamed; set stream to false", param="prompt_logprobs")


def warn_unknown(extra: Mapping[str, Any]) -> None:
    """Name fields that nothing reads in one line of the log, once for each set of names."""
    unknown = frozenset(name for name in extra if name not in WITHOUT_EFFECT and name not in REFUSED)
    if unknown and unknown not in _seen_unknown and len(_seen_unknown) < _MOST_WARNINGS:
        _seen_unknown.add(unknown)
        shown = ", ".join(sorted(name[:64] for name in unknown)[:20])
        log.warning("ignored unknown request fields: %s", ascii(shown))
