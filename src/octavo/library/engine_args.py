"""Settings of an engine as vLLM's users write them: keywords, or an object that holds them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from octavo.config import Settings
from octavo.config.values import kinds

log = logging.getLogger(__name__)

READ_HERE = frozenset({"max_logprobs", "stream_interval", "step_log"})
"""Settings of the server, and of its logs, that `LLM` or `AsyncLLM` read too."""
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
    """The same, under the name that vLLM's users know for `AsyncLLM`."""
