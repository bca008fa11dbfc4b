"""Octavo serves FP8 mixture-of-experts language models: any batch, same bits, nothing lost."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from octavo.llm import LLM
    from octavo.outputs import CompletionOutput, Logprob, RequestOutput
    from octavo.sampling import SamplingParams
    from octavo.version import __version__

__all__ = ["LLM", "CompletionOutput", "Logprob", "RequestOutput", "SamplingParams", "__version__"]

_HOMES = {
    "LLM": "octavo.llm",
    "CompletionOutput": "octavo.outputs",
    "Logprob": "octavo.outputs",
    "RequestOutput": "octavo.outputs",
    "SamplingParams": "octavo.sampling",
    "__version__": "octavo.version",
}
"""Where each name lives: looked up at first use, so that importing `octavo` stays cheap."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'octavo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
