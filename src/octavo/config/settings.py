"""What a user may set; one definition for the command line, YAML files, environment variables and `LLM(...)`."""

from __future__ import annotations

import dataclasses
import difflib
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from octavo.config.foreign import ALIASES, FOREIGN_FLAGS
from octavo.config.values import kinds
from octavo.errors import ConfigError

log = logging.getLogger(__name__)

ENV_PREFIX = "OCTAVO_"

_KUBERNETES = re.compile(r"SERVICE_HOST|SERVICE_PORT\w*|PORT_\d+_(TCP|UDP)\w*")
"""Variables that Kubernetes sets in every pod beside a service named `octavo`."""


def setting(default: Any, help: str, group: str, **extra: Any) -> Any:
    """A field of `Settings` with its help text and the group it is listed under.

    Args:
        extra: `choices` (allowed values), `minimum` (smallest allowed number), `none_words` (words that mean None),
            `secret` (never shown).
    """
    return dataclasses.field(
        default=default, repr=not extra.get("secret", False), metadata={"help": help, "group": group, **extra}
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """User settings, named after vLLM's flags (`--max-num-seqs` is `max_num_seqs`).

    Raises:
        ConfigError: a value that cannot work.
    """

    # Model
    model: str = setting("octavo-tiny", "Model folder, Hugging Face repo id, or octavo-tiny (embedded)", "Model")
    served_model_name: tuple[str, ...] = setting((), "Names in the API; the first is the one answered with", "Model")
    tokenizer: str | None = setting(None, "Folder or repo id of the tokenizer, if not the model's", "Model")
    revision: str | None = setting(None, "Branch, tag or commit of the repo", "Model")
    load_format: str = setting(
        "auto", "auto: safetensors; dummy: random weights from config.json", "Model", choices=("auto", "dummy")
    )
    max_model_len: int | None = setting(
        None,
        "Most tokens per request (accepts 32k); the model's own limit if not set",
        "Model",
        minimum=1,
        none_words=("auto", "-1"),
    )
    device: str = setting("auto", "auto, cpu or cuda", "Model", choices=("auto", "cpu", "cuda"))
    seed: int = setting(0, "Base seed of requests that bring none, and of dummy weights", "Model", minimum=0)
    chat_template: str | None = setting(None, "File or text of a Jinja chat template", "Model")
    default_chat_template_kwargs: dict[str, Any] | None = setting(
        None, "JSON: arguments for the chat template", "Model"
    )
    generation_config: str = setting(
        "auto", "Where default sampling comes from: auto (model folder), vllm (none) or a folder", "Model"
    )
    override_generation_config: dict[str, Any] | None = setting(None, "JSON: default sampling settings", "Model")

    # Memory and schedule
    gpu_memory_utilization: float = setting(0.92, "Share of GPU memory to use", "Memory and schedule")
    kv_cache_memory_bytes: int | None = setting(
        None, "Exact size of the KV cache (accepts 1g)", "Memory and schedule", minimum=1
    )
    num_gpu_blocks_override: int | None = setting(None, "Exact number of KV blocks", "Memory and schedule", minimum=1)
    block_size: int = setting(16, "Tokens per KV block", "Memory and schedule", minimum=1)
    enable_prefix_caching: bool = setting(True, "Reuse KV blocks of equal prefixes", "Memory and schedule")
    max_num_seqs: int = setting(256, "Most requests running at once", "Memory and schedule", minimum=1)
    max_num_batched_tokens: int = setting(8192, "Token budget of a step", "Memory and schedule", minimum=1)
    long_prefill_token_threshold: int = setting(
        0, "Most prompt tokens of one request per step; 0: no bound", "Memory and schedule", minimum=0
    )
    max_num_queued_reqs: int | None = setting(
        None, "Most waiting requests; beyond them 503", "Memory and schedule", minimum=1
    )
    max_num_queued_tokens: int | None = setting(
        None, "Most waiting prompt tokens; beyond them 503", "Memory and schedule", minimum=1
    )
    enforce_eager: bool = setting(False, "No CUDA graphs", "Memory and schedule")
    cpu_threads: int = setting(
        0, "Threads for tensor operations on a CPU; 0: all cores", "Memory and schedule", minimum=0
    )

    # Server
    host: str = setting("0.0.0.0", "Address to bind", "Server")
    port: int = setting(8000, "Port to bind", "Server", minimum=0)
    api_key: tuple[str, ...] = setting((), "Keys that clients must send as Bearer token", "Server", secret=True)
    allowed_origins: tuple[str, ...] = setting(("*",), "JSON list of CORS origins", "Server")
    shutdown_timeout: float = setting(30.0, "Seconds to let running requests finish at SIGTERM", "Server", minimum=0)
    sse_keep_alive_interval: float = setting(
        15.0, "Seconds of silence before an SSE comment line; 0: none", "Server", minimum=0
    )
    stream_interval: int = setting(1, "Tokens per streamed chunk", "Server", minimum=1)
    max_logprobs: int = setting(20, "Most logprobs per token a request may ask for", "Server", minimum=0)
    enable_force_include_usage: bool = setting(False, "Usage in every stream", "Server")
    enable_request_id_headers: bool = setting(True, "Answer with X-Request-Id", "Server")

    # Logs
    logging_level: str = setting(
        "info", "debug, info, warning or error", "Logs", choices=("debug", "info", "warning", "error")
    )
    log_stats_interval: float = setting(10.0, "Seconds between statistics lines", "Logs", minimum=0.1)
    disable_log_stats: bool = setting(False, "No periodic statistics line", "Logs")
    enable_log_requests: bool = setting(False, "Log each request", "Logs")
    max_log_len: int | None = setting(None, "Most prompt characters in the request log", "Logs", minimum=0)
    disable_uvicorn_access_log: bool = setting(False, "No access log", "Logs")
    disable_access_log_for_endpoints: tuple[str, ...] = setting((), "Paths kept out of the access log", "Logs")
    step_log: str | None = setting(None, "File that gets one JSON line per step: tokens, requests, KV use", "Logs")

    # Worker
    worker_start_timeout: float = setting(1800.0, "Seconds a worker may take to load the model", "Worker", minimum=1)
    keep_weights: bool = setting(
        True,
        "Hold the weights in a process of their own and the next worker ready: a worker that dies is replaced sooner",
        "Worker",
    )
    worker_step_timeout: float = setting(
        60.0,
        "Seconds a step may take before its worker counts as hung, or ten times the slowest step, if that is longer",
        "Worker",
        minimum=0.1,
    )
    inject_fault: tuple[str, ...] = setting(
        (),
        "For development: make the worker exit, kill, hang, raise, nan or out-of-bounds, at a step or for a request "
        "(kill@step:7, nan@request:ID, exit@request:ID+ID)",
        "Worker",
    )
    max_worker_restarts: int = setting(
        10,
        "Times a dead worker is replaced within worker_restart_window before the server gives up",
        "Worker",
        minimum=0,
    )
    deaths_before_blame: int = setting(
        2,
        "Workers that must die of themselves with a request alone, others living in between, before it is failed",
        "Worker",
        minimum=1,
    )
    worker_restart_window: float = setting(600.0, "Seconds that max_worker_restarts counts over", "Worker", minimum=1)
    crash_dir: str | None = setting(
        "~/.local/state/octavo/crashes",
        "Folder that gets one folder per death of a worker, for octavo replay; none: write nothing",
        "Worker",
    )
    crash_keep_prompts: bool = setting(
        False, "Write token ids of requests in crash files, which else have none", "Worker"
    )
    max_crash_folders: int = setting(20, "Crash folders kept; the oldest are removed", "Worker", minimum=1)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field.name, getattr(self, field.name), field.metadata)
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError("gpu_memory_utilization", f"must be in (0, 1], got {self.gpu_memory_utilization}")
        if self.port > 65535:
            raise ConfigError("port", f"must be at most 65535, got {self.port}")

    @property
    def model_names(self) -> tuple[str, ...]:
        """Names the API knows the model by; the first is the one answered with."""
        return self.served_model_name or (self.model,)

    def public(self) -> dict[str, Any]:
        """All settings as plain data, secrets hidden."""
        return {
            field.name: "***" if field.metadata.get("secret") and value else value
            for field in dataclasses.fields(self)
            for value in [getattr(self, field.name)]
        }

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from Python values or text; also takes the vLLM names of `config/foreign.py`.

        Raises:
            ConfigError: an unknown name (says the nearest) or a wrong value.
        """
        return _build([_Layer(values, str)])

    @classmethod
    def from_sources(
        cls, flags: Mapping[str, Any], *, config: Path | None = None, environ: Mapping[str, str] | None = None
    ) -> Settings:
        """Settings from the command line, else the YAML file `config`, else `OCTAVO_<NAME>`, else the defaults.

        Raises:
            ConfigError: an unknown name (says the nearest) or a wrong value; names the source as the user knows it.
        """
        layers = [_Layer(_from_environ(environ or {}), lambda name: ENV_PREFIX + name.upper())]
        if config is not None:
            layers.append(_Layer(_from_yaml(config), lambda name: f"{name.replace('_', '-')} in {config}"))
        layers.append(_Layer(flags, flag_name))
        return _build(layers)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """One source of settings; `label` says how its user writes a name."""

    values: Mapping[str, Any]
    label: Callable[[str], str]


def flag_name(name: str) -> str:
    """`max_num_seqs` as it is written on the command line: `--max-num-seqs`."""
    return "--" + name.replace("_", "-")


def nearest(name: str, names: list[str]) -> str:
    """A hint such as ` (did you mean --max-num-seqs?)`, or nothing if no name is near."""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _build(layers: list[_Layer]) -> Settings:
    """Read every value with the kind of its field; later layers win."""
    known = kinds(Settings)
    values: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for layer in layers:
        for raw_name, raw in layer.values.items():
            name, label = raw_name.replace("-", "_"), layer.label(raw_name)
            foreign = FOREIGN_FLAGS.get(ALIASES.get(raw_name, name.replace("_", "-")))
            if name in known:
                try:
                    values[name] = known[name].read(raw)
                except ValueError as exc:
                    raise ConfigError(label, str(exc)) from None
                labels[name] = label
            elif foreign is not None:
                foreign.take(raw)
            else:
                raise ConfigError(label, "unknown setting" + nearest(label, [layer.label(name) for name in known]))
    try:
        return Settings(**values)
    except ConfigError as exc:
        label = labels.get(exc.setting, exc.setting)
        raise ConfigError(label, exc.message.removeprefix(f"{exc.setting}: ")) from None


def _check(name: str, value: Any, rules: Mapping[str, Any]) -> None:
    choices, minimum = rules.get("choices"), rules.get("minimum")
    if choices is not None and value not in choices:
        raise ConfigError(name, f"must be one of {', '.join(choices)}, got {value!r}")
    if minimum is not None and value is not None and not value >= minimum:
        raise ConfigError(name, f"must be at least {minimum}, got {value}")


def _from_environ(environ: Mapping[str, str]) -> dict[str, str]:
    values = {name.removeprefix(ENV_PREFIX): raw for name, raw in environ.items() if name.startswith(ENV_PREFIX)}
    return {
        name.lower(): raw
        for name, raw in values.items()
        if not _KUBERNETES.fullmatch(name) and not raw.startswith(("tcp://", "udp://"))
    }


def _from_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError("--config", f"cannot read {path}: {exc.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError("--config", f"{path} is not YAML: {exc}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError("--config", f"{path} must map setting names to values")
    return {str(name): value for name, value in raw.items()}
