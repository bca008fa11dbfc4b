"""The messages between engine and worker: plain data, encoded as MessagePack, never pickles.

    engine                                   worker
      | <------------------------ Waiting --- |   once it has imported what it needs, and again once it is configured
      | -- WorkerConfig --------------------> |   once; a standby gets it long before it is needed
      | -- Begin ---------------------------> |   when the worker before is gone, and the weights that it maps are loaded
      | <-------------------- WorkerReady --- |   or WorkerFault, or a refusal of what it was told
      | -- StepPlan n ----------------------> |
      | -- StepPlan n+1 --------------------> |   made while step n runs
      | <---------------------- StepResult n  |   or WorkerFault
      | -- StepMasks n+1 -------------------> |   if slots of it are constrained: made of result n, before plan n+2

A keeper is told the same `WorkerConfig`, answers `WeightsPlaced` and then `KeeperReady`, or `WorkerFault`, and then only exists.

Plans are executed in the order sent. The worker keeps one *slot* per running request: its token history, sampling
settings and block table. A slot is a cache: `Admission` carries everything needed to rebuild it.

What comes once per token is kept from the garbage collector (`gc=False`): it is never part of a cycle.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from octavo.errors import CheckpointError, ConfigError
from octavo.sampling import SamplingParams


class HostBlock(msgspec.Struct, frozen=True, tag="host"):
    """Memory without a name of its own, which ends with the last process that has it open."""

    path: str
    """Where it can be opened as long as its keeper lives, such as `/proc/17/fd/5`."""


class DeviceBlock(msgspec.Struct, frozen=True, tag="device"):
    """CUDA memory of another process."""

    handle: bytes
    """CUDA's 64 bytes for opening it in another process."""


class KeptWeights(msgspec.Struct, frozen=True, kw_only=True):
    """All parameters of a model in one block of memory that a keeper holds.

    They lie one after the other in the order in which the model asks for them, each at the next multiple of 512 bytes.
    """

    block: HostBlock | DeviceBlock
    num_bytes: int
    model: bytes
    """The `ModelConfig` in JSON as the keeper read it: files may change, weights in memory do not."""
    checksum: int | None = None
    """Of the block's bytes and their places; `worker/shared_weights/weights.py` says how. None: they are still being loaded."""
    taken_bytes: int = 0
    """Of the device's memory, in use before the weights were loaded; see `worker/memory.py`."""


STANDBY_BYTES = 2 * 2**30
"""Most of a GPU's memory that a standby takes, beside the worker that runs: its context, workspace, kernels and first steps.

On a CPU standbys prepare nothing: what a worker makes of the weights there is a copy of its own."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All a worker must know before it can load the model."""

    model: str
    """Folder with config.json, safetensors and tokenizer files."""
    load_format: str = "auto"
    """`auto` and `safetensors` read safetensors; `dummy` makes random weights of realistic scale from config.json alone."""
    hf_overrides: dict[str, Any] = {}
    """Fields instead of those in config.json."""
    kv_cache_dtype: str = "auto"
    """What keys and values are kept in; see `FormatChoice`."""
    quantization: str = "auto"
    """How weights are kept; see `FormatChoice`."""
    device: str = "cpu"
    """A torch device: `cpu` or `cuda`."""
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    """Tokens per KV block."""
    num_blocks: int | None = None
    """KV blocks; None: as many as memory allows (see gpu_memory_utilization, kv_cache_memory_bytes)."""
    num_snapshots: int = 0
    """States of recurrent layers that are kept behind cached prefixes, beside one for each slot."""
    gpu_memory_utilization: float = 0.92
    kv_cache_memory_bytes: int | None = None
    threads: int = 0
    """CPU threads for tensor operations; 0: all cores."""
    seed: int = 0
    """Of dummy weights."""
    weights: KeptWeights | None = None
    """Weights to map; None: load them."""
    enforce_eager: bool = False
    """No CUDA graphs."""
    logging_level: str = "info"
    """Of what keeper and worker say on standard error."""
    has_predecessor: bool = False
    """A worker with these settings and as many blocks has run before: the largest steps fit."""

    @property
    def num_states(self) -> int:
        """States of each recurrent layer: one for each slot, then the snapshots."""
        return self.max_num_seqs + self.num_snapshots


class Begin(msgspec.Struct, frozen=True, array_like=True):
    """Become the worker: the one before is gone, and its memory is free.

    Its fields are those of `WorkerConfig`, instead of what that said.
    """

    num_blocks: int | None
    has_predecessor: bool
    weights: KeptWeights | None
    """They are loaded."""
    since_s: float
    """When this was sent, by the monotonic clock: what a worker prepares before, nobody waits for."""


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """A process that is to become a worker has done what it can for now."""

    configured: bool
    """It has had its `WorkerConfig`, and needs but `Begin`."""


class WeightsPlaced(msgspec.Struct, frozen=True, tag="placed"):
    """The keeper has memory for the weights, and begins to load them."""

    weights: KeptWeights


class KeeperReady(msgspec.Struct, frozen=True, kw_only=True, tag="kept"):
    """The weights are loaded and can be mapped."""

    pid: int
    weights: KeptWeights
    load_s: float


class WorkerReady(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """The model is loaded and has been run, the first time with the largest steps."""

    pid: int
    device: str
    """What a person would call it, such as `NVIDIA H200` or `CPU (2 threads)`."""
    weights_format: str
    """Such as `compressed-tensors FP8 (channel/token)` or `bf16`."""
    num_blocks: int
    weight_bytes: int
    weights_checksum: int = 0
    """Of the weights as loaded; equal for kept weights and a worker's own."""
    kv_cache_bytes: int
    kv_cache_source: str = ""
    """What the size of the KV cache follows from, such as `--gpu-memory-utilization 0.92`."""
    workspace_bytes: int
    free_bytes: int = 0
    """Of the device's memory, once the worker is warm; 0 on a CPU: not asked."""
    open_s: float = 0.0
    """Making the device ready: the CUDA context. This and what follows is told as far as the engine has waited for it."""
    load_s: float
    """Loading the weights, or mapping kept ones, and building the model on them."""
    measure_s: float = 0.0
    """Compiling kernels and measuring what the largest steps need; next to nothing where another worker has done so."""
    allocate_s: float = 0.0
    """Allocating the KV cache."""
    warm_up_s: float
    ahead_s: float = 0.0
    """What it has prepared before that, for which the engine has not waited; a worker after it may have to."""


class WorkerFault(msgspec.Struct, frozen=True, kw_only=True, tag="fault"):
    """The worker met an error it cannot go on from; it exits after sending this."""

    message: str
    traceback: str


class ConfigRefusal(msgspec.Struct, frozen=True, tag="config refusal"):
    """A setting is wrong, so that no worker can start; it exits after sending this."""

    setting: str
    reason: str

    def error(self) -> ConfigError:
        """The error as it was raised in the worker."""
        return ConfigError(self.setting, self.reason)


class CheckpointRefusal(msgspec.Struct, frozen=True, tag="checkpoint refusal"):
    """The model folder is wrong, so that no worker can start; it exits after sending this."""

    reason: str
    file: str | None
    tensor: str | None

    def error(self) -> CheckpointError:
        """The error as it was raised in the worker."""
        return CheckpointError(self.reason, file=self.file, tensor=self.tensor)


class Admission(msgspec.Struct, frozen=True, array_like=True):
    """A request enters `slot` with its whole token history."""

    slot: int
    token_ids: list[int]
    """Prompt tokens, then the tokens made so far (some after preemption or recovery)."""
    num_prompt_tokens: int
    sampling: SamplingParams
    """`seed` is never None here unless greedy."""
    stop_token_ids: list[int]
    """Every id that ends the request (EOS included unless ignored): masked while fewer than min_tokens are made."""


class Chunk(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Compute positions `start .. start + count - 1` of the request in `slot`.

    The token of a position the engine does not know yet (it was sampled by a step still in flight) is the one the
    worker itself appended to the slot's history.
    """

    slot: int
    start: int
    count: int
    new_blocks: list[int]
    """KV block ids appended to the slot's block table before this chunk runs (cached prefix blocks first)."""
    sample: bool
    """The chunk ends at the end of the history: sample the token of position start + count and append it."""


class FaultKind(enum.Enum):
    """Names what an injected fault does to the worker."""

    EXIT = "exit"
    KILL = "kill"
    """As from outside."""
    SEGFAULT = "segfault"
    """As if it had touched memory that is not its own."""
    HANG = "hang"
    RAISE = "raise"
    NAN = "nan"
    """Numbers of a request become NaN."""
    OUT_OF_BOUNDS = "out-of-bounds"
    """A kernel writes outside of all memory; CUDA only."""


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """A fault to commit before the step runs; for development."""

    kind: FaultKind
    slots: list[int]
    """Of the requests it concerns."""


class SnapshotUse(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the chunk of `slot` does with snapshots of recurrent states; each is written by one chunk and then read by none."""

    slot: int
    restore: int = -1
    """The snapshot that the slot's first chunk goes on from, behind a cached prefix; -1: none."""
    keep: int = -1
    """The snapshot that gets the state behind the first `keep_after` tokens of the chunk; -1: none."""
    keep_after: int = 0


class StepPlan(msgspec.Struct, frozen=True, array_like=True, tag="plan"):
    """One step. Order: releases, admissions, then all chunks as one batch."""

    step: int
    """Counts from 1."""
    releases: list[int]
    """Slots whose request ended or was preempted."""
    admissions: list[Admission]
    chunks: list[Chunk]
    faults: list[Fault] = []
    constrained: list[int] = []
    """Slots that sample under a grammar: behind a chunk of this step, or of an earlier one whose masks left them out. If there
    are any, the step samples nothing until its `StepMasks` are there."""
    snapshots: list[SnapshotUse] = []
    """Of the chunks that use any; only of a model with recurrent layers."""


class StepMasks(msgspec.Struct, frozen=True, array_like=True, tag="masks"):
    """Which ids the constrained slots of a step may sample: what their grammars let come next.

    It is a function of the grammar and of all tokens before, which the plan of the step need not wait for. A constrained slot
    that is not told samples nothing: what was computed for it is kept until it is constrained again.
    """

    step: int
    slots: list[int]
    rows: list[int]
    """For each of `slots` the number of its mask; slots may share one."""
    masks: list[bytes]
    """Each of ceil(V / 8) bytes; bit i % 8 of byte i // 8 is set if id i is allowed. At least one is."""


class TokenScore(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Log-probabilities at one position."""

    token_id: int
    logprob: float
    """Natural logarithm under the raw distribution (before temperature, penalties and bias), as vLLM's raw_logprobs."""
    rank: int
    """1 for the likeliest."""
    top: list[tuple[int, float]]
    """(token id, logprob), likeliest first, as many as were asked for; or of the `logprob_token_ids`, in their order."""


class SampledToken(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The token chosen for `slot` in this step."""

    slot: int
    token_id: int
    score: TokenScore | None
    """None unless the request asked for logprobs."""


class PromptScores(msgspec.Struct, frozen=True, array_like=True):
    """Scores of prompt tokens `start .. start + len(scores) - 1` of the request in `slot` (position 0 has none)."""

    slot: int
    start: int
    scores: list[TokenScore]


class StepResult(msgspec.Struct, frozen=True, kw_only=True, tag="result"):
    """Tells what one step gave."""

    step: int
    sampled: list[SampledToken]
    prompt_scores: list[PromptScores] = []
    bad_slots: list[int] = []
    """Slots whose numbers were not finite in this step; nothing was sampled for them."""
    elapsed_s: float = 0.0
    """From taking up the plan to having the tokens on the host; on CUDA the end of the step before is part of it."""


WorkerMessage = (
    Waiting | WorkerReady | WorkerFault | ConfigRefusal | CheckpointRefusal | StepResult | WeightsPlaced | KeeperReady
)
EngineMessage = WorkerConfig | Begin | StepPlan | StepMasks
