"""vLLM's server with random weights, for `benchmarks.peers.over_http`.

It calls the parts of vLLM's `api_server.py` in their order, and between the start of the engine and that of the server has each weight
written over, as `benchmarks.peers.vllm_offline` does. It has no tokenizer, and so spends nothing on texts.
"""

from __future__ import annotations

import argparse
import os

from benchmarks.peers.server import HOST, parse_args, stand_in, tell, words
from benchmarks.peers.vllm_offline import SETTINGS, fill
from benchmarks.peers.workloads import BUDGET, MAX_REQUESTS


async def serve(args: argparse.Namespace) -> None:
    """Start the engine, write over its weights, and serve until a signal."""
    with stand_in("watchfiles", "Change", "awatch"):  # which renews certificates, of which there are none
        from vllm.entrypoints.openai import api_server
    from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    settings = {
        "model": args.model,
        "host": HOST,
        "port": args.port,
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "max_num_batched_tokens": BUDGET,
        "max_num_seqs": MAX_REQUESTS,
        "gpu_memory_utilization": 0.92,
        "enable_prefix_caching": True,
        "seed": 0,
        "disable_uvicorn_access_log": True,
        "disable_log_stats": True,
    }
    known = make_arg_parser(FlexibleArgumentParser()).parse_args(words(settings | args.extra))
    validate_parsed_serve_args(known)
    address, listening = api_server.setup_server(known, reuse_port=False)
    async with api_server.build_async_engine_client(known) as engine:
        print(f"filled {await engine.collective_rpc('apply_model', args=(fill,))}", flush=True)
        tell(args, "vLLM", "vllm")
        ending = await api_server.build_and_serve(engine, address, listening, known)
    await ending


def main() -> None:
    args = parse_args(__doc__)
    os.environ |= SETTINGS
    import uvloop
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup

    cli_env_setup()
    uvloop.run(serve(args))


if __name__ == "__main__":
    main()
