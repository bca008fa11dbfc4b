"""Steps in memory of a fixed size: what graphs replay, here without one, through Triton's interpreter."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor

from models.toy import CPU, allocate_cache, make_batch, random_tensors, raw_config, write_checkpoint
from octavo.messages import Admission, Chunk, StepPlan, WorkerConfig
from octavo.models.cuda_operations import CudaOperations
from octavo.models.kv_cache import KVCache
from octavo.models.load import LoadedModel
from octavo.models.registry import read_config
from octavo.ops.attention.plan import WORK
from octavo.ops.attention.plan_buffers import ANY, DECODES
from octavo.sampling import SamplingParams
from octavo.worker.graphs import GraphedModel, Inputs, Kind, graph_sizes
from octavo.worker.runner import Runner
from octavo.worker.warm_up import SHORT_BEHIND, blocks_of_widest, warm_up, widest_plan, with_short_contexts
from ops.test_model import CONFIGS, SMALL, alone, load, tokens

COLUMNS = 6
Step = list[tuple[int, int]]
"""(request, count) of each chunk."""
BLOCK = 8
STEPS: list[Step] = [[(1, 4), (0, BLOCK)], [(0, 1), (1, 1)], [(2, 2), (0, 3)], [(0, 1), (2, 1)], [(0, 1)]]
REQUESTS = [tokens(1, BLOCK + 6), tokens(2, 5), tokens(3, 3)]
WHOLE = 16
"""Rows of a graph that holds each step, and more: interpreted kernels take their time for each of them."""
TABLES = [[14, 2], [3, 12], [5]]


@pytest.fixture(scope="module", params=["fp8", "qwen3-next"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder, raw = tmp_path_factory.mktemp("model"), CONFIGS[request.param]
    write_checkpoint(folder, raw, random_tensors(read_config(raw), 3))
    return load(folder, CudaOperations(max_tokens=128))


def graphs_of(loaded: LoadedModel, cache: KVCache, sizes: list[int]) -> GraphedModel:
    """A graph that is only the launches again, on the same memory."""
    return GraphedModel(
        loaded.model,
        cache,
        max_chunks=3,
        columns=COLUMNS,
        sizes=sizes,
        capture=lambda launch: launch,
    )


@pytest.fixture(scope="module")
def expected(loaded: LoadedModel) -> list[torch.Tensor]:
    """Hidden states of each request alone."""
    return [alone(loaded, ids) for ids in REQUESTS]


def wrong_chunks(expected: list[torch.Tensor], graphed: GraphedModel, cache: KVCache) -> Iterator[tuple[Step, int]]:
    """The chunks of STEPS, as their step and request, that have other bits than their requests alone."""
    done = [0] * 3
    for step in STEPS:
        chunks = [(REQUESTS[i], done[i], count, TABLES[i]) for i, count in step]
        batch = make_batch(chunks, block_size=BLOCK, columns=COLUMNS)
        hidden = graphed.forward(batch, cache)
        for row, (i, count) in enumerate(step):
            rows = slice(batch.chunk_starts[row], batch.chunk_starts[row + 1])
            if not torch.equal(hidden[rows], expected[i][done[i] : done[i] + count]):
                yield step, i
            done[i] += count
    assert done == [len(ids) for ids in REQUESTS]


@pytest.mark.parametrize("sizes", [[1, 4, WHOLE], [8], []], ids=["all", "small-steps", "none"])
def test_rows_have_the_bits_of_their_requests_alone(
    loaded: LoadedModel, expected: list[torch.Tensor], sizes: list[int]
) -> None:
    cache = allocate_cache(loaded.config, num_blocks=16, block_size=BLOCK)
    assert list(wrong_chunks(expected, graphs_of(loaded, cache, sizes), cache)) == []


def test_the_check_sees_a_row_that_should_not_be(loaded: LoadedModel, expected: list[torch.Tensor]) -> None:
    """The twin: rows past a step's own that write to a slot of request 1."""
    cache = allocate_cache(loaded.config, num_blocks=16, block_size=BLOCK)
    graphed = graphs_of(loaded, cache, [4, WHOLE])
    vars(vars(graphed)["_inputs"])["_slot_mapping"].filler = 3 * BLOCK
    assert any(wrong_chunks(expected, graphed, cache))


def test_a_step_that_runs_twice_is_seen(loaded: LoadedModel, expected: list[torch.Tensor]) -> None:
    """The twin: keys and values are only written again, but states move on again."""
    cache = allocate_cache(loaded.config, num_blocks=16, block_size=BLOCK)
    graphed = graphs_of(loaded, cache, [8])

    def capture(launch: Callable[[], None]) -> Callable[[], None]:
        def twice() -> None:
            launch()
            launch()

        return twice

    vars(graphed)["_capture"] = capture
    assert any(wrong_chunks(expected, graphed, cache)) is (cache.num_states > 0)


def test_a_graph_of_few_decodes_has_their_logits(
    loaded: LoadedModel, expected: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the model, until the next step; those of other steps and of other rows are computed when they are asked for."""
    cache = allocate_cache(loaded.config, num_blocks=16, block_size=BLOCK)
    graphed, logits, done = graphs_of(loaded, cache, [1, 4, WHOLE]), loaded.model.logits, [0] * 3
    asked: list[int] = []

    def seen(_: object, rows: torch.Tensor) -> torch.Tensor:
        asked.append(len(rows))
        return logits(rows)

    for step in STEPS:
        chunks = [(REQUESTS[i], done[i], count, TABLES[i]) for i, count in step]
        batch = make_batch(chunks, block_size=BLOCK, columns=COLUMNS)
        hidden = graphed.forward(batch, cache)
        monkeypatch.setattr(type(loaded.model), "logits", seen)
        given, again = graphed.logits(hidden).clone(), graphed.logits(hidden.clone())
        monkeypatch.undo()
        is_decode = all(count == 1 for _, count in step)
        assert asked == [len(hidden)] * (1 if is_decode else 2)
        asked.clear()
        assert torch.equal(given, logits(hidden))
        assert torch.equal(again, given)
        for i, count in step:
            done[i] += count


@pytest.mark.parametrize(("counts", "is_narrow"), [((1, 2), True), ((2, 4), False)])
def test_only_the_wanted_rows_come_back(loaded: LoadedModel, counts: tuple[int, int], is_narrow: bool) -> None:
    """And where they are no more than requests, the last layer computes no others."""
    cache = allocate_cache(loaded.config, num_blocks=16, block_size=BLOCK)
    graphed = graphs_of(loaded, cache, [WHOLE])
    chunks = [(REQUESTS[0], 0, BLOCK, TABLES[0]), (REQUESTS[1], 0, 4, TABLES[1])]
    whole = graphed.forward(make_batch(chunks, block_size=BLOCK, columns=COLUMNS), cache).clone()
    batch = make_batch(chunks, block_size=BLOCK, columns=COLUMNS)
    few = dataclasses.replace(batch, output_counts=counts)
    wanted = [BLOCK - counts[0] + i for i in range(counts[0])] + [BLOCK + 4 - counts[1] + i for i in range(counts[1])]
    assert torch.equal(graphed.forward(few, cache), whole[wanted])
    assert any(kind.is_narrow for kind in vars(graphed)["_graphs"]) is is_narrow


def last_rows(graphed: GraphedModel, cache: KVCache, expected: list[torch.Tensor]) -> list[bool]:
    """Of each step of STEPS, only the last row of each chunk wanted: whether they have the bits of their requests alone."""
    done, right = [0] * 3, []
    for step in STEPS:
        chunks = [(REQUESTS[i], done[i], count, TABLES[i]) for i, count in step]
        batch = make_batch(chunks, block_size=BLOCK, columns=COLUMNS)
        hidden = graphed.forward(dataclasses.replace(batch, output_counts=(1,) * len(step)), cache)
        for i, count in step:
            done[i] += count
        right.append(torch.equal(hidden, torch.stack([expected[i][done[i] - 1] for i, _ in step])))
    return right


def test_the_last_layer_of_wanted_rows_alone_gives_the_same_bits(
    loaded: LoadedModel, expected: list[torch.Tensor]
) -> None:
    """And the twins: a wrong row, and experts that take no row for one in use."""
    cache = allocate_cache(loaded.config, num_blocks=16, block_size=BLOCK)
    graphed = graphs_of(loaded, cache, [WHOLE])
    narrow = [sum(count for _, count in step) > 3 for step in STEPS]
    assert any(narrow)
    assert last_rows(graphed, cache, expected) == [True] * len(STEPS)
    spoil: list[Callable[[Inputs], object]] = [
        lambda inputs: vars(inputs)["_output_rows"].device.sub_(1).clamp_(min=0),
        lambda inputs: vars(inputs)["_outputs_in_use"].device.zero_(),
    ]
    for each in spoil:
        cache = allocate_cache(loaded.config, num_blocks=16, block_size=BLOCK)
        graphed = graphs_of(loaded, cache, [WHOLE])
        inputs = vars(graphed)["_inputs"]
        vars(graphed)["_capture"] = lambda launch, each=each, inputs=inputs: lambda: (each(inputs), launch())
        wrong = [not right for right in last_rows(graphed, cache, expected)]
        assert wrong == narrow


def kinds_of(graphed: GraphedModel) -> set[Kind]:
    return set(vars(graphed)["_graphs"])


def prepared(graphed: GraphedModel) -> set[Kind]:
    """All that can be recorded before any step."""
    while graphed.prepare_next():
        pass
    return kinds_of(graphed)


@pytest.mark.parametrize("sizes", [[1, 4, WHOLE], [5, WHOLE]], ids=str)
def test_what_is_prepared_is_what_steps_take(
    loaded: LoadedModel, expected: list[torch.Tensor], sizes: list[int]
) -> None:
    cache = allocate_cache(loaded.config, num_blocks=16, block_size=BLOCK)
    graphed = graphs_of(loaded, cache, sizes)
    before = prepared(graphed)
    assert last_rows(graphed, cache, expected) == [True] * len(STEPS)
    assert kinds_of(graphed) == before


def test_wanted_rows_of_many_heads_over_one(tmp_path: Path) -> None:
    """A row's heads are more than a small tile has room for: no graph is narrow."""
    raw = raw_config(**SMALL | {"num_attention_heads": 32, "num_key_value_heads": 1})
    write_checkpoint(tmp_path, raw, random_tensors(read_config(raw), 3))
    many = load(tmp_path, CudaOperations(max_tokens=128))
    cache = allocate_cache(many.config, num_blocks=16, block_size=BLOCK)
    graphed = graphs_of(many, cache, [4, WHOLE])
    before = prepared(graphed)
    assert not any(kind.is_narrow for kind in before)
    assert last_rows(graphed, cache, [alone(many, ids) for ids in REQUESTS]) == [True] * len(STEPS)
    assert kinds_of(graphed) == before


def test_a_start_records_the_graph_of_a_prompt_of_the_whole_budget(loaded: LoadedModel) -> None:
    config = WorkerConfig(
        model="toy", device="cuda", max_model_len=48, max_num_seqs=3, max_num_batched_tokens=WHOLE, block_size=BLOCK
    )
    cache = allocate_cache(loaded.config, num_blocks=16, block_size=BLOCK)
    graphed = graphs_of(loaded, cache, graph_sizes(WHOLE))
    vocab_size = loaded.config.vocab_size
    warm_up(graphed, cache, config, vocab_size=vocab_size)
    before = kinds_of(graphed)
    prompt = Admission(0, [1] * WHOLE, WHOLE, SamplingParams(temperature=0.0, max_tokens=None), [])
    runner = Runner(graphed, cache, config, vocab_size=vocab_size)
    runner.run(StepPlan(1, [], [prompt], [Chunk(0, 0, WHOLE, [0, 1], True)]))
    assert kinds_of(graphed) == before


class Allocations(TorchDispatchMode):
    """Notes what operations give: shapes and bytes of all tensors but the work of attention, which is a few lines."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no type for it
        self.noted: list[tuple[torch.Size, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves(given) if isinstance(each, torch.Tensor)]
        self.noted += [(each.shape, each.nbytes) for each in tensors if each.shape[-1:] != (WORK,)]
        return given


def allocated_by(loaded: LoadedModel, config: WorkerConfig, plan: StepPlan) -> list[tuple[torch.Size, int]]:
    """What a step takes from torch where it is launched kernel by kernel: graphs have it all before they are filled."""
    cache = KVCache.allocate(
        loaded.config.cache, num_blocks=blocks_of_widest(config), num_states=4, block_size=BLOCK, device=CPU
    )
    runner = Runner(loaded.model, cache, config, vocab_size=loaded.config.vocab_size)
    allocations = Allocations()
    with allocations:
        runner.run(plan)
    return allocations.noted


@pytest.mark.parametrize("name", ["fp8", "qwen3-next"])
def test_a_step_allocates_the_same_behind_any_context(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what steps take is measured behind short ones; the twin has one token less."""
    length = 3 * SHORT_BEHIND
    raw = CONFIGS[name] | {"max_position_embeddings": length}
    write_checkpoint(tmp_path, raw, random_tensors(read_config(raw), 3))
    loaded = load(tmp_path, CudaOperations(max_tokens=WHOLE))
    config = WorkerConfig(
        model="toy", device="cuda", max_model_len=length, max_num_seqs=2, max_num_batched_tokens=WHOLE, block_size=BLOCK
    )
    launch = GridExecutor.__call__

    def launch_unseen(self: GridExecutor, *args: object, **options: object) -> None:
        with _disable_current_modes():  # the interpreter computes with tensors of its own
            launch(self, *args, **options)

    monkeypatch.setattr(GridExecutor, "__call__", launch_unseen)
    short = with_short_contexts(config)
    assert short.max_model_len == WHOLE + SHORT_BEHIND < length
    fewer = msgspec.structs.replace(short, max_num_batched_tokens=WHOLE - 1)
    plans = [widest_plan(each, blocks_of_widest(config)) for each in (config, config, short, fewer)]
    # the first call of attention allocates what all share
    _, long, behind_short, of_fewer = (allocated_by(loaded, config, plan) for plan in plans)
    assert long == behind_short != of_fewer


def test_preparing_leaves_the_cache_alone(loaded: LoadedModel) -> None:
    cache = allocate_cache(loaded.config, num_blocks=2, block_size=16)
    recorded: list[Callable[[], None]] = []

    def capture(launch: Callable[[], None]) -> Callable[[], None]:
        recorded.append(launch)
        return launch

    graphed = graphs_of(loaded, cache, [1, 4])
    vars(graphed)["_capture"] = capture
    count = 10 if cache.num_states else 6
    assert [graphed.prepare_next() for _ in range(count + 2)] == [True] * count + [False] * 2
    assert len(recorded) == count
    assert all(layer.isnan().all() for layer in cache.layers)


@pytest.mark.parametrize("room", range(3))
def test_steps_without_room_for_a_graph_are_launched(
    loaded: LoadedModel, expected: list[torch.Tensor], room: int, caplog: pytest.LogCaptureFixture
) -> None:
    cache = allocate_cache(loaded.config, num_blocks=16, block_size=BLOCK)
    graphed, captured = graphs_of(loaded, cache, [1, 4, WHOLE]), itertools.count()
    vars(graphed)["_capture"] = lambda launch: launch if next(captured) < room else None
    assert list(wrong_chunks(expected, graphed, cache)) == []
    assert next(captured) == room + 1, "it is not tried again"
    assert not graphed.prepare_next()
    assert [
        record.message.partition(":")[2].split(",")[0] for record in caplog.records if record.levelname == "WARNING"
    ] == [f" {room} of {11 if cache.num_states else 7} graphs are recorded"]


@pytest.mark.parametrize("most", [1, 2, 7, 8, 30, 100, 512, 1000, 4096])
def test_sizes(most: int) -> None:
    sizes = graph_sizes(most)
    assert sizes == sorted(set(sizes))
    assert (sizes[0], sizes[-1]) == (1, most)
    assert all(
        after <= max(2 * size, size + 8) if size < 32 else after <= 1.25 * size
        for size, after in itertools.pairwise(sizes)
    )
    assert graph_sizes(0) == []


def test_a_step_gets_the_kernels_that_it_has_lines_for(loaded: LoadedModel, expected: list[torch.Tensor]) -> None:
    """A tile of many rows, and steps of small ones; and the twin, in which the former is taken for one of the latter."""
    cache = allocate_cache(loaded.config, num_blocks=16, block_size=BLOCK)
    graphed = graphs_of(loaded, cache, [WHOLE])
    chunk = (REQUESTS[0], 0, len(REQUESTS[0]), TABLES[0])

    def is_right() -> bool:
        hidden = graphed.forward(make_batch([chunk], block_size=BLOCK, columns=COLUMNS), cache)
        return torch.equal(hidden, expected[0])

    assert is_right()
    assert not any(wrong_chunks(expected, graphed, cache))
    graphs = vars(graphed)["_graphs"]
    singles = {Kind(WHOLE, DECODES, only_singles=True)} if cache.num_states else set()
    assert graphs.keys() == {Kind(WHOLE, ANY), Kind(WHOLE, DECODES)} | singles
    graphs[Kind(WHOLE, ANY)] = graphs[Kind(WHOLE, DECODES)]
    assert not is_right()


def test_chunks_that_are_no_single_rows_get_the_kernel_that_moves_their_states(
    loaded: LoadedModel, expected: list[torch.Tensor]
) -> None:
    """The twin: a graph for single rows alone is taken for all decodes."""
    cache = allocate_cache(loaded.config, num_blocks=16, block_size=BLOCK)
    graphed = graphs_of(loaded, cache, [WHOLE])
    assert not any(wrong_chunks(expected, graphed, cache))
    graphs = vars(graphed)["_graphs"]
    for kind in [*graphs]:
        graphs[kind] = graphs.get(kind._replace(only_singles=True), graphs[kind])
    assert any(wrong_chunks(expected, graphed, cache)) is (cache.num_states > 0)
