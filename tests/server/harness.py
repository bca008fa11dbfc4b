"""A server over a mock worker, on a loopback port, and a byte-level tokenizer made on the spot."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import msgspec
import tokenizers
import uvicorn
from fastapi import FastAPI
from tokenizers import decoders, models, pre_tokenizers

from engine.harness import PacedWorker
from octavo.config import EngineConfig, Settings, WeightFormat
from octavo.config.facts import ModelFacts, PagedKv
from octavo.engine.engine import Engine
from octavo.engine.loop import EngineLoop
from octavo.engine.processes.link import WorkerLink
from octavo.engine.recovery.supervisor import RestartBudget, Supervisor
from octavo.grammar import Compiler, ForkServer, Vocabulary
from octavo.messages import StepMasks, StepPlan, StepResult, WorkerReady
from octavo.server.app import create_app
from octavo.server.context import Server, ServerContext
from octavo.server.dispatch import Dispatcher
from octavo.server.http_protocol import HttpProtocol
from octavo.server.listening import bind
from octavo.server.metrics import Metrics
from octavo.testing.mock_worker import MockSource, MockWorker
from octavo.text import ChatTemplate, DefaultSampling
from octavo.text.tokenizer import FileTokenizer, Tokenizer
from waits import wait_until

EOS = 256
VOCABULARY = 300
"""Bytes, two special tokens, and ids without a text."""

TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message.role == 'forbidden' %}{{ raise_exception('no such role') }}{% endif %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
    "{%- if shout %}LOUD{% endif %}"
)


def byte_tokenizer(*more_special: str) -> FileTokenizer:
    """One token for each byte, id = byte; 256 ends a message, 257 starts one; further special tokens follow."""
    alphabet = byte_characters()
    vocabulary = {char: byte for byte, char in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>", "<|im_start|>", *more_special])
    return FileTokenizer(backend, {"eos_token": "<|im_end|>", "bos_token": None})


def byte_characters() -> list[str]:
    """The character that byte-level BPE writes for each byte, found by asking the library."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    characters = [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
    assert sorted(characters) == sorted(pre_tokenizers.ByteLevel.alphabet())
    return characters


MODEL = ModelFacts(
    architecture="Mock",
    vocab_size=VOCABULARY,
    eos_token_ids=(EOS,),
    max_position_embeddings=512,
    cache=(PagedKv(1, 8),),
    weight_format=WeightFormat.BF16,
    identity={},
)

ENGINE = EngineConfig(
    vocab_size=VOCABULARY,
    eos_token_ids=(EOS,),
    max_model_len=512,
    max_num_batched_tokens=256,
    max_num_seqs=32,
    block_size=16,
    num_blocks=128,
)


class SharedForkServer(ForkServer):
    """One for several servers with one tokenizer, which none of them closes: to start it takes seconds."""

    def close(self) -> None:
        """Leave it to `end`."""

    def end(self) -> None:
        super().close()


@dataclasses.dataclass
class Running:
    """A server that runs."""

    url: str
    context: ServerContext
    server: Server
    source: MockSource
    http: httpx.Client

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    @property
    def worker(self) -> MockWorker:
        """The latest."""
        return self.source.workers[-1]

    def hold(self, steps: int = 0) -> None:
        """Have the worker make so many more steps, then none before `release`."""
        self._let(steps)

    def release(self) -> None:
        self._let(None)

    def wait_held(self) -> None:
        """Wait until the worker has made all steps that `hold` allows."""
        wait_until(lambda: self._paced.let == 0)

    def alive(self) -> int:
        """Requests that have not ended."""
        status = self.context.loop.status()
        return status.running + status.waiting

    def wait_idle(self) -> None:
        """Wait until no request is alive, then check that every block is free."""
        wait_until(
            lambda: not self.alive() and not self.context.dispatcher.num_streams,
            lambda: f"requests are still alive: {self.context.loop.status()}",
        )
        status = self.context.loop.status()
        assert status.free_blocks == status.total_blocks

    @property
    def _paced(self) -> PacedWorker:
        assert isinstance(self.worker, PacedWorker)
        return self.worker

    def _let(self, steps: int | None) -> None:
        self._paced.let = steps


class ScriptedWorker:
    """A link to a mock worker whose tokens are replaced by those of a script; for one request at a time."""

    def __init__(self, worker: MockWorker, script: Sequence[int]) -> None:
        self._worker = worker
        self._script = iter(script)

    @property
    def ready(self) -> WorkerReady:
        return self._worker.ready

    def send(self, plan: StepPlan) -> None:
        self._worker.send(plan)

    def tell(self, masks: StepMasks) -> None:
        self._worker.tell(masks)

    def receive(self, timeout_s: float | None) -> StepResult | None:
        result = self._worker.receive(timeout_s)
        if result is None:
            return None
        sampled = [msgspec.structs.replace(token, token_id=next(self._script)) for token in result.sampled]
        return msgspec.structs.replace(result, sampled=sampled)

    @property
    def stopped(self) -> bool:
        return self._worker.stopped

    def last_output(self) -> list[str]:
        return self._worker.last_output()

    def close(self) -> None:
        self._worker.close()


def mock_context(
    *,
    worker: dict[str, Any] | None = None,
    engine: dict[str, Any] | None = None,
    script: Sequence[int] | None = None,
    tokenizer: Tokenizer | None = None,
    template: str | None = TEMPLATE,
    defaults: DefaultSampling | None = None,
    source: Callable[[EngineConfig], MockSource] | None = None,
    forks: ForkServer | None = None,
    **settings: Any,
) -> tuple[ServerContext, MockSource]:
    """What a server over mock workers is given; `settings` are those of `Settings`. The loop is not started.

    There is one worker, made with the options `worker`, unless `source` gives others. Processes that compile and follow
    grammars come from `forks`, which must know the same tokens.
    """
    config = dataclasses.replace(ENGINE, **(engine or {}))
    most = 0 if source is None else 10
    workers = MockSource(config, lambda *_: PacedWorker(config, **(worker or {}))) if source is None else source(config)
    mock = workers.start(None)
    metrics = Metrics("mock", config)
    dispatcher = Dispatcher()
    link: WorkerLink = mock if script is None else ScriptedWorker(mock, script)
    tokenizer = tokenizer or byte_tokenizer()
    forks = forks or ForkServer(Vocabulary(tokenizer, config.vocab_size, config.eos_token_ids))
    supervisor = Supervisor(workers, RestartBudget(most, 600.0), metrics.on_recovery)
    arguments = settings.get("default_chat_template_kwargs")
    context = ServerContext(
        loop=EngineLoop(
            Engine(config, link, metrics.on_step, supervisor=supervisor, fork_server=forks), dispatcher.deliver
        ),
        dispatcher=dispatcher,
        metrics=metrics,
        tokenizer=tokenizer,
        chat_template=None if template is None else ChatTemplate(template, special_tokens={}, default_kwargs=arguments),
        default_sampling=defaults or DefaultSampling(),
        settings=Settings(**{"served_model_name": ("mock", "alias"), **settings}),
        engine_config=config,
        model=MODEL,
        worker_ready=mock.ready,
        compiler=Compiler(forks),
        phases={"load": 0.5},
    )
    return context, workers


@contextlib.contextmanager
def running(**options: Any) -> Iterator[Running]:
    """Serve `mock_context(**options)` on a free port, in threads of this process."""
    context, source = mock_context(**options)
    context.loop.start()
    try:
        app = create_app(context)
        with serving(app) as url, httpx.Client(base_url=url, timeout=30) as http:
            yield Running(url, context, app.state.server, source, http)
    finally:
        context.loop.stop()
        context.compiler.close()


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    listener = bind("127.0.0.1", 0)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive())
        assert thread.is_alive(), "the server did not start"
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
