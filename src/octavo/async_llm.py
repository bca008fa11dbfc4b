"""The asynchronous API: answers as they are made, many requests at once, from any event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any, Self

from octavo.config import Settings
from octavo.engine.loop import EngineLoop
from octavo.errors import OverloadedError, RequestError
from octavo.library import unserved
from octavo.library.engine_args import EngineArgs, read_settings
from octavo.library.handle import ModelHandle
from octavo.library.job import Job
from octavo.library.lifetime import Lifetime
from octavo.library.prompts import GivenPrompt
from octavo.library.streams import Stream, Streams
from octavo.library.tokenizer import LLMTokenizer
from octavo.outputs import RequestOutput
from octavo.sampling import RequestOutputKind, SamplingParams
from octavo.startup import OpenWorkers, Runtime, in_processes, with_keeper

SMALL_CHARS = 2048
"""Texts up to this long are tokenized on the event loop: a thread would take longer to wake."""


class AsyncLLM(ModelHandle):
    """A model that answers while it is asked: names are those of vLLM's `AsyncLLM`. Shut it down, or let it go.

    Args:
        model: folder, Hugging Face repo id, or an embedded model: `octavo-tiny`, `octavo-tiny-hybrid`.
        workers: where the model runs; as with `octavo serve` unless told otherwise.
        settings: any of `Settings`, as Python values or text, or of vLLM's names for them.

    Raises:
        ConfigError, CheckpointError, WorkerDiedError: as `start`.

    Example:
        async for output in engine.generate("12 + 30 =", SamplingParams(temperature=0), "1"):
            print(output.outputs[0].text)
    """

    def __init__(self, model: str = "octavo-tiny", *, workers: OpenWorkers | None = None, **settings: Any) -> None:
        self._begin(read_settings(model, settings), workers)

    @classmethod
    def from_engine_args(
        cls,
        engine_args: EngineArgs,
        start_engine_loop: bool = True,
        usage_context: Any = None,
        stat_loggers: Any = None,
        *,
        workers: OpenWorkers | None = None,
    ) -> Self:
        """Open what `engine_args` say. `usage_context` changes nothing in vLLM either.

        Raises:
            RequestError: something is asked for that is not served.
            CheckpointError, WorkerDiedError: as the class.
        """
        unserved.refuse(stat_loggers=stat_loggers)
        if not start_engine_loop:
            raise RequestError("start_engine_loop must be true: it is the engine", param="start_engine_loop")
        engine = cls.__new__(cls)
        engine._begin(engine_args.settings, workers)
        return engine

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def shutdown(self, timeout: float | None = None) -> None:
        """End engine and workers; what is being generated gets a ClosedError. Safe to call twice, and from any thread.

        Nothing is waited for that `timeout` could bound.
        """
        self._lifetime.end()

    close = shutdown

    @property
    def is_running(self) -> bool:
        """Requests are taken."""
        return not self._lifetime.over and self._engine.status().alive

    @property
    def is_stopped(self) -> bool:
        """Requests are not taken any more."""
        return not self.is_running

    @property
    def errored(self) -> bool:
        """It has ended by itself: no worker is left."""
        return not self._engine.status().alive

    async def check_health(self) -> None:
        """Check that requests are taken.

        Raises:
            ClosedError: it was shut down.
            OverloadedError: no worker is left.
        """
        self._lifetime.check()
        status = self._engine.status()
        if not status.alive:
            raise OverloadedError(f"the worker died: {status.death}")

    async def get_tokenizer(self) -> LLMTokenizer:
        """The model's tokenizer, with the names of Hugging Face's."""
        return self._tokenizer

    @property
    def tokenizer(self) -> LLMTokenizer:
        """The tokenizer that `get_tokenizer` gives, without waiting."""
        return self._tokenizer

    async def reset_prefix_cache(self) -> bool:
        """Forget what prompts have left in the KV cache; False, and nothing done, while requests are alive."""
        self._lifetime.check()
        return await asyncio.to_thread(self._engine.reset_prefix_cache)

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """End requests: the last output of each has `abort` as its finish reason. Ids not alive are passed over."""
        self._lifetime.check()
        self._streams.abort([request_id] if isinstance(request_id, str) else request_id)

    async def generate(
        self,
        prompt: GivenPrompt,
        sampling_params: SamplingParams | None,
        request_id: str,
        *,
        lora_request: Any = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        trace_headers: Any = None,
        priority: int = 0,
        data_parallel_rank: int | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Answer one prompt; leaving the loop, or cancelling the task, ends the request.

        What an output holds is said by `output_kind` of the settings: all so far, what is new, or all at the end.

        Args:
            prompt: a text, token ids, `{"prompt": text}` or `{"prompt_token_ids": ids}`.
            sampling_params: None: `get_default_sampling_params()`.
            request_id: no other request that is alive may have it.
            priority: lower ones run first, with `scheduling_policy="priority"`.

        Raises:
            RequestError: it can never be served; `param` names the field.
            OverloadedError: the queue is full.
            RequestFailedError, WorkerDiedError: the engine could not finish.
            ClosedError: the engine was shut down.
        """
        self._lifetime.check()
        unserved.refuse(lora_request=lora_request, trace_headers=trace_headers, data_parallel_rank=data_parallel_rank)
        job = await self._job(prompt, sampling_params, request_id, tokenization_kwargs, priority)
        try:
            stream = self._streams.open(job, self._engine)
        except OverloadedError:
            self._lifetime.check()
            raise
        try:
            async for output in self._outputs(job, stream):
                yield output
        finally:
            stream.close()

    def _begin(self, settings: Settings, workers: OpenWorkers | None) -> None:
        runtime = self._open(settings, workers or (with_keeper if settings.keep_weights else in_processes))
        self._compiler = runtime.compiler
        self._streams = streams = Streams()
        self._engine = engine = EngineLoop(runtime.engine(), streams.deliver)
        self._lifetime = Lifetime(self, lambda: _end(engine, runtime), in_thread=True)
        engine.start()

    async def _job(
        self,
        prompt: GivenPrompt,
        sampling: SamplingParams | None,
        request_id: str,
        tokenization: Mapping[str, Any] | None,
        priority: int,
    ) -> Job:
        if sampling is None:
            sampling = self.get_default_sampling_params()
        if not isinstance(sampling, SamplingParams):
            raise RequestError("sampling_params must be SamplingParams", param="sampling_params")
        if not isinstance(request_id, str):
            raise RequestError("request_id must be a text", param="request_id")
        sampling = sampling.clone()
        text = prompt.get("prompt") if isinstance(prompt, Mapping) else prompt
        make = partial(self._prompts.read, prompt, tokenization, max_tokens=sampling.max_tokens, priority=priority)
        read = await asyncio.to_thread(make) if isinstance(text, str) and len(text) > SMALL_CHARS else make()
        asked = sampling.structured_outputs
        if asked is not None and self._compiler.kept(asked) is None:
            await asyncio.to_thread(self._compiler.compile, asked)
        return Job(request_id, read, sampling, self._model.tokenizer, self._compiler)

    async def _outputs(self, job: Job, stream: Stream) -> AsyncGenerator[RequestOutput, None]:
        kind = job.sampling.output_kind
        interval = max(self.settings.stream_interval, job.sampling.stream_interval or 1)
        told = 0
        while not job.finished:
            for update in await stream.take():
                if job.take(update) and update.finish_reason is None:
                    stream.stop(update.request_id)
            if job.aborted:
                self._lifetime.check()
            made = job.num_tokens
            due = made > told if told == 0 else made >= told + interval
            if job.finished or (due and kind is not RequestOutputKind.FINAL_ONLY):
                told = made
                yield job.news() if kind is RequestOutputKind.DELTA else job.output()


def _end(engine: EngineLoop, runtime: Runtime) -> None:
    engine.stop()
    runtime.close()
