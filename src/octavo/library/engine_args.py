"""Settings of an engine as vLLM's users write them: keywords, or an object that holds them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from octavo.config import Settings
from octavo.config.values import kinds
from octavo.config.vllm_names import Explained, Refused, VllmName

LONGEST_SHOWN = 80
"""Characters of a keyword with its value in a message."""

log = logging.getLogger(__name__)

READ_HERE = frozenset({"max_logprobs", "stream_interval", "step_log"})
"""Settings of the server, and of its logs, that `LLM` or `AsyncLLM` read too."""
_NO_CODE = "code of others is never run in the engine"
_CAPTURE = "the captured sizes follow from the promise of equal bits; enforce_eager turns capturing off"
_CONFIG = "config.json of the model folder says what the model is"
KEYWORDS: dict[str, VllmName] = {
    "skip_tokenizer_init": Explained("give token ids as prompts, and ask for detokenize=False", ("false",)),
    "allowed_local_media_path": Refused("text is the only modality"),
    "mm_processor_cache_gb": Explained("text is the only modality", ("0",)),
    "max_seq_len_to_capture": Explained(_CAPTURE),
    "max_context_len_to_capture": Explained(_CAPTURE),
    "disable_async_output_proc": Explained("answers do not depend on it", ("false",)),
    "disable_sliding_window": Explained("no model that is served has such a window"),
    "use_v2_block_manager": Explained("there is one kind of block manager", ("true",)),
    "num_scheduler_steps": Explained("the next step is always planned while one runs", ("1",)),
    "pooler_config": Refused("generating text is the only task"),
    "override_pooler_config": Refused("generating text is the only task"),
    "speculative_model": Refused("speculative decoding is not served"),
    "num_speculative_tokens": Refused("speculative decoding is not served"),
    "logits_processors": Refused(_NO_CODE, ("[]",)),
    "worker_cls": Refused(_NO_CODE, ("auto",)),
    "worker_extension_cls": Refused(_NO_CODE),
    "scheduler_cls": Refused(_NO_CODE),
    "attention_config": Explained("there is one proved kernel for each job", ("{}",)),
    "profiler_config": Explained("octavo bench and step_log tell where time goes", ("{}",)),
    "ignore_patterns": Explained("of a repo, only configuration, tokenizer and safetensors are downloaded"),
    "config_format": Refused(_CONFIG, ("auto", "hf")),
    "hf_config_path": Refused(_CONFIG),
}
"""Keywords of vLLM's `LLM` and `EngineArgs` that are no flags of `vllm serve` or no longer are, to what is said to them."""
SO_ANYWAY = frozenset({"disable_log_stats", "disable_uvicorn_access_log", "disable_fastapi_docs"})
"""Those that turn something off which only a server has."""


def read_settings(model: str, values: Mapping[str, Any]) -> Settings:
    """The settings of `LLM(model, **values)`; what is None and cannot be so is not set.

    Raises:
        ConfigError: an unknown name (says the nearest), a wrong value, or one that asks for what is not served.
    """
    known = kinds(Settings)
    given = {
        name: value for name, value in values.items() if value is not None or name not in known or known[name].optional
    }
    for name in KEYWORDS.keys() & given.keys():
        value = given.pop(name)
        KEYWORDS[name].take(f"{name}={value!r}"[:LONGEST_SHOWN], [str(value)])
    if given.get("hf_token") is True:
        given["hf_token"] = "true"
    settings = Settings.from_values({"model": model, **given})
    for field in dataclasses.fields(Settings):
        of_server = field.metadata["group"] in ("Server", "Logs") and field.name not in READ_HERE | SO_ANYWAY
        if of_server and getattr(settings, field.name) != field.default:
            log.warning("%s has no effect here: it is a setting of octavo serve", field.name)
    return settings


class EngineArgs:
    """Settings for `LLM.from_engine_args` and `AsyncLLM.from_engine_args`: any of `Settings`, or vLLM's names.

    Raises:
        ConfigError: as `read_settings`.

    Example:
        AsyncLLM.from_engine_args(AsyncEngineArgs(model="octavo-tiny", max_model_len=1024))
    """

    def __init__(self, model: str = "octavo-tiny", **values: Any) -> None:
        self.settings = read_settings(model, values)

    def __getattr__(self, name: str) -> Any:
        if name == "settings" or not hasattr(Settings, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.settings, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r})"


class AsyncEngineArgs(EngineArgs):
    """Equals `EngineArgs`, under the name that vLLM's users know for `AsyncLLM`."""
