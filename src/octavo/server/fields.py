"""Request fields that completions and chat share. Rules and defaults are vLLM's; every field is honoured, refused with
a 400 that names it, or known to change nothing."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StrictInt

from octavo.answers import Prompt
from octavo.answers.prompt import cut
from octavo.engine.acceptance import checked_prompt
from octavo.errors import RequestError
from octavo.sampling import SamplingParams
from octavo.server.body import Body, BodyReader
from octavo.server.errors import checked_id
from octavo.server.structure_fields import StructureFields
from octavo.text import check_stops
from octavo.text.bad_words import forbidden_ids

Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]
TokenId = Annotated[StrictInt, Field(ge=0, lt=2**63, description="Token id within the vocabulary")]
Json = dict[str, Any]

SMALL_FIELDS = frozenset({"model", "request_id", "stream_options"})
"""Fields that are no numbers, and yet small once they are checked."""
LEAST_TEMPERATURE = 0.01
"""Smaller ones above 0 are raised to it, as vLLM does: below, float32 logits overflow."""


class StreamOptions(BaseModel):
    """The options of a stream: what it tells besides the answer."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(Body):
    """Fields of every generation route: how tokens are chosen, where an answer ends, and how it is told."""

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
    min_tokens: int | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    stream: bool | None = None
    request_id: str | None = None

    def checked_request_id(self) -> str | None:
        return None if self.request_id is None else checked_id(self.request_id, "request_id")


class GenerationFields(SamplingFields, StructureFields):
    """Fields of completions and chat."""

    n: int | None = None
    best_of: int | None = None
    allowed_token_ids: Annotated[list[TokenId], Field(fail_fast=True)] | None = None
    bad_words: Annotated[list[str], Field(fail_fast=True)] | None = None
    logprob_token_ids: Annotated[list[TokenId], Field(fail_fast=True)] | None = None
    return_tokens_as_token_ids: bool = False
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] = "left"
    cache_salt: Annotated[str, Field(min_length=1)] | None = None
    priority: Int64 = 0
    max_tokens: int | None = None
    prompt_logprobs: Int64 | None = None
    return_token_ids: bool | None = None
    stream_options: StreamOptions | None = None

    def settle(self) -> None:
        """Forget all fields that may be large: they have become prompts and sampling settings, and each would cost the
        server's process a time that grows with it."""
        for name, value in vars(self).items():
            if isinstance(value, str | list | dict | BaseModel) and name not in SMALL_FIELDS:
                setattr(self, name, None)
        if self.model_extra is not None:
            self.model_extra.clear()
        self.model_fields_set.clear()

    def sampling(self, reader: BodyReader, **own: Any) -> SamplingParams:
        """Sampling settings with the model's defaults for what is left out; `own` are the route's fields.

        Raises:
            RequestError: a value is out of range; `param` names the field.
        """
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        check_stops(stop)
        for name in ("logit_bias", "stop_token_ids", "allowed_token_ids"):
            _check_ids(name, getattr(self, name), reader.engine_config.vocab_size)
        names = "n temperature top_p top_k min_p presence_penalty frequency_penalty repetition_penalty logit_bias seed"
        given = {name: getattr(self, name) for name in f"{names} stop_token_ids min_tokens".split()}
        values = {**reader.default_sampling.values, **{name: v for name, v in given.items() if v is not None}}
        if values.get("seed") == -1:
            del values["seed"]
        if 0 < values.get("temperature", 0) < LEAST_TEMPERATURE:
            values["temperature"] = LEAST_TEMPERATURE
        sampling = SamplingParams(
            **values,
            stop=stop,
            include_stop_str_in_output=self.include_stop_str_in_output,
            ignore_eos=self.ignore_eos,
            skip_special_tokens=self.skip_special_tokens,
            spaces_between_special_tokens=self.spaces_between_special_tokens,
            structured_outputs=self.structure(),
            allowed_token_ids=self.allowed_token_ids,
            bad_words=self.bad_words,
            bad_word_ids=forbidden_ids(self.bad_words or [], reader.tokenizer),
            logprob_token_ids=self.logprob_token_ids,
            **own,
        )
        if self.best_of not in (None, sampling.n):  # of an n that can be: another one is what is wrong
            raise RequestError("best_of must equal n: answers are not ranked", param="best_of")
        return sampling

    def prompt_of(
        self, reader: BodyReader, index: int, ids: Sequence[int], text: str | None, answer: int | None
    ) -> Prompt:
        """The prompt of token ids `ids`, cut as asked. `answer`: tokens that it leaves room for; None: one.

        Raises:
            RequestError: it cannot be served.
        """
        kept = self._cut(ids, reader.most_tokens - max(1, answer or 0))
        if len(kept) < len(ids):
            text = reader.tokenizer.decode(kept, skip_special_tokens=False)
        checked = checked_prompt(kept, reader.engine_config)
        return Prompt(index, checked, text, self.cache_salt, self.priority)

    def _cut(self, ids: Sequence[int], room: int) -> Sequence[int]:
        most = self.truncate_prompt_tokens
        if most is None or room < 0:
            return ids
        if most > room:
            raise RequestError(
                f"truncate_prompt_tokens is {most}, but at most {room} prompt tokens fit beside the answer",
                param="truncate_prompt_tokens",
            )
        if most == 0:
            raise RequestError(
                "truncate_prompt_tokens is 0, which leaves no prompt; at least one token is needed",
                param="truncate_prompt_tokens",
            )
        return cut(ids, room if most == -1 else most, right=self.truncation_side == "right")

    @property
    def wants_usage_chunk(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def wants_running_usage(self) -> bool:
        return self.stream_options is not None and bool(self.stream_options.continuous_usage_stats)

    def check_combinations(self) -> None:
        """Refuse what makes no sense together.

        Raises:
            RequestError: `param` names the field.
        """
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options needs stream to be true", param="stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise RequestError("prompt_logprobs cannot be streamed; set stream to false", param="prompt_logprobs")


def _check_ids(name: str, ids: Sized | None, vocabulary: int) -> None:
    """More entries than ids there are would repeat some: they are refused uncounted."""
    if ids is not None and len(ids) > vocabulary:
        raise RequestError(f"{name} has {len(ids)} entries, but there are only {vocabulary} token ids", param=name)
