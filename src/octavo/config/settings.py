"""Defines what a user may set, once for the command line, YAML files, environment variables and `LLM(...)`."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from octavo.config.values import kinds
from octavo.config.vllm_flags import ALIASES, VLLM_FLAGS
from octavo.config.vllm_variables import from_vllm, is_of_kubernetes
from octavo.errors import ConfigError

log = logging.getLogger(__name__)

ENV_PREFIX = "OCTAVO_"
CLOSE = 0.8
"""How alike names must be for a hint, as difflib counts: a wrong hint leads further astray than none."""


TOOL_CALL_PARSERS = (
    "hermes",
    "qwen3",
    "qwen3_coder",
    "qwen3_xml",
    "glm45",
    "glm47",
    "minimax_m2",
    "mistral",
    "llama3_json",
    "llama4_json",
    "pythonic",
    "llama4_pythonic",
)
"""Names of the forms in which models write calls."""
REASONING_PARSERS = ("qwen3", "glm45", "deepseek_r1", "minimax", "minimax_m2")
"""Names of the ways in which models mark thoughts."""


def setting(default: Any, help: str, group: str, **extra: Any) -> Any:
    """A field of `Settings` with its help text and the group it is listed under.

    Args:
        extra: `choices` (allowed values), `minimum` (smallest allowed number), `none_words` (words that mean None),
            `bare` (what the flag alone means), `secret` (never shown).
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
    tokenizer_revision: str | None = setting(
        None,
        "Branch, tag or commit of the tokenizer's repo; the model's revision if not set and it is one repo",
        "Model",
    )
    download_dir: str | None = setting(None, "Folder for downloaded models, if not that of HF_HOME", "Model")
    hf_token: str | None = setting(
        None,
        "Token for Hugging Face; the flag alone: the one stored on this machine",
        "Model",
        secret=True,
        bare="true",
    )
    load_format: str = setting(
        "auto",
        "auto: safetensors; dummy: random weights from config.json",
        "Model",
        choices=("auto", "safetensors", "dummy"),
    )
    dtype: str = setting(
        "auto",
        "Type that models are computed in: bfloat16. float16 (half) is taken for FP8 models, with a word of warning",
        "Model",
        choices=("auto", "bfloat16", "float16", "half"),
    )
    quantization: str = setting(
        "auto",
        "How weights are stored, as config.json says (auto); fp8 makes FP8 of a bfloat16 checkpoint as it is loaded",
        "Model",
        choices=("auto", "fp8", "compressed-tensors"),
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
    chat_template_content_format: str = setting(
        "auto",
        "Content of messages as the template gets it: string, openai (a list of parts), or what it can show",
        "Model",
        choices=("auto", "string", "openai"),
    )
    generation_config: str = setting(
        "auto", "Where default sampling comes from: auto (model folder), vllm (none) or a folder", "Model"
    )
    hf_overrides: dict[str, Any] | None = setting(
        None,
        "JSON: fields instead of those in the model's config.json, such as rope_scaling; null: without it",
        "Model",
    )
    override_generation_config: dict[str, Any] | None = setting(None, "JSON: default sampling settings", "Model")

    # Memory and schedule
    gpu_memory_utilization: float = setting(0.92, "Share of the GPU's memory for this server", "Memory and schedule")
    kv_cache_memory_bytes: int | None = setting(
        None, "Exact size of the KV cache (accepts 1g)", "Memory and schedule", minimum=1
    )
    kv_cache_dtype: str = setting(
        "auto",
        "What keys and values are kept in: bfloat16, fp8 (fp8_e4m3; half the memory, scales from the checkpoint or 1), "
        "or auto: as the checkpoint was made for",
        "Memory and schedule",
        choices=("auto", "bfloat16", "fp8", "fp8_e4m3"),
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
    allowed_methods: tuple[str, ...] = setting(("*",), "JSON list of CORS methods", "Server")
    allowed_headers: tuple[str, ...] = setting(("*",), "JSON list of CORS headers", "Server")
    allow_credentials: bool = setting(False, "Let browsers of other origins send cookies", "Server")
    disable_fastapi_docs: bool = setting(False, "No /openapi.json, and no pages made from it", "Server")
    http_timeout_keep_alive: int = setting(
        75, "Seconds an idle connection stays open; longer than clients keep theirs", "Server", minimum=1
    )
    shutdown_timeout: float = setting(30.0, "Seconds to let running requests finish at SIGTERM", "Server", minimum=0)
    sse_keep_alive_interval: float = setting(
        15.0, "Seconds of silence before an SSE comment line; 0: none", "Server", minimum=0
    )
    stream_interval: int = setting(1, "Tokens per streamed chunk", "Server", minimum=1)
    max_logprobs: int = setting(
        20, "Most logprobs per token a request may ask for; -1: the whole vocabulary", "Server", minimum=-1
    )
    enable_auto_tool_choice: bool = setting(
        True, "Let the model call tools where a request does not say whether it shall", "Server"
    )
    tool_call_parser: str = setting(
        "auto",
        "How the model writes calls of tools; auto: as its chat template shows",
        "Server",
        choices=("auto", "none", *TOOL_CALL_PARSERS),
    )
    exclude_tools_when_tool_choice_none: bool = setting(
        False, "Keep tools out of the prompt where tool_choice is none", "Server"
    )
    reasoning_parser: str = setting(
        "auto",
        "How the model marks its thoughts, which answers have apart; auto: as its chat template shows; none: leave them in",
        "Server",
        choices=("auto", "none", *REASONING_PARSERS),
    )
    response_role: str = setting("assistant", "Role of chat answers, unless they continue the last message", "Server")
    enable_force_include_usage: bool = setting(False, "Usage in every stream", "Server")
    enable_request_id_headers: bool = setting(True, "Answer with X-Request-Id", "Server")

    # Logs
    logging_level: str = setting(
        "info",
        "debug, info, warning, error or critical, of the server and of the processes it starts",
        "Logs",
        choices=("debug", "info", "warning", "error", "critical"),
    )
    log_stats_interval: float = setting(10.0, "Seconds between statistics lines", "Logs", minimum=0.1)
    disable_log_stats: bool = setting(False, "No periodic statistics line", "Logs")
    enable_log_requests: bool = setting(False, "Log each request", "Logs")
    enable_log_outputs: bool = setting(False, "Log each answer too; needs enable_log_requests", "Logs")
    max_log_len: int | None = setting(None, "Most characters of a prompt or an answer in the log", "Logs", minimum=0)
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
        if "" in self.api_key:
            raise ConfigError("api_key", "holds an empty key, which everybody has; leave it out to ask for none")
        if self.enable_log_outputs and not self.enable_log_requests:
            raise ConfigError("enable_log_outputs", "needs enable_log_requests, which says what was answered")

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
        """Settings from Python values or text; also takes the vLLM names of `config/vllm_flags.py`.

        Raises:
            ConfigError: an unknown name (says the nearest) or a wrong value.
        """
        return _build([_Layer(values, str)])

    @classmethod
    def from_sources(
        cls, flags: Mapping[str, Any], *, config: Path | None = None, environ: Mapping[str, str] | None = None
    ) -> Settings:
        """Settings from the command line, else the YAML file `config`, else `OCTAVO_<NAME>`, else vLLM's
        variables that mean the same, else the defaults.

        Raises:
            ConfigError: an unknown name (says the nearest) or a wrong value; names the source as the user knows it.
        """
        honoured = from_vllm(environ or {})
        layers = [
            _Layer({name: said.value for name, said in honoured.items()}, lambda name: honoured[name].variable),
            _Layer(_from_environ(environ or {}), lambda name: ENV_PREFIX + name.upper()),
        ]
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


def nearest(name: str, labels: Mapping[str, str]) -> str:
    """A hint such as `; did you mean --max-num-seqs?`, or nothing if no name is near; `labels`: name to how it is
    written."""
    close = difflib.get_close_matches(name, labels, n=1, cutoff=CLOSE)
    return f"; did you mean {labels[close[0]]}?" if close else ""


def _build(layers: list[_Layer]) -> Settings:
    """Read every value with the kind of its field; later layers win."""
    known = kinds(Settings)
    with_choices = {field.name for field in dataclasses.fields(Settings) if "choices" in field.metadata}
    values: dict[str, Any] = {}
    labels: dict[str, str] = {}
    for layer in layers:
        for raw_name, raw in layer.values.items():
            name, label = ALIASES.get(raw_name, raw_name).replace("-", "_"), layer.label(raw_name)
            vllm_flag = VLLM_FLAGS.get(ALIASES.get(raw_name, name.replace("_", "-")))
            if name in with_choices and raw in (None, ""):
                continue  # vLLM's way not to choose
            if name in known:
                try:
                    values[name] = known[name].read(raw)
                except ValueError as exc:
                    raise ConfigError(label, str(exc)) from None
                labels[name] = label
                if name in with_choices:
                    values[name] = values[name].lower()
            elif vllm_flag is not None:
                vllm_flag.take(raw)
            else:
                names = [*known, *(flag.replace("-", "_") for flag in VLLM_FLAGS)]
                raise ConfigError(label, "unknown setting" + nearest(name, {one: layer.label(one) for one in names}))
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
    return {name.lower(): raw for name, raw in values.items() if not is_of_kubernetes(name, raw)}


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
