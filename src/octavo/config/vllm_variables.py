"""Environment variables of vLLM that change what a server does: honoured, explained in one line, or refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Mapping

from octavo.config.vllm_names import Explained, Refused, VllmName

log = logging.getLogger(__name__)

PREFIX = "VLLM_"

_KUBERNETES = re.compile(r"SERVICE_HOST|SERVICE_PORT\w*|PORT_\d+_(TCP|UDP)\w*")
"""Variables that Kubernetes sets in every pod beside a service that is named as the prefix is."""


@dataclasses.dataclass(frozen=True)
class Honoured:
    """Sets a setting, with the same meaning."""

    setting: str
    listed: bool = False
    """The setting is a list, and the value, whatever is in it, its one entry."""


@dataclasses.dataclass(frozen=True)
class Said:
    """A value that a variable gives to a setting."""

    variable: str
    value: str


_OFF, _ON = ("0", "false"), ("1", "true")
_KERNELS = Explained("there is one proved kernel for each job")
_NOTHING_SENT = Explained("nothing is ever sent home", ("0", "1", "true", "false"))
_NOT_THE_SERVER = Explained("it is an address inside of vLLM, not the server's: set --host and --port")
_ONE_FORM = Explained("logs go to standard error in one form; --logging-level says how much")
_ONE_PROCESS = Explained("server and worker talk by a socket of their own, as data and never as pickles")
_ONE_GPU = Refused("one GPU per server", ("1",))
_FIXED = Explained("the limit is fixed; docs/http.md has it")

VARIABLES: dict[str, Honoured | VllmName] = {
    "VLLM_API_KEY": Honoured("api_key", listed=True),
    "VLLM_LOGGING_LEVEL": Honoured("logging_level"),
    "VLLM_LOG_STATS_INTERVAL": Honoured("log_stats_interval"),
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": Honoured("http_timeout_keep_alive"),
    "VLLM_ENGINE_READY_TIMEOUT_S": Honoured("worker_start_timeout"),
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": Honoured("worker_step_timeout"),
    "VLLM_ENGINE_ITERATION_TIMEOUT_S": Explained("set --worker-step-timeout"),
    "VLLM_RPC_TIMEOUT": Explained("set --worker-step-timeout"),
    "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH": Explained(
        "a dead worker is replaced; the server ends when --max-worker-restarts are used up", _OFF
    ),
    "VLLM_CONFIGURE_LOGGING": Explained("logs go to standard error in one form", _ON),
    "VLLM_LOGGING_CONFIG_PATH": _ONE_FORM,
    "VLLM_LOGGING_PREFIX": _ONE_FORM,
    "VLLM_LOGGING_STREAM": _ONE_FORM,
    "VLLM_LOGGING_COLOR": Explained("logs have no colours", ("auto", *_OFF)),
    "VLLM_LOG_BATCHSIZE_INTERVAL": Explained("--step-log writes every step", ("-1",)),
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": Explained("set --enable-log-requests and --enable-log-outputs", _OFF),
    "VLLM_TRACE_FUNCTION": Explained("function calls are not traced", _OFF),
    "VLLM_TORCH_PROFILER_DIR": Explained("/start_profile is not served"),
    "VLLM_HOST_IP": _NOT_THE_SERVER,
    "VLLM_PORT": _NOT_THE_SERVER,
    "VLLM_LOOPBACK_IP": _NOT_THE_SERVER,
    "VLLM_RPC_BASE_PATH": Explained("server and worker talk by sockets that lie in no folder"),
    "VLLM_USE_V1": Explained("there is one engine, and no other to choose", _ON),
    "VLLM_ENABLE_V1_MULTIPROCESSING": Explained(
        "the worker is a process of its own; LLM(workers=in_this_process) has it in the caller's", _ON
    ),
    "VLLM_WORKER_MULTIPROC_METHOD": Explained("workers are started anew, never forked", ("spawn",)),
    "VLLM_ALLOW_INSECURE_SERIALIZATION": _ONE_PROCESS,
    "VLLM_BATCH_INVARIANT": Explained("answers never depend on the batch", ("0", "1")),
    "VLLM_ATTENTION_BACKEND": _KERNELS,
    "VLLM_FLASH_ATTN_VERSION": _KERNELS,
    "VLLM_USE_TRITON_FLASH_ATTN": _KERNELS,
    "VLLM_USE_FLASHINFER_SAMPLER": _KERNELS,
    "VLLM_USE_FLASHINFER_MOE_FP8": _KERNELS,
    "VLLM_USE_DEEP_GEMM": _KERNELS,
    "VLLM_FUSED_MOE_CHUNK_SIZE": _KERNELS,
    "VLLM_DISABLED_KERNELS": _KERNELS,
    "VLLM_KV_CACHE_LAYOUT": _KERNELS,
    "VLLM_DISABLE_COMPILE_CACHE": Explained("there is no compile step"),
    "VLLM_COMPUTE_NANS_IN_LOGITS": Explained("a request whose numbers are not finite always fails alone", _ON),
    "VLLM_SLEEP_WHEN_IDLE": Explained("an idle engine always sleeps", _ON),
    "VLLM_SERVER_DEV_MODE": Explained(
        "/server_info and /reset_prefix_cache are there without it; /sleep and /collective_rpc are not served", _OFF
    ),
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": Explained("a --max-model-len past the model's positions is refused", _OFF),
    "VLLM_CPU_KVCACHE_SPACE": Explained("set --kv-cache-memory-bytes", ("0",)),
    "VLLM_CPU_OMP_THREADS_BIND": Explained("set --cpu-threads, and bind the process with taskset", ("auto", "all")),
    "VLLM_TARGET_DEVICE": Explained("set --device"),
    "VLLM_CACHE_ROOT": Explained(
        "set --download-dir for models, TRITON_CACHE_DIR for kernels, --crash-dir for crashes"
    ),
    "VLLM_CONFIG_ROOT": Explained("set --config"),
    "VLLM_MAX_N_SEQUENCES": _FIXED,
    "VLLM_MAX_COMPLETION_PROMPTS": _FIXED,
    "VLLM_PLUGINS": Explained("no plugins are loaded"),
    "VLLM_NO_USAGE_STATS": _NOTHING_SENT,
    "VLLM_DO_NOT_TRACK": _NOTHING_SENT,
    "VLLM_USAGE_STATS_SERVER": _NOTHING_SENT,
    "VLLM_USAGE_SOURCE": _NOTHING_SENT,
    "VLLM_USE_MODELSCOPE": Refused(
        "models come from Hugging Face; download it elsewhere and give the folder with --model", _OFF
    ),
    "VLLM_MODEL_REDIRECT_PATH": Refused("names are not redirected; give the folder with --model"),
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": Refused("LoRA adapters are not served", _OFF),
    "VLLM_DP_SIZE": _ONE_GPU,
    "VLLM_DP_RANK": Refused("one GPU per server", ("0",)),
}


def from_vllm(environ: Mapping[str, str]) -> dict[str, Said]:
    """The settings that vLLM's variables give; the others are explained in the log, in one line each, and unknown ones
    in one line together. Values are not shown: they may be secrets.

    Raises:
        ConfigError: one of them asks for what cannot be had, and silence would harm.
    """
    said: dict[str, Said] = {}
    unknown = []
    for name, value in sorted(environ.items()):
        if not name.startswith(PREFIX) or is_of_kubernetes(name.removeprefix(PREFIX), value):
            continue
        match VARIABLES.get(name):
            case Honoured(setting, listed):
                if value:
                    said[setting] = Said(name, json.dumps([value]) if listed else value)
            case None:
                unknown.append(name)
            case known:
                known.take(name, [value])
    if unknown:
        log.warning("unknown variables of vLLM, without effect here: %s", ", ".join(unknown))
    return said


def is_of_kubernetes(name: str, value: str) -> bool:
    """Whether a variable, `name` without its prefix, is one that Kubernetes sets beside a service of that name."""
    return bool(_KUBERNETES.fullmatch(name)) or (name == "PORT" and value.startswith(("tcp://", "udp://")))
