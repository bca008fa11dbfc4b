"""Calls of attention and of a whole model, to be placed at the edges of mappings."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import torch

from cases import QWEN3_30B_HEADS, SMALL_HEADS, HeadShape, to_device
from guard_pages import Scenario, owned
from models.toy import make_batch, raw_config
from octavo.models.cuda_operations import CudaOperations
from octavo.models.kv_cache import KVCache
from octavo.models.load import load_model
from octavo.ops.activations import FP8
from octavo.ops.attention.cache import CACHE_TYPES
from octavo.ops.attention.cuda import KV_TILE, SplitResults, paged_attention, plan_paged_attention
from octavo.ops.attention.cuda_layer import PagedAttention
from octavo.ops.attention.layer import AttentionShape
from octavo.ops.prepare_qkv.cuda import prepare_qkv
from octavo.worker.graphs import CudaCapture, GraphedModel
from ops.prepare_qkv.test_prepare_qkv import Case as AttentionInput
from paged import Chunk, Request, poisoned, write


def attention_inputs(device: torch.device) -> Iterator[Scenario]:
    """Norm, rotation and writes to the cache."""
    for shape in SMALL_HEADS if device.type == "cpu" else [*SMALL_HEADS, QWEN3_30B_HEADS]:
        for tokens in (5,) if device.type == "cpu" else (1, 5):
            for normed in (True, False):
                for dtype in CACHE_TYPES if normed else CACHE_TYPES[:1]:
                    case = AttentionInput.draw(tokens, shape, seed=1, normed=normed)
                    yield _attention_input(case, tokens, device, dtype, gated=False)
            case = AttentionInput.draw(tokens, shape, seed=1)
            with_gates = torch.cat((case.qkv, case.qkv[:, : shape.heads]), dim=1)  # as many heads as with them
            yield _attention_input(
                dataclasses.replace(case, qkv=with_gates), tokens, device, torch.bfloat16, gated=True
            )


def _attention_input(
    case: AttentionInput, tokens: int, device: torch.device, dtype: torch.dtype, *, gated: bool
) -> Scenario:
    slots = torch.tensor([7, 0, -1, 8, 3][:tokens], device=device)
    cache = poisoned(2, 4, case.shape, device, dtype)
    norms = None if case.norms is None else to_device(case.norms, device)
    label = f"prepare_qkv {case.shape.name} T={tokens} normed={norms is not None} gated={gated} {dtype}"
    inputs = (case.qkv.to(device), norms, to_device(case.rows, device), cache, slots, gated)
    return Scenario(label, inputs, _prepare_qkv)


SHORT: list[tuple[int, int]] = [(40, 3), (65, 1)]
SPREAD = [(530, 2), (17, 17)]
LONG = [(1600, 1), (1537, 9), (64, 64), (300, 300)]
DECODES = [(511, 1)] * 17
"""(context, tokens) of each chunk."""


def _attention(
    shape: HeadShape,
    chunks: list[tuple[int, int]],
    block_size: int,
    device: torch.device,
    *,
    fixed: bool,
    dtype: torch.dtype = torch.bfloat16,
) -> Scenario:
    inputs = _paged_inputs(shape, chunks, block_size, device, dtype)
    label = f"{shape.name} {chunks[:4]} blocks of {block_size} fixed={fixed} {dtype}"
    return Scenario(f"paged_attention {label}", (*inputs, fixed), _paged_attention)


def attention(device: torch.device) -> Iterator[Scenario]:
    """Queries over contexts of less than a tile to several splits, with plans that fit and plans of a fixed size."""
    odd = SMALL_HEADS[1]
    yield _attention(odd, SHORT, 16, device, fixed=False)
    yield _attention(odd, SHORT, 7, device, fixed=True)
    yield _attention(odd, SPREAD, 16, device, fixed=False)
    yield _attention(odd, SPREAD, 16, device, fixed=True)
    yield _attention(odd, SHORT, 7, device, fixed=True, dtype=FP8)
    yield _attention(odd, SPREAD, 16, device, fixed=False, dtype=FP8)
    for dtype in CACHE_TYPES:
        yield _attention(odd, SPREAD, 64, device, fixed=False, dtype=dtype)
    *inputs, plan, split_results = _paged_inputs(odd, SPREAD, 16, device)
    yield Scenario("paged_attention corrupt plan", (*inputs, _corrupt(plan), split_results, False), _paged_attention)
    if device.type == "cuda":
        yield _attention(odd, LONG, 7, device, fixed=True)
        for shape in SMALL_HEADS:
            yield _attention(shape, SPREAD, 16, device, fixed=False)


def real_attention(device: torch.device) -> Iterator[Scenario]:
    """The same with the heads of Qwen3-30B-A3B."""
    for chunks, fixed, dtype in itertools.product((SPREAD, LONG, DECODES), (False, True), CACHE_TYPES):
        yield _attention(QWEN3_30B_HEADS, chunks, 16, device, fixed=fixed, dtype=dtype)
    # the persistent kernel, which takes whole tiles of keys
    for chunks, fixed in itertools.product((SHORT, SPREAD, LONG), (False, True)):
        yield _attention(QWEN3_30B_HEADS, chunks, KV_TILE, device, fixed=fixed)
    *inputs, plan, split_results = _paged_inputs(QWEN3_30B_HEADS, SPREAD, KV_TILE, device)
    yield Scenario("paged_attention corrupt plan", (*inputs, _corrupt(plan), split_results, False), _paged_attention)


def _corrupt(plan: Any) -> Any:
    """Numbers that leave int32 when a token is added to them, and split results before the first: none is to be followed."""
    work, merges = torch.cat((plan.work, plan.small_work)), plan.merges.clone()
    spread, whole = ((work[:, 6] >= 0) & (work[:, 2] > 1)).nonzero(), (work[:, 6] < 0).nonzero()
    work[spread[0], 6] = 2**31 - 1
    work[whole[0], 1] = 2**31 - 3
    merges[0, 2] = -(2**30)
    large = len(plan.work)
    return dataclasses.replace(plan, work=work[:large].clone(), small_work=work[large:].clone(), merges=merges)


def _prepare_qkv(*args: Any) -> list[torch.Tensor]:
    qkv, norms, table, cache, slots, gated = args
    return [prepare_qkv(qkv, norms, table, cache, slots, gated=gated), cache]


def _paged_inputs(
    shape: HeadShape,
    chunks: list[tuple[int, int]],
    block_size: int,
    device: torch.device,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Any, ...]:
    """Queries, cache, plan and split results of chunks (context, tokens); all blocks are used, the last ones first."""
    per_chunk = [-(-context // block_size) for context, _ in chunks]
    free = list(range(sum(per_chunk)))
    cache = poisoned(len(free), block_size, shape, device, dtype)
    tables = torch.full((len(chunks), max(per_chunk)), -1, dtype=torch.int32)
    queries, starts = [], [0]
    for row, (context, tokens) in enumerate(chunks):
        request = Request.draw(context, shape, seed=row)
        blocks = [free.pop() for _ in range(per_chunk[row])]
        write(Chunk(request, 0, context, blocks), cache)
        tables[row, : len(blocks)] = torch.tensor(blocks, dtype=torch.int32)
        queries.append(request.queries[context - tokens :])
        starts.append(starts[-1] + tokens)
    plan = plan_paged_attention(
        tables.to(device), tuple(starts), tuple(context for context, _ in chunks),
        block_size=block_size, heads_per_kv_head=shape.heads // shape.kv_heads,
    )  # fmt: skip
    split_results = SplitResults.allocate(shape.heads, shape.width, device, count=max(1, plan.num_split_results))
    return torch.cat(queries).to(device), cache, plan, split_results


def _paged_attention(queries: Any, cache: Any, plan: Any, split_results: Any, fixed: bool) -> list[torch.Tensor]:
    if fixed:
        counts = [len(plan.work), len(plan.small_work), len(plan.merges)]
        plan = dataclasses.replace(plan, lines_in_use=torch.tensor(counts, dtype=torch.int32, device=queries.device))
    return [paged_attention(queries, cache, plan, split_results)]


def model(device: torch.device, *, graphs: bool, fp8: bool = True) -> Iterator[Scenario]:
    """A small model: launched, or in graphs with the memory that they read."""
    yield Scenario(f"model graphs={graphs} fp8={fp8}", (device, graphs, fp8), _model)


class Operations(CudaOperations):
    """Those of a model; on a CPU the plan is NumPy's memory until it is copied."""

    def attention(self, shape: AttentionShape) -> PagedAttention:
        return OwnedPlans(shape)


class OwnedPlans(PagedAttention):
    """Attention whose plans on a CPU are not NumPy's memory."""

    def plan(self, block_tables: torch.Tensor, *args: Any, **sizes: Any) -> Any:
        plan = super().plan(block_tables, *args, **sizes)
        return owned(plan) if block_tables.device.type == "cpu" else plan


def _model(device: torch.device, graphs: bool, fp8: bool) -> list[torch.Tensor]:
    cpu = device.type == "cpu"
    changes: dict[str, Any] = {} if fp8 else {"quantization_config": None}
    small = {"num_experts": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    wide = {"num_experts": 60, "hidden_size": 128, "moe_intermediate_size": 80, "max_position_embeddings": 1024}
    sizes = small if cpu else wide
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / "config.json").write_text(json.dumps(raw_config(**sizes, **changes)))
        loaded = load_model(
            path, load_format="dummy", device=device, seed=7, operations=Operations(max_tokens=40), progress=False
        )
    config = loaded.config
    cache = KVCache.allocate(config.cache, num_blocks=40, block_size=16, device=device)  # fmt: skip
    cache = KVCache([owned(layer) for layer in cache.layers])
    run: Any = loaded.model
    if graphs:
        capture = (lambda launch: launch) if cpu else CudaCapture()
        run = GraphedModel(
            loaded.model, cache, max_chunks=3, columns=35,
            sizes=[4] if cpu else [1, 4, 8, 32], capture=capture,
        )  # fmt: skip
    ids = torch.randint(97, (540,), generator=torch.Generator().manual_seed(5)).tolist()
    first, second = list(range(39, 4, -1)), [2, 4]
    steps = [[(ids, 0, 2, first), (ids, 0, 1, second)]]
    if not cpu:
        steps += [[(ids, 2, 1, first)], [(ids, 3, 1, first), (ids, 1, 3, second)]]
        steps += [[(ids, at, min(40, 530 - at), first)] for at in range(4, 530, 40)]
        steps += [[(ids, 530, 1, first), (ids, 4, 7, second)], [(ids, 531, 1, first)]]
    outs = []
    with torch.inference_mode():
        for step in steps:
            batch = make_batch(step, block_size=16, columns=35)
            hidden = run.forward(batch if graphs else batch.to(device), cache).clone()
            outs += [hidden, run.logits(hidden)]
    return outs
