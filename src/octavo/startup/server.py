"""A server's context, made of a runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo.engine.loop import EngineLoop
from octavo.startup.runtime import Runtime

if TYPE_CHECKING:
    from octavo.server.context import ServerContext


def server_context(runtime: Runtime) -> ServerContext:
    """Makes the context of a server; its engine loop is not started yet."""
    from octavo.server.context import ServerContext
    from octavo.server.dispatch import Dispatcher
    from octavo.server.metrics import Metrics

    dispatcher = Dispatcher()
    metrics = Metrics(runtime.settings.model_names[0], runtime.config)
    return ServerContext(
        loop=EngineLoop(runtime.engine(metrics.on_step, metrics.on_recovery), dispatcher.deliver),
        dispatcher=dispatcher,
        metrics=metrics,
        tokenizer=runtime.model.tokenizer,
        chat_template=runtime.model.chat_template,
        default_sampling=runtime.model.default_sampling,
        settings=runtime.settings,
        engine_config=runtime.config,
        model=runtime.model.facts,
        worker_ready=runtime.link.ready,
        phases=runtime.phases,
        compiler=runtime.compiler,
    )
