"""`octavo bench latency`: one batch again and again on this machine, without a server; vLLM's flags and lines."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from octavo.cli.bench.offline import GROUPS, start_llm, token_prompts, write_json
from octavo.cli.flags import add_settings
from octavo.cli.parsers import Commands, add_command
from octavo.sampling import SamplingParams

PERCENTILES = (10, 25, 50, 75, 90, 99)


def add_parser(kinds: Commands) -> None:
    parser = add_command(kinds, "latency", run, "Run one batch repeatedly on this machine and report seconds.")
    add = parser.add_argument
    add("--input-len", type=int, default=32, metavar="N", help="prompt tokens of each; default: 32")
    add("--output-len", type=int, default=128, metavar="N", help="answer tokens of each; default: 128")
    add("--batch-size", type=int, default=8, metavar="N", help="prompts in the batch; default: 8")
    add("--num-iters-warmup", type=int, default=10, metavar="N", help="default: 10")
    add("--num-iters", type=int, default=30, metavar="N", help="default: 30")
    add("--output-json", type=Path, metavar="FILE", help="write the numbers")
    add("--disable-tqdm", action="store_true", help="no progress bar")
    add_settings(parser, GROUPS)


def run(args: argparse.Namespace) -> int:
    sampling = SamplingParams(ignore_eos=True, max_tokens=args.output_len)
    latencies_s = []
    with start_llm(args, enable_prefix_caching=False) as llm:
        prompts = token_prompts(llm, args.batch_size, args.input_len)
        for number in tqdm(range(args.num_iters_warmup + args.num_iters), disable=args.disable_tqdm, unit="batch"):
            start = time.perf_counter()
            llm.generate(prompts, sampling, use_tqdm=False)
            if number >= args.num_iters_warmup:
                latencies_s.append(time.perf_counter() - start)
    percentiles = {str(p): float(np.percentile(latencies_s, p)) for p in PERCENTILES}
    print(f"Avg latency: {np.mean(latencies_s)} seconds")
    for percentile, seconds in percentiles.items():
        print(f"{percentile}% percentile latency: {seconds} seconds")
    write_json(
        args.output_json,
        {"avg_latency": float(np.mean(latencies_s)), "latencies": latencies_s, "percentiles": percentiles},
    )
    return 0
