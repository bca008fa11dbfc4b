"""Flags of `vllm serve` that copied commands carry and Octavo has no setting for: accepted, or refused with a reason."""

from __future__ import annotations

import dataclasses
import enum
import logging
from collections.abc import Sequence

from octavo.errors import ConfigError

log = logging.getLogger(__name__)


class Shape(enum.Enum):
    """What follows a flag on the command line."""

    SWITCH = "nothing"
    VALUE = "one value"
    LIST = "values"


@dataclasses.dataclass(frozen=True)
class ForeignFlag:
    """A flag that is understood but sets nothing."""

    name: str
    """As vLLM writes it, without dashes."""
    reason: str
    """Why it is not needed, or what to do instead."""
    shape: Shape = Shape.VALUE
    allowed: tuple[str, ...] | None = None
    """Values that ask for what Octavo does anyway; all others are refused. None: any value, with a warning."""

    def take(self, value: object) -> None:
        """Accept `value` with one warning line, silently if it asks for what is so anyway.

        Raises:
            ConfigError: the value asks for something that cannot be honoured.
        """
        words = [
            str(item).lower()
            for item in (value if isinstance(value, Sequence) and not isinstance(value, str) else [value])
        ]
        if self.allowed is None:
            log.warning("--%s is not needed here and has no effect: %s", self.name, self.reason)
        elif any(word not in self.allowed for word in words):
            shown = "" if self.shape is Shape.SWITCH else f" {' '.join(words)}"
            raise ConfigError(f"--{self.name}{shown}", self.reason)


def _ignored(reason: str, *names: str, shape: Shape = Shape.VALUE) -> list[ForeignFlag]:
    return [ForeignFlag(name, reason, shape) for name in names]


def _only(reason: str, allowed: tuple[str, ...], *names: str) -> list[ForeignFlag]:
    return [ForeignFlag(name, reason, Shape.VALUE, allowed) for name in names]


def _refused(reason: str, *names: str, shape: Shape = Shape.VALUE) -> list[ForeignFlag]:
    return [ForeignFlag(name, reason, shape, ("false", "none", "null")) for name in names]


_ONE = ("1", "none", "null")

FOREIGN_FLAGS: dict[str, ForeignFlag] = {
    flag.name: flag
    for flag in [
        *_ignored("code from a model folder is never run", "trust-remote-code", shape=Shape.SWITCH),
        *_ignored("there is one kind of tokenizer, the fast one", "tokenizer-mode", "tokenizer-revision"),
        *_ignored("there is no compile step", "compilation-config", "optimization-level"),
        *_ignored("the captured sizes follow from the promise of equal bits", "max-cudagraph-capture-size"),
        *_ignored(
            "the captured sizes follow from the promise of equal bits", "cudagraph-capture-sizes", shape=Shape.LIST
        ),
        *_ignored(
            "there is one proved kernel per job", "attention-backend", "moe-backend", "distributed-executor-backend"
        ),
        *_ignored("prompts are always split where the token budget ends", "enable-chunked-prefill", shape=Shape.SWITCH),
        *_ignored("the next step is always planned while one runs", "async-scheduling", shape=Shape.SWITCH),
        *_ignored("cached tokens are always in the usage", "enable-prompt-tokens-details", shape=Shape.SWITCH),
        *_ignored("the load is always counted", "enable-server-load-tracking", shape=Shape.SWITCH),
        *_ignored("/tokenizer_info is always there", "enable-tokenizer-info-endpoint", shape=Shape.SWITCH),
        *_ignored("requests are logged only with --enable-log-requests", "disable-log-requests", shape=Shape.SWITCH),
        *_ignored("tool calls come in a later version", "enable-auto-tool-choice", shape=Shape.SWITCH),
        *_ignored("tool calls come in a later version", "tool-call-parser", "tool-parser-plugin"),
        *_ignored("thinking stays part of the text in this version", "reasoning-parser"),
        *_ignored("thinking stays part of the text in this version", "enable-reasoning", shape=Shape.SWITCH),
        *_ignored("structured outputs come in a later version", "structured-outputs-config", "guided-decoding-backend"),
        *_ignored("the kind of content is told from the template", "chat-template-content-format"),
        *_ignored("set --logging-level", "uvicorn-log-level"),
        *_ignored("no traces are sent in this version", "otlp-traces-endpoint"),
        *_ignored("metric names do not change", "show-hidden-metrics-for-version"),
        *_ignored("there is no host swap: preempted requests are computed again", "swap-space", "cpu-offload-gb"),
        *_ignored("there is one front process", "api-server-count"),
        *_ignored("routes are the same behind a proxy", "root-path"),
        *_ignored("set HF_HOME to say where downloads go", "download-dir"),
        *_ignored("text is the only modality", "limit-mm-per-prompt", "mm-processor-kwargs"),
        *_ignored("text is the only modality", "language-model-only", shape=Shape.SWITCH),
        *_ignored("it concerns several GPUs", "disable-custom-all-reduce", shape=Shape.SWITCH),
        *_ignored("the device is never put to sleep", "enable-sleep-mode", shape=Shape.SWITCH),
        *_only("models are computed in bfloat16", ("auto", "bfloat16"), "dtype"),
        *_only("keys and values are kept in bfloat16", ("auto", "bfloat16"), "kv-cache-dtype"),
        *_only(
            "the format is read from config.json: compressed-tensors FP8-dynamic or bf16",
            ("compressed-tensors", "none", "null"),
            "quantization",
        ),
        *_only("requests run first come, first served", ("fcfs",), "scheduling-policy"),
        *_only("logprobs are those of the raw distribution", ("raw_logprobs",), "logprobs-mode"),
        *_only("generating text is the only task", ("auto", "generate"), "task", "runner"),
        *_only("one GPU per server", _ONE, "tensor-parallel-size", "pipeline-parallel-size", "data-parallel-size"),
        *_only("one GPU per server", _ONE, "decode-context-parallel-size", "data-parallel-size-local"),
        *_refused("one GPU per server", "enable-expert-parallel", shape=Shape.SWITCH),
        *_refused("LoRA adapters are not served", "enable-lora", shape=Shape.SWITCH),
        *_refused("LoRA adapters are not served", "lora-modules", shape=Shape.LIST),
        *_refused("LoRA adapters are not served", "max-loras", "max-lora-rank"),
        *_refused("speculative decoding is not served", "speculative-config"),
        *_refused("prefill and decode share one process", "kv-transfer-config"),
        *_refused("keys and values stay on the device", "kv-offloading-size"),
        *_refused("put a proxy that speaks TLS in front", "ssl-keyfile", "ssl-certfile", "ssl-ca-certs"),
        *_refused("bind --host and --port", "uds"),
        *_refused("config.json says what the model is", "hf-overrides"),
    ]
}

ALIASES = {
    "tp": "tensor-parallel-size",
    "pp": "pipeline-parallel-size",
    "dp": "data-parallel-size",
    "q": "quantization",
    "O": "optimization-level",
    "cc": "compilation-config",
    "sc": "speculative-config",
    "asc": "api-server-count",
}
"""vLLM's short spellings."""
