"""Makes plans of a crash: first those that bring a fresh worker to where the dead one was, then those that it died with."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Iterator

import msgspec

from octavo.engine.recovery.crash import Crash, CrashedPlan, CrashedRequest
from octavo.messages import Admission, Chunk, SnapshotUse, StepPlan, WorkerConfig
from octavo.sampling import SamplingParams

SLOT = 0
"""Where positions are computed that the plans take as computed: no request has its slot yet."""

History = Callable[[CrashedRequest], list[int]]


def histories(block_size: int, vocab_size: int, seed: int) -> History:
    """Tokens of requests: those that were kept, else random ones, which are the same wherever a block is shared."""

    @functools.cache
    def block_tokens(block: int) -> list[int]:
        draw = random.Random(f"{seed}/{block}")
        return [draw.randrange(vocab_size) for _ in range(block_size)]

    def history(request: CrashedRequest) -> list[int]:
        if request.token_ids is not None:
            return request.token_ids
        return [token for block in request.blocks for token in block_tokens(block)][: request.num_tokens]

    return history


def preparation(crash: Crash, history: History, *, is_recurrent: bool = False) -> list[StepPlan]:
    """Plans that compute what the plans of `crash` take as computed, one request after the other, within the budget.

    Args:
        is_recurrent: the model has recurrent layers: the states of each request are kept in the snapshot of its number.
    """
    plans: list[StepPlan] = []
    filled: set[int] = set()
    for number, request in enumerate(crash.requests):
        for admissions, chunk in _fill(request, history, crash.worker, set() if is_recurrent else filled):
            releases = [SLOT] if admissions and plans else []
            ends = is_recurrent and chunk.start + chunk.count == request.computed
            keeps = [SnapshotUse(SLOT, keep=number, keep_after=chunk.count)] if ends else []
            plans.append(StepPlan(len(plans) + 1, releases, admissions, [chunk], snapshots=keeps))
    return plans


def recorded(
    crash: Crash, history: History, first_step: int, *, faults: bool = True, is_recurrent: bool = False
) -> list[StepPlan]:
    """The plans of `crash`, for a worker whose next is `first_step`.

    Each request is admitted by the plan with its first chunk, as if all before were a cached prefix.

    Args:
        faults: commit those that were injected.
        is_recurrent: as in `preparation`.
    """
    numbers = {request.request_id: number for number, request in enumerate(crash.requests)}
    taken = {SLOT} if first_step > 1 else set()
    plans = []
    for index, plan in enumerate(crash.plans):
        new = {request.slot: request for request in crash.requests if request.first_step == plan.step}
        releases = [slot for slot in plan.releases if slot in taken]
        if index == 0:
            releases = sorted(taken)
        taken = (taken - set(releases)) | set(new)
        plans.append(
            StepPlan(
                first_step + index,
                releases,
                [_admission(request, history(request), request.sampling) for request in new.values()],
                list(_chunks(plan, new)),
                plan.faults if faults else [],
                snapshots=[
                    SnapshotUse(request.slot, restore=numbers[request.request_id])
                    for request in new.values()
                    if is_recurrent and request.computed
                ],
            )
        )
    return plans


def _fill(
    request: CrashedRequest, history: History, limits: WorkerConfig, filled: set[int]
) -> Iterator[tuple[list[Admission], Chunk]]:
    """Chunks that compute the positions of `request` behind the blocks `filled` already, which grow by its own."""
    whole = request.blocks[: request.computed // limits.block_size]
    known = next((i for i, block in enumerate(whole) if block not in filled), len(whole))
    start = known * limits.block_size
    if start >= request.computed:
        return
    filled.update(whole)
    admissions = [_admission(request, history(request), SamplingParams(temperature=0.0), SLOT)]
    blocks = request.blocks
    while start < request.computed:
        count = min(limits.max_num_batched_tokens, request.computed - start)
        yield admissions, Chunk(SLOT, start, count, blocks, False)
        admissions, blocks, start = [], [], start + count


def _admission(
    request: CrashedRequest, tokens: list[int], sampling: SamplingParams, slot: int | None = None
) -> Admission:
    where = request.slot if slot is None else slot
    return Admission(where, tokens, request.num_prompt_tokens, sampling, request.stop_token_ids)


def _chunks(plan: CrashedPlan, new: dict[int, CrashedRequest]) -> Iterable[Chunk]:
    for chunk in plan.chunks:
        request = new.get(chunk.slot)
        yield chunk if request is None else msgspec.structs.replace(chunk, new_blocks=request.blocks)
