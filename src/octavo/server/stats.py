"""Logs a statistics line of the engine, with the fields that scripts look for in vLLM's, and the engine's end."""

from __future__ import annotations

import asyncio
import logging

from octavo.engine.statistics import EngineStatus
from octavo.server.context import Server

WATCH_S = 0.25
"""How often to look whether the worker is alive."""

log = logging.getLogger("octavo.stats")


async def keep_logging(server: Server) -> None:
    """Log a line every `log_stats_interval` seconds; at debug level while nothing happens."""
    settings = server.context.settings
    if settings.disable_log_stats:
        return
    before = server.context.loop.status()
    while True:
        await asyncio.sleep(settings.log_stats_interval)
        now = server.context.loop.status()
        idle = now.steps == before.steps and not now.running and not now.waiting
        log.log(logging.DEBUG if idle else logging.INFO, stats_line(before, now, settings.log_stats_interval))
        before = now


async def watch_worker(server: Server) -> None:
    """Log the worker's death, with all it said, when it happens."""
    while (status := server.context.loop.status()).alive:
        await asyncio.sleep(WATCH_S)
    log.error("the worker died; every request ended with an error: %s", status.death)


def stats_line(before: EngineStatus, now: EngineStatus, seconds: float) -> str:
    """Makes the line for what happened between two moments, `seconds` apart."""
    queries = now.prefix_queries - before.prefix_queries
    hit_rate = (now.prefix_hits - before.prefix_hits) / queries if queries else 0.0
    preemptions = now.preemptions - before.preemptions
    parts = [
        f"Avg prompt throughput: {(now.prompt_tokens - before.prompt_tokens) / seconds:.1f} tokens/s",
        f"Avg generation throughput: {(now.generation_tokens - before.generation_tokens) / seconds:.1f} tokens/s",
        f"Running: {now.running} reqs",
        f"Waiting: {now.waiting} reqs",
        *([f"Preemptions: {preemptions}"] if preemptions else []),
        f"GPU KV cache usage: {now.kv_usage:.1%}",
        f"Prefix cache hit rate: {hit_rate:.1%}",
    ]
    return f"Engine 000: {', '.join(parts)}"
