"""The context of a server: all that it is given, and what its routes share."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import logging
import platform
import re
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import Request

from octavo.answers import Answer, AnswerForms
from octavo.config import EngineConfig, ModelFacts, Settings
from octavo.engine.loop import EngineLoop
from octavo.engine.statistics import EngineStatus
from octavo.errors import OverloadedError
from octavo.grammar import Compiler, Grammar
from octavo.messages import WorkerReady
from octavo.server.body import BodyIntake, BodyReader, Preparable
from octavo.server.body_pool import BodyPool
from octavo.server.call import Call
from octavo.server.dispatch import ClientGone, Dispatcher
from octavo.server.errors import public_cause
from octavo.server.metrics import Metrics
from octavo.server.unserved import warn_unknown
from octavo.structured_outputs import StructuredOutputsParams
from octavo.text import ChatTemplate, DefaultSampling, Tokenizer
from octavo.version import __version__

log = logging.getLogger(__name__)

T = TypeVar("T")

SMALL_BYTES = 4 << 10
"""Bodies up to here are read on the event loop: a thread would take longer to wake."""
LIBRARIES = ("torch", "triton")
"""What computes: another version may round otherwise."""
COMPILERS = 4
"""Threads that wait for grammars to be compiled."""
MAX_COMPILING = 64
"""Requests that wait for one."""
STALL_S = 60.0
"""With work waiting: seconds without a finished step after which the worker counts as hung, unless its largest step
is known to be slow."""
STALL_STEPS = 10
"""The same in largest steps, as timed at the start."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerContext:
    """All that a server needs. `dispatcher.deliver` is what the engine loop delivers to, `metrics.on_step` what the
    engine tells its steps to."""

    loop: EngineLoop
    dispatcher: Dispatcher
    metrics: Metrics
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    default_sampling: DefaultSampling
    settings: Settings
    engine_config: EngineConfig
    model: ModelFacts
    worker_ready: WorkerReady
    compiler: Compiler
    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Name of each part of the start to its seconds."""


class Server:
    """The context with what is derived from it and the one thing that changes: whether the server is draining."""

    def __init__(self, context: ServerContext) -> None:
        self.context = context
        self.model_names = context.settings.model_names
        self.fingerprint = fingerprint(context)
        self.started_s = int(time.time())
        self.draining = False
        template = context.chat_template
        self.forms = AnswerForms.chosen(context.settings, template.source if template is not None else None)
        self.reader = BodyReader(
            tokenizer=context.tokenizer,
            chat_template=context.chat_template,
            default_sampling=context.default_sampling,
            engine_config=context.engine_config,
            model_names=self.model_names,
            forms=self.forms,
        )
        self.bodies = BodyPool(self.reader)
        self._intake = BodyIntake()
        self._compilers = ThreadPoolExecutor(COMPILERS, thread_name_prefix="grammar")
        self._num_compiling = 0
        self._stall_s = max(STALL_S, STALL_STEPS * context.worker_ready.warm_up_s)

    @property
    def most_tokens(self) -> int:
        """Tokens that a request may have, prompt and answer together."""
        return self.context.engine_config.max_request_tokens

    async def read(self, request: Request, model: type[Preparable[T]]) -> T:
        """Take in the body of `request` and prepare it. A `request_id` in it becomes the request's id.

        Raises:
            OctavoError: the request cannot be served.
            ClientGone: the client left before it had sent everything, or while its body waited to be read.
        """
        raw = await self._intake.receive(request)
        if len(raw) <= SMALL_BYTES:
            reading = self.reader.read(model, raw)
        else:
            reading = await _while_there(request, self.bodies.read(model, raw))
        if reading.request_id is not None:
            request.state.request_id = reading.request_id
        warn_unknown(reading.unknown)
        if reading.error is not None:
            raise reading.error
        assert reading.result is not None
        return reading.result

    async def compile(self, asked: StructuredOutputsParams | None) -> Grammar | None:
        """The grammar of the form that an answer must have; None if any text will do.

        Raises:
            RequestError: it cannot be served; `param` names the field.
            OverloadedError: too many wait to be compiled.
        """
        compiler = self.context.compiler
        if asked is None or (grammar := compiler.kept(asked)) is not None:
            return None if asked is None else grammar
        if self._num_compiling >= MAX_COMPILING:
            raise OverloadedError(f"{self._num_compiling} grammars wait to be compiled", retry_after_s=5)
        self._num_compiling += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._compilers, compiler.compile, asked)
        finally:
            self._num_compiling -= 1

    def close(self) -> None:
        """End the threads and processes that read bodies and wait for grammars; safe to call twice."""
        self.bodies.close()
        self.context.compiler.close()
        self._compilers.shutdown(wait=False, cancel_futures=True)

    def log_request(self, request_id: str, call: Call[Any]) -> None:
        """Log what was asked, if the settings say so; prompts are cut to max_log_len characters."""
        settings = self.context.settings
        if not settings.enable_log_requests:
            return
        for prompt, sampling in zip(call.prompts, call.samplings, strict=True):
            shown = prompt.text if prompt.text is not None else prompt.token_ids
            text = repr(shown[: settings.max_log_len])[: settings.max_log_len]
            log.info("request %s: %d tokens, %s, prompt %s", request_id, len(prompt.token_ids), sampling, text)

    def log_answer(self, answer: Answer, reason: str) -> None:
        """Log how `answer` ended and what it was, if the settings say so; cut to max_log_len characters."""
        if self.context.settings.enable_log_outputs:
            text = answer.text[: self.context.settings.max_log_len]
            log.info("answer %s: %d tokens, %s, text %r", answer.request_id, answer.num_tokens, reason, text)

    def trouble(self, status: EngineStatus) -> str | None:
        """Why requests would not be answered now; None if they would."""
        if not status.alive:
            return f"the worker is gone: {public_cause(status.death or 'no reason known')}"
        if status.recovering:
            return "recovering: the worker died, and the next one takes over; requests wait"
        # After idle hours the last step is old, and yet nothing is wrong: what counts is how long somebody has waited.
        quiet_s = min(status.last_step_age_s, time.monotonic() - self.context.dispatcher.busy_since_s)
        if (status.running or status.waiting) and quiet_s > self._stall_s:
            return f"no step has finished for {quiet_s:.0f} s although requests wait"
        return None

    def check_accepting(self) -> None:
        """Raises OverloadedError while the server drains."""
        if self.draining:
            raise OverloadedError("the server is shutting down and takes no new requests", retry_after_s=5)


async def _while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """`work`, given up when the client leaves.

    Raises:
        ClientGone: it has left.
    """

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    job, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait([job, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise ClientGone
        return job.result()
    finally:
        leaving.cancel()
        job.cancel()


def fingerprint(context: ServerContext) -> str:
    """`octavo-<version>-<8 hex digits>`: equal for servers that give the same answer, bit by bit, to the same request.

    All that can change an answer is in it, by what it holds and not by where it lies. Limits and budgets are left out:
    they change no bit.
    """
    template, ready = context.chat_template, context.worker_ready
    parts = {
        "model": context.model.identity,
        "weights": ready.weights_checksum,
        "format": ready.weights_format,
        "tokenizer": context.tokenizer.fingerprint,
        "template": template.fingerprint if template is not None else None,
        "defaults": dataclasses.asdict(context.default_sampling),
        "stops": context.engine_config.eos_token_ids,
        "seed": context.settings.seed,
        "device": _processor() if ready.device.startswith("CPU") else ready.device,
        "libraries": [_version(name) for name in LIBRARIES],
    }
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return f"octavo-{__version__}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _processor() -> str:
    """The model of this machine's CPU: its instructions decide how sums are cut; the number of threads does not."""
    path = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*:\s*(.+)", path.read_text()) if path.exists() else None
    return match[1] if match else platform.machine()


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)
