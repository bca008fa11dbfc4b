"""`LLM` with a worker that answers at once: prompts in, outputs out, in the shape that vLLM's users know."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine.harness import PacedWorker
from octavo import LLM, CompletionOutput, RequestOutput, SamplingParams
from octavo.config import EngineConfig, Settings
from octavo.engine.processes.worker_source import WorkerSource
from octavo.errors import ConfigError, RequestError, WorkerDiedError
from octavo.messages import WorkerConfig
from octavo.testing.mock_worker import MockSource, MockWorker

LETTERS = 264
"""Token ids below it have a text in octavo-tiny."""


def mock_workers(config: WorkerConfig, settings: Settings) -> WorkerSource:
    return _mocks(config)


def paced_workers(config: WorkerConfig, settings: Settings) -> WorkerSource:
    """They make as many steps as they are let."""
    return _mocks(config, PacedWorker)


def dying_workers(config: WorkerConfig, settings: Settings) -> WorkerSource:
    """The first one dies."""
    return _mocks(config, die_at_step=5)


def _mocks(
    config: WorkerConfig, make: Callable[..., MockWorker] = MockWorker, die_at_step: int | None = None
) -> MockSource:
    limits = EngineConfig(
        vocab_size=LETTERS,
        eos_token_ids=(),
        max_model_len=config.max_model_len,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_num_seqs=config.max_num_seqs,
        block_size=config.block_size,
        num_blocks=config.num_blocks or 1000,
    )
    return MockSource(limits, lambda number, config: make(config, die_at_step=None if number else die_at_step))


@pytest.fixture
def llm() -> Iterator[LLM]:
    with LLM("octavo-tiny", workers=mock_workers, max_model_len="1k", trust_remote_code=True) as opened:
        yield opened


def tokens(output: RequestOutput) -> list[list[int]]:
    return [answer.token_ids for answer in output.outputs]


GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


def test_outputs_have_vllms_fields(llm: LLM) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=4, logprobs=2, prompt_logprobs=1, ignore_eos=True)
    (output,) = llm.generate("hello", sampling, use_tqdm=False)
    assert output.prompt == "hello"
    assert output.prompt_token_ids == llm.get_tokenizer().encode("hello")
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    assert [next(iter(entry)) for entry in output.prompt_logprobs[1:] if entry] == output.prompt_token_ids[1:]
    assert output.finished
    assert output.metrics.first_token_time is not None
    assert output.metrics.finished_time is not None
    assert output.metrics.arrival_time <= output.metrics.first_token_time <= output.metrics.finished_time
    (answer,) = output.outputs
    assert isinstance(answer, CompletionOutput)
    assert (answer.index, answer.finish_reason, answer.stop_reason) == (0, "length", None)
    assert len(answer.token_ids) == 4
    assert answer.text == llm.get_tokenizer().decode(answer.token_ids, skip_special_tokens=True)
    assert answer.logprobs is not None
    assert [next(iter(entry)) for entry in answer.logprobs] == answer.token_ids, "the chosen token comes first"
    assert all(2 <= len(entry) <= 3 for entry in answer.logprobs)
    chosen = [entry[token].logprob for entry, token in zip(answer.logprobs, answer.token_ids, strict=True)]
    assert answer.cumulative_logprob == sum(chosen)


def test_outputs_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    prompts = ["a" * length for length in (300, 1, 40, 2)]
    together = llm.generate(prompts, GREEDY, use_tqdm=False)
    assert [output.prompt for output in together] == prompts
    alone = [llm.generate(prompt, GREEDY, use_tqdm=False)[0] for prompt in prompts]
    assert [tokens(output) for output in together] == [tokens(output) for output in alone]
    assert len({tuple(answer) for output in together for answer in tokens(output)}) == 4


@pytest.mark.parametrize("bound", [{"max_num_queued_reqs": 4}, {"max_num_queued_tokens": 4}], ids=str)
def test_bounds_of_the_queue_are_not_for_the_prompts_of_one_call(bound: dict[str, Any], llm: LLM) -> None:
    prompts = ["a" * length for length in (300, *range(1, 20))]
    talks = [[{"role": "user", "content": prompt}] for prompt in prompts]
    twice = SamplingParams(n=2, seed=3, max_tokens=8, ignore_eos=True)

    def answers(model: LLM) -> list[list[list[int]]]:
        outputs = [*model.generate(prompts, twice, use_tqdm=False), *model.chat(talks, twice, use_tqdm=False)]
        return [tokens(output) for output in outputs]

    with LLM(workers=mock_workers, max_model_len="1k", max_num_seqs=2, **bound) as bounded:
        assert answers(bounded) == answers(llm)


def test_prompts_come_in_three_forms(llm: LLM) -> None:
    ids = llm.get_tokenizer().encode("abc")
    prompts: list[str | dict[str, Any]] = ["abc", {"prompt": "abc"}, {"prompt_token_ids": ids}]
    outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    assert tokens(outputs[0]) == tokens(outputs[1]) == tokens(outputs[2])
    assert [output.prompt for output in outputs] == ["abc", "abc", None]


def test_n_answers_differ_and_the_first_is_that_of_n_1(llm: LLM) -> None:
    one = SamplingParams(max_tokens=8, seed=7, ignore_eos=True)
    (single,) = llm.generate("abc", one, use_tqdm=False)
    (several,) = llm.generate("abc", one.replace(n=3), use_tqdm=False)
    assert [answer.index for answer in several.outputs] == [0, 1, 2]
    assert len({tuple(answer) for answer in tokens(several)}) == 3
    assert tokens(several)[0] == tokens(single)[0]


def test_each_prompt_may_have_its_own_settings(llm: LLM) -> None:
    outputs = llm.generate(["a", "b"], [GREEDY, GREEDY.replace(max_tokens=3)], use_tqdm=False)
    assert [len(tokens(output)[0]) for output in outputs] == [8, 3]
    with pytest.raises(RequestError, match=r"sampling_params .*1 .*2"):
        llm.generate(["a", "b"], [GREEDY], use_tqdm=False)


def test_a_stop_string_ends_the_answer_and_the_request(llm: LLM) -> None:
    sampling = GREEDY.replace(max_tokens=60)
    text = llm.generate("abc", sampling, use_tqdm=False)[0].outputs[0].text
    stop = text[20:22]
    cut = text.index(stop)
    (without,) = llm.generate("abc", sampling.replace(stop=[stop]), use_tqdm=False)[0].outputs
    (with_it,) = llm.generate("abc", sampling.replace(stop=[stop], include_stop_str_in_output=True), use_tqdm=False)[
        0
    ].outputs
    assert without.text == text[:cut]
    assert with_it.text == text[:cut] + stop
    assert (without.finish_reason, without.stop_reason) == ("stop", stop)
    assert len(without.token_ids) < 60
    again = llm.generate("abc", sampling, use_tqdm=False)[0].outputs[0]
    assert again.text == text, "what is left of a stopped request is in nobody's way"


def test_a_stop_id_ends_the_answer_and_is_not_in_its_text(llm: LLM) -> None:
    free = llm.generate("abc", GREEDY, use_tqdm=False)[0].outputs[0]
    stop_id = free.token_ids[3]
    place = free.token_ids.index(stop_id)
    stopped = llm.generate("abc", GREEDY.replace(stop_token_ids=[stop_id]), use_tqdm=False)[0].outputs[0]
    assert stopped.token_ids == free.token_ids[: place + 1]
    assert stopped.text == llm.get_tokenizer().decode(free.token_ids[:place], skip_special_tokens=True)
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", stop_id)


def test_the_second_time_the_prefix_comes_from_the_cache(llm: LLM) -> None:
    first, second = (llm.generate("x" * 100, GREEDY, use_tqdm=False)[0] for _ in range(2))
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 96)
    assert tokens(first) == tokens(second)


def test_chat_renders_the_template(llm: LLM) -> None:
    talk = [{"role": "user", "content": "hi"}]
    (output,) = llm.chat(talk, GREEDY, use_tqdm=False)
    assert output.prompt is not None
    assert "hi" in output.prompt
    assert output.prompt.endswith("<|im_start|>assistant\n")
    several = llm.chat([talk, talk], GREEDY, use_tqdm=False)
    assert [tokens(one) for one in several] == [tokens(output)] * 2


def test_default_sampling_is_the_models(llm: LLM) -> None:
    defaults = llm.get_default_sampling_params()
    (output,) = llm.generate("abc", use_tqdm=False)
    assert len(tokens(output)[0]) <= (defaults.max_tokens or 0)
    with LLM(
        workers=mock_workers,
        override_generation_config={"temperature": 0, "max_new_tokens": 5},
        generation_config="vllm",
    ) as changed:
        assert changed.get_default_sampling_params() == SamplingParams(temperature=0, max_tokens=5)


@pytest.mark.parametrize(
    "prompt",
    ["", {"prompt_token_ids": [LETTERS + 10**6]}, {"prompt_token_ids": [-1]}, {"text": "abc"}, "x" * 2000],
    ids=["empty", "beyond", "negative", "form", "long"],
)
def test_a_bad_prompt_is_refused_and_nothing_stays(prompt: str | dict[str, object], llm: LLM) -> None:
    with pytest.raises(RequestError):
        llm.generate(["good", prompt], GREEDY, use_tqdm=False)
    assert not llm._engine.has_work
    assert llm._engine.status().free_blocks == llm._engine.status().total_blocks
    assert len(llm.generate("good", GREEDY, use_tqdm=False)) == 1


def test_progress_is_shown_on_demand(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["a", "b"], GREEDY, use_tqdm=False)
    assert capsys.readouterr().err == ""
    llm.generate(["a", "b"], GREEDY)
    assert "2/2" in capsys.readouterr().err


def test_the_death_of_the_worker_is_raised_at_once() -> None:
    with LLM(workers=dying_workers, max_worker_restarts=0) as llm:
        with pytest.raises(WorkerDiedError, match="told to die"):
            llm.generate(["a", "b"], GREEDY, use_tqdm=False)
        with pytest.raises(WorkerDiedError):
            llm.generate("a", GREEDY, use_tqdm=False)


def test_the_next_worker_goes_on_where_the_last_one_died(llm: LLM) -> None:
    prompts = ["abc", "de", "f" * 50]
    with LLM(workers=dying_workers, max_model_len="1k") as mortal:
        answers = mortal.generate(prompts, GREEDY, use_tqdm=False)
        assert mortal._engine.status().restarts["signal"] == 1
    assert [tokens(one) for one in answers] == [tokens(one) for one in llm.generate(prompts, GREEDY, use_tqdm=False)]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="max_num_seqs"):
        LLM(workers=mock_workers, max_num_seq=3)
    with pytest.raises(ConfigError, match="max_model_len"):
        LLM(workers=mock_workers, max_model_len=100_000)


def test_closing_twice_is_fine() -> None:
    llm = LLM(workers=mock_workers)
    llm.close()
    llm.close()


def test_importing_the_api_loads_no_torch() -> None:
    program = (
        "import sys; from octavo import LLM, SamplingParams, RequestOutput, CompletionOutput, __version__;"
        "assert __version__; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
