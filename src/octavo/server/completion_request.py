"""The body of POST /v1/completions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, StrictInt, WrapValidator
from pydantic_core import PydanticCustomError

from octavo.answers import Prompt
from octavo.errors import RequestError
from octavo.sampling import SamplingParams
from octavo.server.body import BodyReader
from octavo.server.call import Call, bounded, tokenize
from octavo.server.fields import GenerationFields, Int64

MAX_PROMPTS = 1024
"""Most prompts of a call (vLLM's VLLM_MAX_COMPLETION_PROMPTS)."""
DEFAULT_MAX_TOKENS = 16

TokenIds = Annotated[list[StrictInt], Field(fail_fast=True)]


def _one_message(value: Any, inner: Callable[[Any], Any]) -> Any:
    try:
        return inner(value)
    except ValueError:
        raise PydanticCustomError(
            "prompt_type", "must be a text, a list of texts, a list of token ids or a list of lists of token ids"
        ) from None


PromptField = Annotated[
    str | TokenIds | Annotated[list[str], Field(fail_fast=True)] | Annotated[list[TokenIds], Field(fail_fast=True)],
    Field(union_mode="left_to_right"),
    WrapValidator(_one_message),
]


class CompletionRequest(GenerationFields):
    """Continue each prompt."""

    prompt: PromptField
    echo: bool = False
    logprobs: Int64 | None = None
    add_special_tokens: bool = True

    @property
    def only_scores(self) -> bool:
        """Nothing is to be made: the prompt is wanted back, with its logprobs."""
        return self.echo and self.max_tokens == 0

    def prepare(self, reader: BodyReader) -> Call[CompletionRequest]:
        self.check_combinations()
        sampling = self._sampling(reader)
        room = DEFAULT_MAX_TOKENS if self.max_tokens is None else self.max_tokens
        prompts = [self._read(reader, index, source, room) for index, source in enumerate(self._sources())]
        asked = ("max_tokens", sampling.max_tokens if self.max_tokens is not None else None)
        samplings = [bounded(reader, sampling, prompt, asked, default=DEFAULT_MAX_TOKENS) for prompt in prompts]
        self.settle()
        return Call(self, prompts, samplings, only_scores=self.only_scores).checked(reader.engine_config)

    def _sources(self) -> list[str | list[int]]:
        """The prompts, one or more.

        Raises:
            RequestError: none, or too many.
        """
        prompt: Any = self.prompt
        if not prompt:
            raise RequestError("prompt is empty: at least one token is needed", param="prompt")
        prompts: list[str | list[int]] = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
        if len(prompts) > MAX_PROMPTS:
            raise RequestError(
                f"prompt holds {len(prompts)} prompts, at most {MAX_PROMPTS} go in a call", param="prompt"
            )
        return prompts

    def _read(self, reader: BodyReader, index: int, source: str | list[int], room: int) -> Prompt:
        if not isinstance(source, str):
            return self.prompt_of(reader, index, source, None, room)
        cut = self.truncate_prompt_tokens is not None
        ids = tokenize(reader, source, add_special_tokens=self.add_special_tokens, cut=cut)
        return self.prompt_of(reader, index, ids, source, room)

    def _sampling(self, reader: BodyReader) -> SamplingParams:
        """Raises as `GenerationFields.sampling`; `max_tokens` is left to the prompt's length if not set."""
        if self.logprob_token_ids is not None and self.logprobs is None:
            raise RequestError("logprob_token_ids needs logprobs, a number", param="logprob_token_ids")
        prompt_logprobs = self.prompt_logprobs
        if prompt_logprobs is None and self.echo:
            prompt_logprobs = self.logprobs
        return self.sampling(
            reader,
            max_tokens=1 if self.only_scores else self.max_tokens,
            logprobs=self.logprobs,
            prompt_logprobs=prompt_logprobs,
        )
