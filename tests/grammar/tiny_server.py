"""octavo-tiny over HTTP, in threads of this process."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import httpx
import openai

from octavo.config import Settings
from octavo.server.app import create_app
from octavo.startup import Runtime, in_processes, in_this_process, server_context, start
from server.harness import serving


@dataclasses.dataclass(frozen=True)
class TinyServer:
    """A server and its clients."""

    runtime: Runtime
    http: httpx.Client
    openai: openai.OpenAI


@contextlib.contextmanager
def tiny_server(*, own_process: bool = False, **settings: Any) -> Iterator[TinyServer]:
    """Serve octavo-tiny; its worker runs in this process unless it is to have its own."""
    small = {"max_model_len": 1024, "max_num_batched_tokens": 512, "num_gpu_blocks_override": 600}
    told = {"model": "octavo-tiny", "device": "cpu", "cpu_threads": 1, **small, **settings}
    runtime = start(Settings(**{"crash_dir": None, **told}), in_processes if own_process else in_this_process)
    context = server_context(runtime)
    context.loop.start()
    try:
        with serving(create_app(context)) as url, httpx.Client(base_url=url, timeout=120) as http:
            yield TinyServer(runtime, http, openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0))
    finally:
        context.loop.stop()
        runtime.close()
