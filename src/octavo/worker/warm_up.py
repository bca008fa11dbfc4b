"""Steps run before the worker says it is ready."""

from __future__ import annotations

import msgspec
import torch
from tqdm import tqdm

from octavo.messages import Admission, Chunk, SnapshotUse, StepPlan, WorkerConfig
from octavo.models.kv_cache import KVCache
from octavo.ops.adjust import AdjustSettings, adjust
from octavo.ops.draw import DrawSettings, draw, draw_truncated
from octavo.ops.largest import MAX_FEW, largest
from octavo.ops.peak import peak
from octavo.sampling import SamplingParams
from octavo.worker.batch import make_batch
from octavo.worker.runner import MAX_LOGITS, MAX_ROWS, Model, Runner
from octavo.worker.slots import Slots

EVERYTHING = SamplingParams(
    top_k=0, top_p=0.9, min_p=0.01, repetition_penalty=1.1, seed=0, logprobs=20, prompt_logprobs=20
)
"""Settings that take the most memory of the sampler: without a small top_k it sorts all ids."""
BRIEF_TOKENS = 64
"""Of the step where nothing is to be proven."""
SHORT_BEHIND = 1024
"""Tokens before a chunk that are enough for the graph of any: attention then merges parts of its context."""


def warm_up(
    model: Model,
    kv_cache: KVCache,
    config: WorkerConfig,
    *,
    vocab_size: int,
    briefly: bool = False,
    shortly: bool = False,
) -> None:
    """Run steps of the whole token budget on slots that are then dropped.

    They hold as many requests as possible; on a GPU, whose memory has an end that only the longest contexts reach, others
    hold as few as possible. There each step also runs as most do, without scores of its prompts' tokens, which has a graph of its own, and behind
    short contexts: the long ones have shown that they fit.
    Leaves finite numbers in `kv_cache`; no request reads a position before it has written it.

    Args:
        briefly: a step of `BRIEF_TOKENS` will do: a worker has shown that the largest fit, and the kernels are loaded.
        shortly: all contexts are short: what a step allocates is the same behind any, and where only that is asked for, attention to the
            longest is most of its time.
    """
    num_blocks = kv_cache.num_blocks
    tokens = min(BRIEF_TOKENS, config.max_num_batched_tokens) if briefly else config.max_num_batched_tokens
    plans = [divided_plan(msgspec.structs.replace(config, max_num_batched_tokens=tokens), num_blocks)]
    if config.device != "cpu":
        plans.append(unscored(plans[0]))
    if config.device != "cpu" and not briefly:
        short = with_short_contexts(config)
        plans += [widest_plan(short if shortly else config, num_blocks), unscored(widest_plan(short, num_blocks))]
    for plan in plans:
        Runner(model, kv_cache, config, vocab_size=vocab_size).run(plan)


def with_short_contexts(config: WorkerConfig) -> WorkerConfig:
    """For plans: `config` with requests of no more tokens than a step has, and `SHORT_BEHIND` before them."""
    longest = min(config.max_model_len, config.max_num_batched_tokens + SHORT_BEHIND)
    return msgspec.structs.replace(config, max_model_len=longest)


def unscored(plan: StepPlan) -> StepPlan:
    """`plan` without scores of prompts' tokens: of each chunk one row is wanted."""
    replace = msgspec.structs.replace
    admissions = [
        replace(admission, sampling=replace(admission.sampling, prompt_logprobs=None)) for admission in plan.admissions
    ]
    return replace(plan, admissions=admissions)


def load_kernels(
    model: Model, kv_cache: KVCache, config: WorkerConfig, *, vocab_size: int, quiet: bool = False
) -> None:
    """Run steps of 1, 2, 4, ... tokens, so that no request waits for a kernel to be compiled; shows a progress bar.

    Tiles change with the number of tokens, and none is chosen only between two powers of two; the sampler's kernels with how
    many of the likeliest are asked for. Arguments as `warm_up`.
    """
    _load_sampler(vocab_size, kv_cache.device)
    for tokens in tqdm(_sizes(config), desc="Loading kernels", unit="step", disable=quiet):
        for plan in _plans(config, tokens, kv_cache.num_blocks):
            Runner(model, kv_cache, config, vocab_size=vocab_size).run(plan)


@torch.inference_mode()
def visit_kernels(model: Model, kv_cache: KVCache, config: WorkerConfig, *, vocab_size: int) -> None:
    """Make the launches of `load_kernels` and of the largest step, as far as they compute what no index depends on.

    For a time in which launches only compile: neither a token nor a score is read. Arguments as `warm_up`.
    """
    _load_sampler(vocab_size, kv_cache.device)
    for tokens in tqdm([*_sizes(config), config.max_num_batched_tokens], desc="Visiting kernels", unit="step"):
        for plan in _plans(config, tokens, kv_cache.num_blocks):
            slots = Slots(config, num_blocks=kv_cache.num_blocks, vocab_size=vocab_size)
            batch = make_batch(slots.apply(plan), slots, block_size=kv_cache.block_size)
            hidden = model.forward(batch, kv_cache)
            peak(hidden, find=False)
            for rows in (len(plan.chunks), max(1, min(MAX_ROWS, MAX_LOGITS // vocab_size))):
                model.logits(hidden[:rows])


def _sizes(config: WorkerConfig) -> list[int]:
    """The powers of two below the token budget."""
    return [1 << i for i in range((config.max_num_batched_tokens - 1).bit_length())]


def _plans(config: WorkerConfig, tokens: int, num_blocks: int) -> tuple[StepPlan, StepPlan]:
    """A step of as many tokens, divided and wide."""
    step = msgspec.structs.replace(config, max_num_batched_tokens=tokens)
    return divided_plan(step, num_blocks), widest_plan(step, num_blocks)


def _load_sampler(vocab_size: int, device: torch.device) -> None:
    """Find the likeliest, penalise, draw from all ids, and find more, as many as each kernel finds: logits (1, V) of zeros."""
    logits = torch.zeros((1, vocab_size), device=device)
    peak(logits)
    penalised = AdjustSettings.of([(1.0, 0.0, 0.0, 0)], [None], vocab_size, device)
    adjust(logits, logits.int(), penalised, out=logits)
    settings = DrawSettings.of([(1.0, 0.0, 0, 0.9, 0.5)], device)
    draw(logits, settings)
    draw_truncated(logits, settings, most=0)
    draw_truncated(logits, DrawSettings(settings.values), most=0)
    for count in (1 << i for i in range(MAX_FEW.bit_length())):
        largest(logits, min(count, vocab_size))
        draw_truncated(logits, settings, most=min(count, vocab_size))


def blocks_of_widest(config: WorkerConfig) -> int:
    """KV blocks that the widest step takes if it gets all it asks for."""
    requests = min(config.max_num_seqs, -(-(config.max_num_batched_tokens - 1) // config.max_model_len) + 1)
    return requests * -(-config.max_model_len // config.block_size)


def widest_plan(config: WorkerConfig, num_blocks: int) -> StepPlan:
    """The whole token budget in as few requests as possible, each at the end of as long a context as possible.

    The last of several has one token, so that attention's kernels for chunks and for decodes are both among the step's.
    """
    size = config.block_size
    admissions, chunks, used, left = [], [], 0, config.max_num_batched_tokens
    for slot in range(config.max_num_seqs):
        length = min(config.max_model_len, (num_blocks - used) * size)
        if not length or not left:
            break
        count = min(length, left - (left > 1 and slot + 1 < config.max_num_seqs))
        blocks = list(range(used, used - (-length // size)))
        # Later tokens count as made: scoring more rows than one piece takes no more memory.
        num_prompt_tokens = min(length, length - count + MAX_ROWS)
        admissions.append(Admission(slot, [0] * length, num_prompt_tokens, EVERYTHING, []))
        chunks.append(Chunk(slot, length - count, count, blocks, True))
        used, left = used + len(blocks), left - count
    behind = [chunk.slot for chunk in chunks if chunk.start and config.num_snapshots]
    return StepPlan(1, [], admissions, chunks, snapshots=[SnapshotUse(slot, restore=0) for slot in behind])


def divided_plan(config: WorkerConfig, num_blocks: int) -> StepPlan:
    """The whole token budget in as many requests as possible, in equal parts, each a request's first tokens."""
    size = config.block_size
    seats = min(config.max_num_seqs, config.max_num_batched_tokens, num_blocks)
    count = min(-(-config.max_num_batched_tokens // seats), num_blocks // seats * size, config.max_model_len)
    each = -(-count // size)
    admissions, chunks, left = [], [], config.max_num_batched_tokens
    for slot in range(seats):
        length = min(count, left)
        if not length:
            break
        admissions.append(Admission(slot, [0] * length, 1, EVERYTHING, []))
        chunks.append(Chunk(slot, 0, length, list(range(slot * each, (slot + 1) * each)), True))
        left -= length
    return StepPlan(1, [], admissions, chunks)
