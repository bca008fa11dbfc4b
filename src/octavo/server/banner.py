"""The banner: one screen about what the server runs, shown when it is ready."""

from __future__ import annotations

import json
import shlex

from octavo.server.context import Server
from octavo.version import __version__

MIB = 1 << 20


def start_banner(server: Server, listens: tuple[str, int] | str) -> str:
    """Address, a line to try, model, device, memory, limits, seconds of the start."""
    context = server.context
    ready, config = context.worker_ready, context.engine_config
    source = f": {ready.kv_cache_source}" if ready.kv_cache_source else ""
    address = _address(server, listens)
    rows = {
        "model": f"{', '.join(server.model_names)} ({ready.weights_format}, {ready.weight_bytes / MIB:,.0f} MiB)",
        "device": f"{ready.device} (worker {ready.pid})",
        "KV cache": (
            f"{config.num_blocks:,} blocks of {config.block_size} tokens = {config.pool_tokens:,} tokens "
            f"({ready.kv_cache_bytes / MIB:,.0f} MiB{source}), prefix caching {'on' if config.prefix_caching else 'off'}"
        ),
        "limits": (
            f"{server.most_tokens:,} tokens per request, {config.max_num_seqs} requests at once, "
            f"{config.max_num_batched_tokens:,} tokens per step"
        ),
        "answers": _split(server),
        "start": ", ".join(f"{name} {seconds:.1f} s" for name, seconds in context.phases.items()) or "at once",
        "API key": "needed" if context.settings.api_key else "none",
    }
    where = f" at the socket {context.settings.uds}" if context.settings.uds is not None else ""
    lines = [f"Octavo {__version__} serves {address}/v1{where}", ""]
    lines += [f"  {name:<9} {text}" for name, text in rows.items()]
    lines += ["", "Try:", f"  {_curl(server, address)}", ""]
    return "\n".join(lines)


def _split(server: Server) -> str:
    """What answers are split into, and by what."""
    forms = server.forms
    calls = forms.calls.__name__ if forms.calls is not None else "none"
    reasoning = forms.reasoning.__name__ if forms.reasoning is not None else "none"
    return f"tool calls as {calls}, reasoning as {reasoning}"


def _address(server: Server, listens: tuple[str, int] | str) -> str:
    """Where clients on this machine find the server."""
    settings = server.context.settings
    scheme = "http" if settings.ssl_certfile is None else "https"
    if settings.uds is not None:
        return f"{scheme}://localhost"
    assert not isinstance(listens, str)
    return f"{scheme}://{_reachable(listens[0])}:{listens[1]}"


def _reachable(host: str) -> str:
    """An address that works in a URL on this machine."""
    if host in ("0.0.0.0", "::", ""):
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _curl(server: Server, address: str) -> str:
    key = " -H 'Authorization: Bearer KEY'" if server.context.settings.api_key else ""
    name = server.model_names[0]
    if server.context.chat_template is None:
        path, body = "completions", {"model": name, "prompt": [1, 2, 3], "max_tokens": 16}
    else:
        question = [{"role": "user", "content": "What is 17 + 25?"}]
        path, body = "chat/completions", {"model": name, "messages": question, "temperature": 0}
    text = json.dumps(body).replace("'", "'\\''")
    settings = server.context.settings
    trust = " -k" if settings.ssl_certfile is not None else ""
    door = f" --unix-socket {shlex.quote(settings.uds)}" if settings.uds is not None else ""
    return f"curl{trust}{door} {address}/v1/{path} -H 'Content-Type: application/json'{key} -d '{text}'"
