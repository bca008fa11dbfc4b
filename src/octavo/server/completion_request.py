"""The body of POST /v1/completions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import Field, StrictInt, WrapValidator
from pydantic_core import PydanticCustomError

from octavo.errors import RequestError
from octavo.sampling import SamplingParams
from octavo.server.fields import GenerationFields, Int64
from octavo.text.generation_config import DefaultSampling

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


Prompt = Annotated[
    str | TokenIds | Annotated[list[str], Field(fail_fast=True)] | Annotated[list[TokenIds], Field(fail_fast=True)],
    Field(union_mode="left_to_right"),
    WrapValidator(_one_message),
]


class CompletionRequest(GenerationFields):
    """Continue each prompt."""

    prompt_field: ClassVar[str] = "prompt"

    prompt: Prompt
    echo: bool = False
    logprobs: Int64 | None = None
    add_special_tokens: bool = True

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, one or more.

        Raises:
            RequestError: none, or too many.
        """
        prompt: Any = self.prompt
        if not prompt:
            raise RequestError("prompt is empty: at least one token is needed", param="prompt")
        prompts = [prompt] if isinstance(prompt, str) or isinstance(prompt[0], int) else prompt
        if len(prompts) > MAX_PROMPTS:
            raise RequestError(
                f"prompt holds {len(prompts)} prompts, at most {MAX_PROMPTS} go in a call", param="prompt"
            )
        return prompts

    @property
    def only_scores(self) -> bool:
        """Nothing is to be made: the prompt is wanted back, with its logprobs."""
        return self.echo and self.max_tokens == 0

    def to_sampling(self, defaults: DefaultSampling) -> SamplingParams:
        """Raises as `GenerationFields.sampling`; `max_tokens` is left to the prompt's length if not set."""
        prompt_logprobs = self.prompt_logprobs
        if prompt_logprobs is None and self.echo:
            prompt_logprobs = self.logprobs
        return self.sampling(
            defaults,
            max_tokens=1 if self.only_scores else self.max_tokens,
            logprobs=self.logprobs,
            prompt_logprobs=prompt_logprobs,
        )
