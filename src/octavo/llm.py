"""The offline API: prompts in, answers out, in one process and without a server."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from octavo.answers import Prompt
from octavo.config import Settings
from octavo.engine.engine import Engine
from octavo.engine.recovery.supervisor import AbandonedError
from octavo.errors import RequestError
from octavo.library import unserved
from octavo.library.engine_args import EngineArgs, read_settings
from octavo.library.handle import ModelHandle
from octavo.library.job import Job
from octavo.library.lifetime import Lifetime
from octavo.library.prompts import GivenPrompt, Messages, listed, several
from octavo.library.tokenizer import LLMTokenizer
from octavo.outputs import RequestOutput
from octavo.sampling import SamplingParams
from octavo.startup import OpenWorkers, Runtime, in_processes

LOOK_S = 0.1
"""With a step in flight: how often to look whether another thread has closed the LLM."""

GivenSampling = SamplingParams | Sequence[SamplingParams] | None
"""Settings of all requests, or of each; None: `get_default_sampling_params()`."""
Progress = bool | Callable[..., Any]
"""Whether to show progress, or what to make the bar with instead of `tqdm`."""


class LLM(ModelHandle):
    """A model ready to answer; names are those of vLLM's `LLM`. Close it, use it in a `with`, or let it go.

    Threads take turns: while one generates, the next waits.

    Args:
        model: folder, Hugging Face repo id, or an embedded model: `octavo-tiny`, `octavo-tiny-hybrid`.
        workers: where the model runs; in processes of its own unless told otherwise.
        settings: any of `Settings`, as Python values or text, or of vLLM's names for them.

    Raises:
        ConfigError, CheckpointError, WorkerDiedError: as `start`.

    Example:
        with LLM("octavo-tiny") as llm:
            print(llm.generate("12 + 30 =")[0].outputs[0].text)
    """

    def __init__(self, model: str = "octavo-tiny", *, workers: OpenWorkers = in_processes, **settings: Any) -> None:
        self._begin(read_settings(model, settings), workers)

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs, *, workers: OpenWorkers = in_processes) -> Self:
        """Open what `engine_args` say.

        Raises:
            CheckpointError, WorkerDiedError: as the class.
        """
        llm = cls.__new__(cls)
        llm._begin(engine_args.settings, workers)
        return llm

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker; safe to call twice, and from any thread: one that generates gets a ClosedError."""
        self._lifetime.end()

    def get_tokenizer(self) -> LLMTokenizer:
        """The model's tokenizer, with the names of Hugging Face's."""
        return self._tokenizer

    def reset_prefix_cache(self) -> bool:
        """Forget what prompts have left in the KV cache; False if another thread generates.

        Raises:
            ClosedError: the LLM was closed.
        """
        self._lifetime.check()
        return self._engine.reset_prefix_cache()

    def generate(
        self,
        prompts: GivenPrompt | Sequence[GivenPrompt] | None = None,
        sampling_params: GivenSampling = None,
        use_tqdm: Progress = True,
        lora_request: Any = None,
        priority: Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        *,
        prompt_token_ids: GivenPrompt | Sequence[GivenPrompt] | None = None,
    ) -> list[RequestOutput]:
        """Answer every prompt; the outputs come in the order of the prompts.

        Args:
            prompts: one or more texts, lists of token ids, `{"prompt": text}` or `{"prompt_token_ids": ids}`,
                with `cache_salt` beside them to share cached prefixes with prompts of the same salt only.
            sampling_params: one for all, or one per prompt; None: `get_default_sampling_params()`.
            use_tqdm: show progress; or what makes the bar.
            priority: one for each prompt; lower ones run first, with `scheduling_policy="priority"`.
            tokenization_kwargs: may hold `add_special_tokens` and `truncate_prompt_tokens` (-1: what leaves room).
            prompt_token_ids: as older scripts give lists of token ids, instead of `prompts`.

        Raises:
            RequestError: a prompt or its settings can never be served; nothing is left running.
            RequestFailedError, WorkerDiedError: the engine could not finish.
            ClosedError: the LLM was closed.
        """
        self._lifetime.check()
        unserved.refuse(lora_request=lora_request)
        if (prompts is None) == (prompt_token_ids is None):
            raise RequestError("give either prompts or prompt_token_ids", param="prompts")
        given = several(prompts if prompts is not None else prompt_token_ids)
        samplings = self._samplings(sampling_params, len(given))
        priorities = [0] * len(given) if priority is None else listed(priority, "priority")
        if len(priorities) != len(given):
            raise RequestError(f"priority has {len(priorities)} entries for {len(given)} prompts", param="priority")
        read = [
            self._prompts.read(each, tokenization_kwargs, max_tokens=sampling.max_tokens, priority=number)
            for each, sampling, number in zip(given, samplings, priorities, strict=True)
        ]
        return self._run(read, samplings, use_tqdm)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: GivenSampling = None,
        use_tqdm: Progress = True,
        lora_request: Any = None,
        chat_template: str | None = None,
        chat_template_content_format: str = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Any = None,
    ) -> list[RequestOutput]:
        """Answer one or more conversations; see `generate`.

        Args:
            chat_template: Jinja's text instead of the model's template.
            chat_template_kwargs: arguments for the template, such as `enable_thinking`.
            tools: functions that the template shows; answers are the text of the model, calls and all, which
                `skip_special_tokens` leaves without those marks that are special tokens.

        Raises:
            RequestError: the model has no chat template, or it refuses the messages; else as `generate`.
            ConfigError: `chat_template` is no Jinja template.
        """
        self._lifetime.check()
        unserved.refuse(lora_request=lora_request, mm_processor_kwargs=mm_processor_kwargs)
        several_messages = listed(messages, "messages")
        one = bool(several_messages) and isinstance(several_messages[0], Mapping)
        conversations: Any = [messages] if one else messages
        prompts = [
            self._prompts.read_chat(
                conversation,
                template=chat_template,
                content_format=chat_template_content_format,
                arguments=chat_template_kwargs,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
            )
            for conversation in conversations
        ]
        return self._run(prompts, sampling_params, use_tqdm)

    def _begin(self, settings: Settings, workers: OpenWorkers) -> None:
        runtime = self._open(settings, workers)
        self._engine = engine = runtime.engine()
        self._compiler = runtime.compiler
        self._numbers = itertools.count()
        self._turn = turn = threading.RLock()
        self._lifetime = Lifetime(self, lambda: _end(engine, runtime, turn))

    def _run(
        self, prompts: Sequence[Prompt], sampling_params: GivenSampling, use_tqdm: Progress
    ) -> list[RequestOutput]:
        samplings = self._samplings(sampling_params, len(prompts))
        tokenizer = self._model.tokenizer
        jobs = [
            Job(str(next(self._numbers)), prompt, sampling, tokenizer, self._compiler)
            for prompt, sampling in zip(prompts, samplings, strict=True)
        ]
        answers = {request_id: job for job in jobs for request_id in job.answer_ids}
        with self._turn:
            try:
                self._lifetime.check()
                for request in itertools.chain.from_iterable(job.requests for job in jobs):
                    # Not `add`: bounds of the queue are for callers who share it, and here are the requests of one alone.
                    self._engine.enqueue(self._engine.accept(request))
                self._finish(answers, len(jobs), use_tqdm)
            except BaseException as error:
                self._abort(answers)
                if isinstance(error, AbandonedError):
                    self._lifetime.check()
                raise
        return [job.output() for job in jobs]

    def _samplings(self, given: GivenSampling, count: int) -> Sequence[SamplingParams]:
        """One for each of `count` prompts."""
        if given is None:
            given = self.get_default_sampling_params()
        if isinstance(given, SamplingParams):
            return [given] * count
        if not isinstance(given, Sequence) or not all(isinstance(each, SamplingParams) for each in given):
            raise RequestError("sampling_params must be SamplingParams, or a list of them", param="sampling_params")
        if len(given) != count:
            raise RequestError(f"sampling_params has {len(given)} entries for {count} prompts", param="sampling_params")
        return given

    def _finish(self, jobs: Mapping[str, Job], count: int, use_tqdm: Progress) -> None:
        """Step the engine until every answer has ended."""
        engine = self._engine
        open_answers = set(jobs)
        with _bar(use_tqdm, count) as bar:
            while open_answers:
                updates = engine.step(LOOK_S)
                self._lifetime.check()
                for update in updates:
                    job = jobs.get(update.request_id)
                    if job is None or not job.take(update):
                        continue  # of an earlier call, or the answer goes on
                    open_answers.discard(update.request_id)
                    if update.finish_reason is None:
                        engine.abort(update.request_id)
                    if bar is not None:
                        bar.update(job.finished)

    def _abort(self, request_ids: Iterable[str]) -> None:
        """End what is still running and drop its news."""
        for request_id in request_ids:
            self._engine.abort(request_id)
        self._engine.take_updates()


def _bar(use_tqdm: Progress, count: int) -> AbstractContextManager[Any]:
    """Yields a bar that shows progress, or None if nobody wants to see one."""
    if not use_tqdm:
        return contextlib.nullcontext()  # a bar of tqdm starts a thread even if it is not shown
    make_bar = use_tqdm if callable(use_tqdm) else tqdm
    bar: AbstractContextManager[Any] = make_bar(total=count, desc="Processed prompts", unit="prompt")
    return bar


def _end(engine: Engine, runtime: Runtime, turn: AbstractContextManager[bool]) -> None:
    """End the workers, after whoever generates has noticed and left."""
    engine.abandon()
    with turn:
        runtime.close()
