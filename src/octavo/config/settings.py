"""Defines what a user may set, once for the command line, YAML files, environment variables and `LLM(...)`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from octavo.config.layers import Layer, flag_name, read_layers
from octavo.config.setting import check, setting
from octavo.errors import ConfigError

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """User settings, named after vLLM's flags (`--max-num-seqs` is `max_num_seqs`).

    Raises:
        ConfigError: a value that cannot work.
    """

    # Model
    model: str = setting(
        "octavo-tiny",
        "Model folder, Hugging Face repo id, or an embedded model: octavo-tiny, octavo-tiny-hybrid",
        "Model",
    )
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
        choices=("auto", "fp8", "compressed-tensors", "modelopt"),
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
    block_size: int | None = setting(
        None,
        "Tokens per KV block, of which --num-gpu-blocks-override counts; default: 64 on CUDA, 16 on a CPU",
        "Memory and schedule",
        minimum=1,
    )
    enable_prefix_caching: bool = setting(True, "Reuse KV blocks of equal prefixes", "Memory and schedule")
    max_num_seqs: int = setting(256, "Most requests running at once", "Memory and schedule", minimum=1)
    max_num_batched_tokens: int = setting(8192, "Token budget of a step", "Memory and schedule", minimum=1)
    long_prefill_token_threshold: int = setting(
        0, "Most prompt tokens of one request per step; 0: no bound", "Memory and schedule", minimum=0
    )
    scheduling_policy: str = setting(
        "fcfs",
        "Who runs first: fcfs (first come, first served) or priority (the request with the lowest `priority`)",
        "Memory and schedule",
        choices=("fcfs", "priority"),
    )
    max_num_queued_reqs: int | None = setting(
        None, "Most waiting requests; beyond them 503", "Memory and schedule", minimum=1
    )
    max_num_queued_tokens: int | None = setting(
        None, "Most waiting prompt tokens; beyond them 503", "Memory and schedule", minimum=1
    )
    enforce_eager: bool = setting(False, "No CUDA graphs", "Memory and schedule")
    cpu_threads: int = setting(
        0, "Threads for tensor operations on a CPU; 0: all cores", "Memory and schedule", minimum=0, maximum=1024
    )

    # Server
    host: str = setting("0.0.0.0", "Address to bind", "Server")
    port: int = setting(8000, "Port to bind", "Server", minimum=0, maximum=65535)
    uds: str | None = setting(None, "Unix socket to listen at, instead of --host and --port", "Server")
    root_path: str = setting(
        "", "Path under which a proxy shows the server, such as /octavo", "Server", may_be_empty=True
    )
    ssl_certfile: str | None = setting(None, "PEM file of the certificate (and those above it): speak TLS", "Server")
    ssl_keyfile: str | None = setting(None, "PEM file of its key, if not in the same file", "Server")
    ssl_ca_certs: str | None = setting(None, "PEM file of those who sign clients' certificates", "Server")
    ssl_cert_reqs: int = setting(
        0, "Certificates of clients: 0 none, 1 checked if shown, 2 needed", "Server", minimum=0
    )
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
        "For development: make the worker exit, kill, segfault, hang, raise, nan or out-of-bounds, at a step, in each of so many "
        "tokens or more, or for a request (kill@step:7, exit@tokens:8192, nan@request:ID, exit@request:ID+ID)",
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
            check(field.name, getattr(self, field.name), field.metadata)
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError("gpu_memory_utilization", f"must be in (0, 1], got {self.gpu_memory_utilization}")
        if self.root_path and (not self.root_path.startswith("/") or self.root_path.endswith("/")):
            raise ConfigError("root_path", f"must begin with / and not end with it, got {self.root_path!r}")
        if "" in self.served_model_name:
            raise ConfigError("served_model_name", "holds an empty name; leave it out")
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
        return cls._of([Layer(values, str)])

    @classmethod
    def from_sources(
        cls, flags: Mapping[str, Any], *, config: Path | None = None, environ: Mapping[str, str] | None = None
    ) -> Settings:
        """Settings from the command line, else the YAML file `config`, else `OCTAVO_<NAME>`, else vLLM's
        variables that mean the same, else the defaults.

        Raises:
            ConfigError: an unknown name (says the nearest) or a wrong value; names the source as the user knows it.
        """
        layers = [Layer.of_vllm(environ or {}), Layer.of_environment(environ or {})]
        if config is not None:
            layers.append(Layer.of_yaml(config))
        return cls._of([*layers, Layer(flags, flag_name)])

    @classmethod
    def _of(cls, layers: Sequence[Layer]) -> Settings:
        values, labels = read_layers(layers, cls)
        try:
            return cls(**values)
        except ConfigError as exc:
            label = labels.get(exc.setting, exc.setting)
            raise ConfigError(label, exc.message.removeprefix(f"{exc.setting}: ")) from None
