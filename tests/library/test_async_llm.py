"""`AsyncLLM`: what it streams is what `LLM` gives at once, and a request ends with whoever waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine.harness import PacedWorker
from octavo import LLM, AsyncEngineArgs, AsyncLLM, AsyncLLMEngine, RequestOutput, RequestOutputKind, SamplingParams
from octavo.errors import ConfigError, RequestError, WorkerDiedError
from test_llm import dying_workers, mock_workers, paced_workers

SAFETY_NET_S = 60.0
SOME = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=1)
ENDLESS = SamplingParams(temperature=0, max_tokens=900, ignore_eos=True)
FEW = 20
"""Steps in which no endless request ends."""


@pytest.fixture
def engine() -> Iterator[AsyncLLM]:
    with AsyncLLM(workers=paced_workers, max_model_len="1k") as opened:
        yield opened


def let(engine: AsyncLLM, steps: int) -> PacedWorker:
    """Have the worker make so many more steps, and then none."""
    worker = engine._engine._engine._link
    assert isinstance(worker, PacedWorker)
    worker.let = steps
    return worker


@pytest.fixture
def llm() -> Iterator[LLM]:
    with LLM(workers=mock_workers, max_model_len="1k") as opened:
        yield opened


async def outputs(
    engine: AsyncLLM, prompt: Any = "abc", sampling: SamplingParams | None = SOME, request_id: str = "a"
) -> list[RequestOutput]:
    return [output async for output in engine.generate(prompt, sampling, request_id)]


async def until(reached: Callable[[], bool]) -> None:
    end_s = time.monotonic() + SAFETY_NET_S
    while not reached():
        assert time.monotonic() < end_s
        await asyncio.sleep(0.01)


def alive(engine: AsyncLLM) -> int:
    status = engine._engine.status()
    return status.running + status.waiting


def idle(engine: AsyncLLM) -> Callable[[], bool]:
    return lambda: not alive(engine)


def test_each_kind_of_output_tells_the_same(engine: AsyncLLM, llm: LLM) -> None:
    (whole,) = llm.generate("abc", SOME, use_tqdm=False)
    (expected,) = whole.outputs

    async def check() -> None:
        steps = await outputs(engine)
        assert [step.finished for step in steps] == [False] * (len(steps) - 1) + [True]
        assert all(expected.text.startswith(step.outputs[0].text) for step in steps)
        assert steps[-1].outputs == [expected]
        deltas = await outputs(engine, sampling=SOME.replace(output_kind=RequestOutputKind.DELTA))
        assert "".join(delta.outputs[0].text for delta in deltas) == expected.text
        assert [each for delta in deltas for each in delta.outputs[0].token_ids] == expected.token_ids
        assert [each for delta in deltas for each in delta.outputs[0].logprobs or []] == expected.logprobs
        last = deltas[-1].outputs[0]
        assert last.finish_reason == "length"
        assert last.cumulative_logprob == pytest.approx(expected.cumulative_logprob)
        (final,) = await outputs(engine, sampling=SOME.replace(output_kind=RequestOutputKind.FINAL_ONLY))
        assert final.outputs == [expected]
        assert (final.prompt, final.prompt_token_ids) == (whole.prompt, whole.prompt_token_ids)

    asyncio.run(check())


def test_an_interval_bounds_how_often_is_told(engine: AsyncLLM) -> None:
    sampling = SOME.replace(max_tokens=100, output_kind=RequestOutputKind.DELTA, stream_interval=30)
    deltas = asyncio.run(outputs(engine, sampling=sampling))
    assert len(deltas) <= 5
    assert all(len(delta.outputs[0].token_ids) >= 30 for delta in deltas[1:-1])
    assert sum(len(delta.outputs[0].token_ids) for delta in deltas) == 100


def test_many_at_once_and_n_answers(engine: AsyncLLM, llm: LLM) -> None:
    prompts = ["a" * length for length in (1, 30, 7, 200)]
    alone = [llm.generate(prompt, SOME, use_tqdm=False)[0].outputs for prompt in prompts]
    several = SamplingParams(n=3, seed=5, max_tokens=9, ignore_eos=True)

    async def ask() -> tuple[list[list[RequestOutput]], list[RequestOutput], list[RequestOutput]]:
        together = asyncio.gather(*(outputs(engine, prompt, SOME, prompt) for prompt in prompts))
        deltas = outputs(engine, "n", several.replace(output_kind=RequestOutputKind.DELTA), "delta")
        return await together, await outputs(engine, "n", several, "n"), await deltas

    together, of_three, deltas = asyncio.run(ask())
    assert [each[-1].outputs for each in together] == alone
    assert of_three[-1].outputs == llm.generate("n", several, use_tqdm=False)[0].outputs
    for answer in of_three[-1].outputs:
        parts = [part for delta in deltas for part in delta.outputs if part.index == answer.index]
        assert [each for part in parts for each in part.token_ids] == answer.token_ids
        assert [part.finish_reason for part in parts][-1] == answer.finish_reason


def test_a_stop_string_ends_the_stream_and_the_request(engine: AsyncLLM, llm: LLM) -> None:
    text = llm.generate("abc", ENDLESS.replace(max_tokens=60), use_tqdm=False)[0].outputs[0].text
    sampling = ENDLESS.replace(stop=[text[20:22]])

    async def check() -> None:
        last = (await outputs(engine, sampling=sampling))[-1].outputs[0]
        assert (last.text, last.stop_reason) == (text[: text.index(text[20:22])], text[20:22])
        await until(idle(engine))

    asyncio.run(check())


def test_leaving_ends_the_request(engine: AsyncLLM) -> None:
    async def leave() -> None:
        async for _ in engine.generate("abc", ENDLESS, "a"):
            break

    async def check() -> None:
        let(engine, FEW)
        await leave()
        await until(idle(engine))
        worker = let(engine, FEW)
        task = asyncio.create_task(outputs(engine, sampling=ENDLESS))
        await until(lambda: worker.let == 0)
        task.cancel()
        assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
        await until(idle(engine))
        worker.let = None
        assert (await outputs(engine))[-1].finished, "its id is free again"

    asyncio.run(check())


def test_abort_ends_the_stream(engine: AsyncLLM) -> None:
    async def check() -> None:
        let(engine, 0)
        tasks = [asyncio.create_task(outputs(engine, sampling=ENDLESS, request_id=name)) for name in "abc"]
        await until(lambda: alive(engine) == 3)
        worker = let(engine, FEW)
        await until(lambda: worker.let == 0)
        assert engine._engine.status().running == 3
        await engine.abort("a")
        await engine.abort(["b", "c", "unknown"])
        ends = [(await task)[-1] for task in tasks]
        assert [(end.finished, end.outputs[0].finish_reason) for end in ends] == [(True, "abort")] * 3

    asyncio.run(check())


def test_an_event_loop_that_closed_is_no_reason_to_go_on(engine: AsyncLLM) -> None:
    let(engine, 1)
    loop = asyncio.new_event_loop()
    answers = engine.generate("abc", ENDLESS, "a")
    loop.run_until_complete(anext(answers))
    loop.close()
    let(engine, FEW)
    asyncio.run(until(idle(engine)))


def test_event_loops_in_several_threads(engine: AsyncLLM) -> None:
    found: list[list[int]] = []

    def ask(name: str) -> None:
        found.append(asyncio.run(outputs(engine, request_id=name))[-1].outputs[0].token_ids)

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SAFETY_NET_S)
    assert len(found) == 3
    assert found[0] == found[1] == found[2]


def test_a_settings_object_may_be_changed_for_the_next_request(engine: AsyncLLM) -> None:
    async def check() -> None:
        sampling = SOME.clone()
        answers = engine.generate("abc", sampling, "a")
        first = await anext(answers)
        sampling.max_tokens = 3
        assert len([first, *[each async for each in answers]][-1].outputs[0].token_ids) == 12
        assert len((await outputs(engine, sampling=sampling))[-1].outputs[0].token_ids) == 3

    asyncio.run(check())


@pytest.mark.parametrize(
    ("prompt", "sampling", "request_id", "param"),
    [
        ("", SOME, "b", "prompt"),
        ({"prompt": "a", "multi_modal_data": {"image": 1}}, SOME, "b", "multi_modal_data"),
        ("a", SOME.replace(logprobs=1000), "b", "logprobs"),
        ("a", {"max_tokens": 1}, "b", "sampling_params"),
        ("a", SOME, 7, "request_id"),
        ("a", SOME, "taken", "request_id"),
    ],
    ids=["empty", "image", "logprobs", "mapping", "number", "in use"],
)
def test_what_is_refused(engine: AsyncLLM, prompt: Any, sampling: Any, request_id: Any, param: str) -> None:
    async def check() -> None:
        let(engine, 1)
        taken = engine.generate("abc", ENDLESS, "taken")
        await anext(taken)
        with pytest.raises(RequestError) as error:
            await outputs(engine, prompt, sampling, request_id)
        assert error.value.param == param
        let(engine, FEW)
        await anext(taken)
        await taken.aclose()
        await until(idle(engine))

    asyncio.run(check())


def test_the_next_worker_goes_on(llm: LLM) -> None:
    (expected,) = llm.generate("abc", SOME, use_tqdm=False)
    with AsyncLLM(workers=dying_workers, max_model_len="1k") as mortal:
        steps = asyncio.run(outputs(mortal))
        assert mortal._engine.status().restarts["signal"] == 1
    assert steps[-1].outputs == expected.outputs


def test_the_last_worker_s_death_is_an_error() -> None:
    with AsyncLLM(workers=dying_workers, max_model_len="1k", max_worker_restarts=0) as mortal:
        with pytest.raises(WorkerDiedError):
            asyncio.run(outputs(mortal))
        assert (mortal.errored, mortal.is_running, mortal.is_stopped) == (True, False, True)


def test_it_is_opened_as_vllms_users_do() -> None:
    arguments = AsyncEngineArgs(model="octavo-tiny", max_model_len=512, enforce_eager=True, tensor_parallel_size=1)
    assert arguments.max_model_len == 512
    engine = AsyncLLMEngine.from_engine_args(arguments, workers=mock_workers)
    assert engine.max_model_len == 512
    tokenizer = asyncio.run(engine.get_tokenizer())
    assert tokenizer.encode("a") == [97]
    assert asyncio.run(outputs(engine, sampling=None))[-1].finished
    engine.shutdown(timeout=5)
    assert engine.is_stopped
    with pytest.raises(ConfigError):
        AsyncEngineArgs(model="octavo-tiny", max_modellen=3)


def test_an_id_is_free_again_at_once(engine: AsyncLLM) -> None:
    """A client that gives up and asks again under the same name, as after a timeout."""

    async def check() -> None:
        for _ in range(10):
            asked = engine.generate("abc", ENDLESS, "again")
            await anext(asked)
            await asked.aclose()
        assert (await outputs(engine, request_id="again"))[-1].finished

    asyncio.run(check())
