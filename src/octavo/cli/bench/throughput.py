"""`octavo bench throughput`: all prompts at once on this machine, without a server; vLLM's flags and lines."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from octavo.cli.bench.offline import GROUPS, start_llm, token_prompts, write_json
from octavo.cli.flags import add_settings
from octavo.cli.parsers import Commands, add_command
from octavo.sampling import SamplingParams


def add_parser(kinds: Commands) -> None:
    parser = add_command(kinds, "throughput", run, "Run many prompts on this machine and report tokens per second.")
    add = parser.add_argument
    add("--num-prompts", type=int, default=1000, metavar="N", help="default: 1000")
    add("--input-len", type=int, default=1024, metavar="N", help="prompt tokens of each; default: 1024")
    add("--output-len", type=int, default=128, metavar="N", help="answer tokens of each; default: 128")
    add("--n", type=int, default=1, metavar="N", help="answers per prompt; default: 1")
    add("--output-json", type=Path, metavar="FILE", help="write the numbers")
    add("--disable-tqdm", action="store_true", help="no progress bar")
    add_settings(parser, GROUPS)


def run(args: argparse.Namespace) -> int:
    sampling = SamplingParams(n=args.n, ignore_eos=True, max_tokens=args.output_len)
    with start_llm(args) as llm:
        prompts = token_prompts(llm, args.num_prompts, args.input_len)
        start = time.perf_counter()
        outputs = llm.generate(prompts, sampling, use_tqdm=not args.disable_tqdm)
        elapsed_s = time.perf_counter() - start
    prompt_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    output_tokens = sum(len(answer.token_ids) for output in outputs for answer in output.outputs)
    result = {
        "elapsed_time": elapsed_s,
        "num_requests": len(outputs),
        "total_num_tokens": prompt_tokens + output_tokens,
        "requests_per_second": len(outputs) / elapsed_s,
        "tokens_per_second": (prompt_tokens + output_tokens) / elapsed_s,
        "output_tokens_per_second": output_tokens / elapsed_s,
    }
    print(
        f"Throughput: {result['requests_per_second']:.2f} requests/s, "
        f"{result['tokens_per_second']:.2f} total tokens/s, "
        f"{result['output_tokens_per_second']:.2f} output tokens/s"
    )
    print(f"Total num prompt tokens:  {prompt_tokens}")
    print(f"Total num output tokens:  {output_tokens}")
    write_json(args.output_json, result)
    return 0
