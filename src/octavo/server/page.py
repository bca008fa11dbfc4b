"""The pages for people: a chat beside the live engine at `/`, the API at `/docs`. Nothing in them comes from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from octavo.errors import RequestError
from octavo.server.context import Server
from octavo.server.json_pieces import json
from octavo.version import __version__

PAGES = Path(__file__).parents[1] / "assets" / "pages"
EMBEDDED = ("octavo-tiny", "octavo-tiny-hybrid")
"""The models that come with Octavo: who serves one wants to see what it does."""


def page_routes(server: Server) -> APIRouter:
    router = APIRouter(tags=["pages"])
    settings = server.context.settings
    may_kill = bool(settings.inject_fault) or settings.model in EMBEDDED

    @router.get("/", summary="A chat, and the engine live", response_class=HTMLResponse)
    async def chat_page() -> Response:
        return _page("chat.html")

    @router.get("/v1", include_in_schema=False)
    @router.get("/v1/", include_in_schema=False)
    async def printed_address(request: Request) -> Response:
        """The address that the server prints is one for clients; who opens it in a browser is sent to the page."""
        return RedirectResponse("../" if request.url.path.endswith("/") else "./")

    @router.get("/live", summary="The engine at this moment, and its latest steps")
    async def live(since: str = "0") -> Response:
        if not since.isdecimal() or len(since) > 18:
            raise RequestError(f"since must be the number of a step, got {since!r:.100}", param="since")
        return json({**_live(server, int(since)), "may_kill": may_kill})

    if not settings.disable_fastapi_docs:

        @router.get("/docs", summary="This API, to be read", response_class=HTMLResponse)
        async def docs_page() -> Response:
            return _page("docs.html")

    if may_kill:

        @router.post(
            "/kill_worker",
            summary="Kill the worker, as from outside, to see what follows",
            responses={409: {"description": "There is none at the moment"}},
        )
        async def kill_worker(request: Request) -> Response:
            if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
                raise RequestError("pages of others may not kill the worker", param="Sec-Fetch-Site")
            killed = _kill(server)
            return json({"killed": killed}, 200 if killed is not None else 409)

    return router


def _page(name: str) -> Response:
    """A page that the browser lets do nothing but what is written in it, and talk to this server."""
    text = (PAGES / name).read_text(encoding="utf-8")
    script, style = (_hashes(tag, text) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; connect-src 'self'; script-src {script}; style-src {style}; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return HTMLResponse(text, headers=headers)


def _hashes(tag: str, text: str) -> str:
    """What a policy calls the inline parts of `text` in elements `tag`."""
    parts = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _live(server: Server, since: int) -> dict[str, Any]:
    context = server.context
    status = context.loop.status()
    state = "ready" if status.alive and not status.recovering else "recovering" if status.alive else "gone"
    return {
        "version": __version__,
        "model": server.model_names[0],
        "time_s": time.monotonic(),
        "worker": {
            "state": state,
            "pid": status.worker_pid,
            "restarts": status.num_restarts,
            "device": context.worker_ready.device,
        },
        "requests": {"running": status.running, "waiting": status.waiting, "replayed": status.requests_replayed},
        "blocks": {
            "total": status.total_blocks,
            "in_use": status.total_blocks - status.free_blocks,
            "cached": status.cached_blocks,
        },
        "tokens": {"prompt": status.prompt_tokens, "generation": status.generation_tokens},
        "budget": status.step_token_limit,
        "steps": [
            [record.step, record.prefill_tokens, record.decode_tokens, round(1e3 * record.elapsed_s, 2)]
            for record in context.metrics.latest_steps()
            if record.step > since
        ],
    }


def _kill(server: Server) -> int | None:
    """Send SIGKILL to the worker, and tell its process id; None: there is none now, or it has no process of its own."""
    status = server.context.loop.status()
    if not status.alive or status.recovering or status.worker_pid == os.getpid():
        return None
    try:
        os.kill(status.worker_pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    return status.worker_pid
