"""Tells of the model that an `LLM` or `AsyncLLM` has open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from octavo.config import Settings
from octavo.library import unserved
from octavo.library.prompts import PromptReader
from octavo.library.tokenizer import LLMTokenizer
from octavo.sampling import SamplingParams
from octavo.startup import OpenWorkers, Runtime, start


class ModelHandle:
    """A model that is open: `settings` as they were read, and what follows from them and from the model."""

    settings: Settings

    def _open(self, settings: Settings, workers: OpenWorkers) -> Runtime:
        """Start the model.

        Raises:
            ConfigError, CheckpointError, WorkerDiedError: as `start`.
        """
        self.settings = settings
        runtime = start(settings, workers)
        self._config = runtime.config
        self._model = runtime.model
        self._prompts = PromptReader(runtime.model, settings, runtime.config.max_request_tokens)
        self._tokenizer = LLMTokenizer(runtime.model.tokenizer, self._prompts, runtime.model.folder)
        return runtime

    @property
    def vocab_size(self) -> int:
        """Token ids go from 0 to one less."""
        return self._model.facts.vocab_size

    @property
    def max_model_len(self) -> int:
        """Most tokens of a request, prompt and answer together."""
        return self._config.max_request_tokens

    def get_default_sampling_params(self) -> SamplingParams:
        """Returns the settings of requests that have none of their own: the model's generation_config.json over vLLM's defaults."""
        defaults = self._model.default_sampling
        sampling = SamplingParams(**defaults.values)
        return sampling if defaults.max_tokens is None else sampling.replace(max_tokens=defaults.max_tokens)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            unserved.missing(type(self).__name__, name)
