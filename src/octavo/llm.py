"""The offline API: prompts in, answers out, in one process and without a server."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from octavo.config import Settings
from octavo.engine.request import Request
from octavo.engine.update import Update
from octavo.errors import RequestError
from octavo.messages import TokenScore
from octavo.outputs import CompletionOutput, Logprobs, RequestMetrics, RequestOutput, to_logprobs
from octavo.sampling import SamplingParams, answer_seed
from octavo.server.answer import Answer
from octavo.server.answer import Prompt as TokenPrompt
from octavo.startup import OpenSupply, in_processes, start
from octavo.text import Detokenizer, StopStrings, Tokenizer
from octavo.text.tokenizer import token_text

Prompt = str | Mapping[str, Any]
"""A text, `{"prompt": text}` or `{"prompt_token_ids": ids}`."""

Messages = Sequence[Mapping[str, Any]]
"""A conversation: mappings with `role` and `content`."""


class LLM:
    """A model ready to answer; names are those of vLLM's `LLM`. Close it, or use it in a `with`.

    Args:
        model: folder, Hugging Face repo id, or `octavo-tiny`.
        workers: where the model runs; in processes of its own unless told otherwise.
        settings: any of `Settings`, as Python values or text.

    Raises:
        ConfigError, CheckpointError, WorkerDiedError: as `start`.

    Example:
        with LLM("octavo-tiny") as llm:
            print(llm.generate("12 + 30 =")[0].outputs[0].text)
    """

    def __init__(self, model: str = "octavo-tiny", *, workers: OpenSupply = in_processes, **settings: Any) -> None:
        self.settings = Settings.from_values({"model": model, **settings})
        self._runtime = start(self.settings, workers)
        self._engine = self._runtime.engine()
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker; safe to call twice."""
        self._runtime.close()

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer: `encode` and `decode`."""
        return self._runtime.model.tokenizer

    @property
    def vocab_size(self) -> int:
        """Token ids go from 0 to one less."""
        return self._runtime.model.config.vocab_size

    def get_default_sampling_params(self) -> SamplingParams:
        """What `generate` uses if it is given none: the model's generation_config.json over vLLM's defaults."""
        defaults = self._runtime.model.default_sampling
        sampling = SamplingParams(**defaults.values)
        return sampling if defaults.max_tokens is None else sampling.replace(max_tokens=defaults.max_tokens)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answer every prompt; the outputs come in the order of the prompts.

        Args:
            prompts: one or more texts, `{"prompt": text}` or `{"prompt_token_ids": ids}`.
            sampling_params: one for all, or one per prompt; None: `get_default_sampling_params()`.
            use_tqdm: show progress.

        Raises:
            RequestError: a prompt or its settings can never be served; nothing is left running.
            RequestFailedError, WorkerDiedError: the engine could not finish.
        """
        several = [prompts] if isinstance(prompts, (str, Mapping)) else list(prompts)
        return self._run([self._read(prompt) for prompt in several], sampling_params, use_tqdm)

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answer one or more conversations; see `generate`.

        Raises:
            RequestError: the model has no chat template, or it refuses the messages; else as `generate`.
        """
        template = self._runtime.model.chat_template
        if template is None:
            raise RequestError("the model has no chat template; give one with chat_template", param="messages")
        conversations: Any = [messages] if messages and isinstance(messages[0], Mapping) else messages
        texts = [
            template.render(
                conversation,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                kwargs=chat_template_kwargs,
            )
            for conversation in conversations
        ]
        # the template writes the special tokens itself
        prompts = [(text, self.get_tokenizer().encode(text, add_special_tokens=False)) for text in texts]
        return self._run(prompts, sampling_params, use_tqdm)

    def _read(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        """Text (if it came as one) and token ids of a prompt."""
        if isinstance(prompt, str):
            return prompt, self.get_tokenizer().encode(prompt)
        if "prompt_token_ids" in prompt:
            return prompt.get("prompt"), list(prompt["prompt_token_ids"])
        if isinstance(prompt.get("prompt"), str):
            return prompt["prompt"], self.get_tokenizer().encode(prompt["prompt"])
        raise RequestError("a prompt is a text, {'prompt': text} or {'prompt_token_ids': ids}", param="prompt")

    def _run(
        self,
        prompts: Sequence[tuple[str | None, list[int]]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        if sampling_params is None:
            sampling_params = self.get_default_sampling_params()
        if isinstance(sampling_params, SamplingParams):
            sampling_params = [sampling_params] * len(prompts)
        if len(sampling_params) != len(prompts):
            raise RequestError(
                f"sampling_params has {len(sampling_params)} entries for {len(prompts)} prompts",
                param="sampling_params",
            )
        jobs = [
            _Job(str(next(self._numbers)), text, ids, sampling, self.get_tokenizer())
            for (text, ids), sampling in zip(prompts, sampling_params, strict=True)
        ]
        answers = {request_id: job for job in jobs for request_id in job.answers}
        try:
            for request in itertools.chain.from_iterable(job.requests() for job in jobs):
                self._engine.add(request)
            self._finish(answers, len(jobs), use_tqdm)
        except BaseException:
            self._abort(answers)
            raise
        return [job.output() for job in jobs]

    def _finish(self, jobs: Mapping[str, _Job], count: int, use_tqdm: bool) -> None:
        """Step the engine until every answer has ended."""
        engine = self._engine
        open_answers = set(jobs)
        with tqdm(total=count, desc="Processed prompts", unit="prompt", disable=not use_tqdm) as bar:
            while open_answers:
                for update in engine.step():
                    job = jobs.get(update.request_id)
                    if job is None or update.request_id not in open_answers:
                        continue  # the end of an answer that a stop string ended, or of an earlier call
                    if not job.take(update):
                        continue
                    open_answers.discard(update.request_id)
                    if update.finish_reason is None:
                        engine.abort(update.request_id)
                    bar.update(job.finished)

    def _abort(self, request_ids: Iterable[str]) -> None:
        """End what is still running and drop its news."""
        for request_id in request_ids:
            self._engine.abort(request_id)
        self._engine.take_updates()


class _Job:
    """A prompt and the n requests that answer it."""

    def __init__(
        self, request_id: str, text: str | None, ids: list[int], sampling: SamplingParams, tokenizer: Tokenizer
    ) -> None:
        self._request_id = request_id
        self._prompt = TokenPrompt(0, ids, text)
        self._sampling = sampling
        self._tokenizer = tokenizer
        stop = StopStrings(sampling.stop)
        names = [f"{request_id}-{index}" if sampling.n > 1 else request_id for index in range(sampling.n)]
        self.answers = {name: self._answer(index, name, stop) for index, name in enumerate(names)}
        self._metrics = RequestMetrics(time.monotonic())

    @property
    def finished(self) -> bool:
        return all(answer.finish_reason is not None for answer in self.answers.values())

    def requests(self) -> Iterable[Request]:
        """One request per answer."""
        for index, request_id in enumerate(self.answers):
            seed = None if self._sampling.seed is None else answer_seed(self._sampling.seed, index)
            yield Request(request_id, self._prompt.token_ids, self._sampling.replace(n=1, seed=seed))

    def take(self, update: Update) -> bool:
        """Add news; True if the answer has ended.

        Raises:
            RequestFailedError, WorkerDiedError: it ended with an error.
        """
        now = time.monotonic()
        answer = self.answers[update.request_id]
        answer.feed(update, now)
        if self._metrics.first_token_time is None:
            self._metrics.first_token_time = now
        if self.finished:
            self._metrics.finished_time = now
        return answer.finish_reason is not None

    def output(self) -> RequestOutput:
        answers = list(self.answers.values())
        scores = answers[0].prompt_scores
        return RequestOutput(
            request_id=self._request_id,
            prompt=self._prompt.text,
            prompt_token_ids=list(self._prompt.token_ids),
            prompt_logprobs=None if scores is None else [None, *map(self._logprobs, scores)],
            outputs=[self._output(answer) for answer in answers],
            finished=self.finished,
            metrics=self._metrics,
            num_cached_tokens=answers[0].num_cached_tokens,
        )

    def _answer(self, index: int, request_id: str, stop: StopStrings) -> Answer:
        sampling = self._sampling
        detokenizer = Detokenizer(
            self._tokenizer,
            stop=stop,
            include_stop_str_in_output=sampling.include_stop_str_in_output,
            skip_special_tokens=sampling.skip_special_tokens,
            min_tokens=sampling.min_tokens,
            context=self._prompt.token_ids,
        )
        return Answer(index, request_id, self._prompt, detokenizer)

    def _output(self, answer: Answer) -> CompletionOutput:
        scores = [score for score in answer.part.scores if score is not None]
        asked = self._sampling.logprobs is not None
        return CompletionOutput(
            index=answer.index,
            text=answer.part.text,
            token_ids=answer.part.token_ids,
            cumulative_logprob=sum(score.logprob for score in scores) if asked else None,
            logprobs=[self._logprobs(score) for score in scores] if asked else None,
            finish_reason=answer.finish_reason,
            stop_reason=answer.stop_reason,
        )

    def _logprobs(self, score: TokenScore) -> Logprobs:
        return to_logprobs(score, lambda token_id: token_text(self._tokenizer, token_id))
