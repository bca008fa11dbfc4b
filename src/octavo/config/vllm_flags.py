"""Flags of `vllm serve` that copied commands carry and Octavo has no setting for."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence

from octavo.config.values import read_bool
from octavo.config.vllm_names import Explained, Refused, VllmName
from octavo.errors import ConfigError

LONGEST_SHOWN = 60
"""Characters of a value in a message."""


class Shape(enum.Enum):
    """Says what follows a flag on the command line."""

    SWITCH = "nothing"
    VALUE = "one value"
    LIST = "values"


@dataclasses.dataclass(frozen=True)
class VllmFlag:
    """A flag that is understood but sets nothing."""

    name: str
    """As vLLM writes it, without dashes."""
    shape: Shape
    answer: VllmName

    def take(self, value: object) -> None:
        """Take `value`, a bool for a switch; see `VllmName.take`.

        Raises:
            ConfigError: the value asks for something that cannot be honoured.
        """
        if self.shape is Shape.SWITCH and value is not None:
            try:
                value = read_bool(value)
            except ValueError as exc:
                raise ConfigError(f"--{self.name}", str(exc)) from None
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        words = [str(item) for item in items]
        self.answer.take(self._said(words), words)

    def _said(self, words: Sequence[str]) -> str:
        if self.shape is Shape.SWITCH:
            return f"--no-{self.name}" if words[0].lower() == "false" else f"--{self.name}"
        return f"--{self.name} {' '.join(words)}"[: LONGEST_SHOWN + len(self.name)]


def _values(answer: VllmName, *names: str) -> list[VllmFlag]:
    return [VllmFlag(name, Shape.VALUE, answer) for name in names]


def _lists(answer: VllmName, *names: str) -> list[VllmFlag]:
    return [VllmFlag(name, Shape.LIST, answer) for name in names]


def _switches(answer: VllmName, *names: str) -> list[VllmFlag]:
    return [VllmFlag(name, Shape.SWITCH, answer) for name in names]


_OFF, _ON = ("false",), ("true",)
_BUCKETS = Explained("the captured sizes follow from the promise of equal bits; --enforce-eager turns capturing off")
_KERNELS = Explained("there is one proved kernel for each job", ("auto",))
_NO_PLUGINS = "code from outside is never run; --tool-call-parser and --reasoning-parser list the forms that are known"
_TEXT = "text is the only modality"
_ONE_GPU, _ONE_NODE = "one GPU per server", "one GPU per server, so one node"
_NO_LORA = "LoRA adapters are not served"

VLLM_FLAGS: dict[str, VllmFlag] = {
    flag.name: flag
    for flag in [
        *_switches(Explained("code from a model folder is never run", _OFF), "trust-remote-code"),
        *_values(Refused("there is one kind of tokenizer, the fast one", ("auto", "hf")), "tokenizer-mode"),
        *_values(Explained("there is no compile step"), "compilation-config", "optimization-level"),
        *_values(_BUCKETS, "max-cudagraph-capture-size"),
        *_lists(_BUCKETS, "cudagraph-capture-sizes"),
        *_values(_KERNELS, "attention-backend", "moe-backend", "gdn-prefill-backend"),
        *_values(Explained("there is one proved kernel for each job", ("auto", "triton")), "mamba-backend"),
        *_values(
            Explained("there is one worker, in a process of its own", ("mp", "uni")), "distributed-executor-backend"
        ),
        *_switches(
            Explained("prompts longer than the token budget are always split; answers do not depend on it", _ON),
            "enable-chunked-prefill",
        ),
        *_switches(
            Explained("the next step is always planned while one runs; answers do not depend on it", _ON),
            "async-scheduling",
        ),
        *_switches(Explained("attention never shares a prefix between requests", _ON), "disable-cascade-attn"),
        *_values(
            Explained("prefixes are found by their whole token ids, so that no two can be taken for each other"),
            "prefix-caching-hash-algo",
        ),
        *_values(
            Refused(
                "states of recurrent layers are float32, and the rows that go into them bfloat16; leave it out, or say "
                "--mamba-ssm-cache-dtype float32",
                ("auto",),
            ),
            "mamba-cache-dtype",
        ),
        *_values(Refused("the states of recurrent layers are float32", ("auto", "float32")), "mamba-ssm-cache-dtype"),
        *_values(
            Explained("states of recurrent layers are kept behind whole blocks, at places that Octavo chooses"),
            "mamba-cache-mode",
            "mamba-block-size",
        ),
        *_switches(
            Refused("states of recurrent layers are float32, which needs no rounding", _OFF),
            "enable-mamba-cache-stochastic-rounding",
        ),
        *_values(
            Explained("states of recurrent layers are float32, which needs no rounding"), "mamba-cache-philox-rounds"
        ),
        *_switches(
            Refused(
                "scales that follow from what has been computed would make answers depend on other requests; those of the "
                "checkpoint are taken, or 1",
                _OFF,
            ),
            "calculate-kv-scales",
        ),
        *_switches(Explained("cached tokens are always in the usage", _ON), "enable-prompt-tokens-details"),
        *_switches(Explained("the load is always counted", _ON), "enable-server-load-tracking"),
        *_switches(Explained("/tokenizer_info is always there", _ON), "enable-tokenizer-info-endpoint"),
        *_switches(Explained("requests are logged with --enable-log-requests", _ON), "disable-log-requests"),
        *_values(Refused(_NO_PLUGINS), "tool-parser-plugin", "reasoning-parser-plugin"),
        *_values(Refused("tools run at the client"), "tool-server"),
        *_switches(Explained("thoughts are split off as --reasoning-parser says", _ON), "enable-reasoning"),
        *_values(
            Explained("structured outputs are always served, by xgrammar in processes of its own"),
            "structured-outputs-config",
            "guided-decoding-backend",
        ),
        *_values(Explained("--logging-level sets the level of all logs"), "uvicorn-log-level"),
        *_values(Refused("traces are not served yet; /metrics is"), "otlp-traces-endpoint"),
        *_values(Explained("no metric is hidden"), "show-hidden-metrics-for-version"),
        *_values(Explained("preempted requests are computed again, not swapped", ("0",)), "swap-space"),
        *_values(Refused("weights stay on the device", ("0", "0.0")), "cpu-offload-gb"),
        *_values(Explained("there is one front process", ("1",)), "api-server-count"),
        *_values(Explained(_TEXT), "limit-mm-per-prompt", "mm-processor-kwargs"),
        *_switches(Explained(_TEXT, _ON), "language-model-only"),
        *_switches(Explained("it concerns several GPUs", _ON), "disable-custom-all-reduce"),
        *_switches(Refused("the device is never put to sleep", _OFF), "enable-sleep-mode"),
        *_values(Refused("logprobs are those of the raw distribution", ("raw_logprobs",)), "logprobs-mode"),
        *_values(Refused("generating text is the only task", ("auto", "generate")), "task", "runner"),
        *_values(Refused("generating text is the only task", ("auto",)), "convert"),
        *_values(Refused("models are implemented in Octavo itself", ("auto", "vllm")), "model-impl"),
        *_values(
            Refused(_ONE_GPU, ("1",)),
            "tensor-parallel-size",
            "pipeline-parallel-size",
            "data-parallel-size",
            "decode-context-parallel-size",
            "data-parallel-size-local",
        ),
        *_values(Refused(_ONE_NODE, ("1",)), "nnodes"),
        *_values(Refused(_ONE_NODE, ("0",)), "node-rank"),
        *_values(Explained(_ONE_NODE), "master-addr", "master-port"),
        *_switches(Refused(_ONE_GPU, _OFF), "enable-expert-parallel"),
        *_switches(Refused(_NO_LORA, _OFF), "enable-lora"),
        *_lists(Refused(_NO_LORA), "lora-modules"),
        *_values(Refused(_NO_LORA), "max-loras", "max-lora-rank"),
        *_values(Refused("speculative decoding is not served"), "speculative-config"),
        *_values(Refused("prefill and decode share one process"), "kv-transfer-config"),
        *_values(Refused("keys and values stay on the device", ("0", "0.0")), "kv-offloading-size"),
        *_values(Explained("OpenSSL chooses, TLS 1.2 and later"), "ssl-ciphers"),
        *_switches(Refused("certificates are read at the start; restart with the new one", _OFF), "enable-ssl-refresh"),
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
