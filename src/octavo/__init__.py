"""Octavo serves FP8 mixture-of-experts language models: any batch, same bits, nothing lost."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.async_llm import AsyncLLM
    from octavo.async_llm import AsyncLLM as AsyncLLMEngine
    from octavo.inputs import TextPrompt, TokensPrompt
    from octavo.library.engine_args import AsyncEngineArgs, EngineArgs
    from octavo.llm import LLM
    from octavo.outputs import CompletionOutput, Logprob, RequestOutput
    from octavo.sampling import RequestOutputKind, SamplingParams
    from octavo.structured_outputs import StructuredOutputsParams
    from octavo.version import __version__

__all__ = [
    "LLM",
    "AsyncEngineArgs",
    "AsyncLLM",
    "AsyncLLMEngine",
    "CompletionOutput",
    "EngineArgs",
    "Logprob",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
    "__version__",
]

_HOMES = {
    "LLM": "octavo.llm",
    "AsyncEngineArgs": "octavo.library.engine_args",
    "AsyncLLM": "octavo.async_llm",
    "CompletionOutput": "octavo.outputs",
    "EngineArgs": "octavo.library.engine_args",
    "Logprob": "octavo.outputs",
    "RequestOutput": "octavo.outputs",
    "RequestOutputKind": "octavo.sampling",
    "SamplingParams": "octavo.sampling",
    "StructuredOutputsParams": "octavo.structured_outputs",
    "TextPrompt": "octavo.inputs",
    "TokensPrompt": "octavo.inputs",
    "__version__": "octavo.version",
}
"""Where each name lives: looked up at first use, so that importing `octavo` stays cheap."""
_ALIASES = {"AsyncLLMEngine": "AsyncLLM"}
_UNSERVED = {
    "LLMEngine": "LLM answers lists of prompts, and AsyncLLM takes and ends requests while others run",
    "BeamSearchParams": "beam search is not served; ask for n answers and choose by cumulative_logprob",
    "PoolingParams": "generating text is the only task",
}
"""Names of vLLM's to what to use instead."""


def __getattr__(name: str) -> Any:
    if name in _UNSERVED:
        # Of an AttributeError, `from octavo import ...` would not show the text.
        raise ImportError(f"octavo has no {name}: {_UNSERVED[name]}")
    name = _ALIASES.get(name, name)
    if name not in _HOMES:
        raise AttributeError(f"module 'octavo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
