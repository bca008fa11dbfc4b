"""What a user may set; one definition for the command line, YAML files, environment variables and `LLM(...)`."""

from __future__ import annotations

import dataclasses
from typing import Any

from octavo.errors import ConfigError


def setting(default: Any, help: str, group: str, **extra: Any) -> Any:
    """A field of `Settings` with its help text and the group it is listed under."""
    return dataclasses.field(default=default, metadata={"help": help, "group": group, **extra})


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
        None, "Most tokens per request (accepts 32k); the model's own limit if not set", "Model"
    )
    device: str = setting("auto", "auto, cpu or cuda", "Model", choices=("auto", "cpu", "cuda"))
    seed: int = setting(0, "Base seed of requests that bring none, and of dummy weights", "Model")
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
    kv_cache_memory_bytes: int | None = setting(None, "Exact size of the KV cache (accepts 1g)", "Memory and schedule")
    num_gpu_blocks_override: int | None = setting(None, "Exact number of KV blocks", "Memory and schedule")
    block_size: int = setting(16, "Tokens per KV block", "Memory and schedule")
    enable_prefix_caching: bool = setting(True, "Reuse KV blocks of equal prefixes", "Memory and schedule")
    max_num_seqs: int = setting(256, "Most requests running at once", "Memory and schedule")
    max_num_batched_tokens: int = setting(8192, "Token budget of a step", "Memory and schedule")
    long_prefill_token_threshold: int = setting(
        0, "Most prompt tokens of one request per step; 0: no bound", "Memory and schedule"
    )
    max_num_queued_reqs: int | None = setting(None, "Most waiting requests; beyond them 503", "Memory and schedule")
    max_num_queued_tokens: int | None = setting(
        None, "Most waiting prompt tokens; beyond them 503", "Memory and schedule"
    )
    enforce_eager: bool = setting(False, "No CUDA graphs", "Memory and schedule")
    cpu_threads: int = setting(0, "Threads for tensor operations on a CPU; 0: all cores", "Memory and schedule")

    # Server
    host: str = setting("0.0.0.0", "Address to bind", "Server")
    port: int = setting(8000, "Port to bind", "Server")
    api_key: tuple[str, ...] = setting(
        (), "Keys that clients must send as Bearer token", "Server", env="OCTAVO_API_KEY"
    )
    allowed_origins: tuple[str, ...] = setting(("*",), "JSON list of CORS origins", "Server")
    shutdown_timeout: float = setting(30.0, "Seconds to let running requests finish at SIGTERM", "Server")
    sse_keep_alive_interval: float = setting(15.0, "Seconds of silence before an SSE comment line; 0: none", "Server")
    stream_interval: int = setting(1, "Tokens per streamed chunk", "Server")
    max_logprobs: int = setting(20, "Most logprobs per token a request may ask for", "Server")
    enable_force_include_usage: bool = setting(False, "Usage in every stream", "Server")
    enable_request_id_headers: bool = setting(True, "Answer with X-Request-Id", "Server")
    enable_log_requests: bool = setting(False, "Log each request", "Server")
    max_log_len: int | None = setting(None, "Most prompt characters in the request log", "Server")
    disable_log_stats: bool = setting(False, "No periodic statistics line", "Server")
    disable_uvicorn_access_log: bool = setting(False, "No access log", "Server")
    disable_access_log_for_endpoints: tuple[str, ...] = setting((), "Paths kept out of the access log", "Server")

    # Worker
    step_log: str | None = setting(None, "File that gets one JSON line per step: tokens, requests, KV use", "Worker")
    worker_start_timeout: float = setting(1800.0, "Seconds a worker may take to load the model", "Worker")

    def __post_init__(self) -> None:
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError("gpu_memory_utilization", f"must be in (0, 1], got {self.gpu_memory_utilization}")
        for name in ("block_size", "max_num_seqs", "max_num_batched_tokens", "stream_interval"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be at least 1, got {getattr(self, name)}")
