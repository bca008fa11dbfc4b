"""xgrammar without PyTorch and transformers: it imports both, needs neither for what is done here, and starts in an eighth of the time."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

ABSENT = ("torch", "transformers")


class Nothing:
    """Stands for any class, constant or function of a module that is absent; it does nothing, but may be named."""

    def __init__(self, *_arguments: Any, **_options: Any) -> None:
        pass


class AbsentModule(ModuleType):
    """Has every name, so that types can be annotated and defaults be made."""

    def __getattr__(self, name: str) -> type[Nothing]:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing


def import_lean() -> None:
    """Imports xgrammar with stand-ins for what it does not need here, and has it follow a grammar.

    For processes that use neither module themselves: they cannot import them any more.

    Raises:
        Exception: this version of xgrammar needs more; only a new process can import it whole.
    """
    # It does without PyTorch where there is none, so it is told so, and sees no stand-in.
    sys.modules["torch"] = None  # type: ignore[assignment]
    __import__("tvm_ffi")
    for name in ABSENT:
        sys.modules[name] = AbsentModule(name)
    _try_out()


def _try_out() -> None:
    import numpy as np
    import xgrammar

    letters = xgrammar.TokenizerInfo(["a", "b", ""], xgrammar.VocabType.RAW, vocab_size=3, stop_token_ids=[2])
    compiled = xgrammar.GrammarCompiler(letters, max_threads=1, cache_enabled=False).compile_regex("ba")
    compiled = xgrammar.CompiledGrammar.deserialize_json(compiled.serialize_json(), letters)
    matcher = xgrammar.GrammarMatcher(compiled)
    bits = np.zeros((1, 1), dtype=np.int32)
    for token, allowed in ((1, 0b010), (0, 0b001), (2, 0b100)):
        matcher.fill_next_token_bitmask(bits)
        if bits[0, 0] & 0b111 != allowed or not matcher.accept_token(token):
            raise ImportError(f"xgrammar allows {bits[0, 0] & 0b111:#b} where {allowed:#b} is right")
