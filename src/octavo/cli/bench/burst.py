"""`octavo bench burst`: many long prompts at once, one token each: the shape that broke another engine.

100 prompts of 1001 tokens under a budget of 8192 make steps of eight whole prompts and 184 tokens of a ninth.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from octavo.cli.bench.client import BenchClient, add_server_flags, connect
from octavo.cli.bench.prompts import TokenIds, random_prompts
from octavo.cli.bench.report import MAX_ERRORS_SHOWN
from octavo.cli.bench.serve import server_vocab_size
from octavo.cli.parsers import Commands, add_command
from octavo.errors import OctavoError

TOP_LOGPROBS = 5


@dataclasses.dataclass(frozen=True)
class Answer:
    """Holds what one request gave: bits to compare, or an error."""

    token_ids: Sequence[int] = ()
    logprobs: Sequence[float] = ()
    """Of the tokens made."""
    top_logprobs: Sequence[Mapping[str, float]] = ()
    """Of the likeliest tokens at each place: where the model is sure, they tell more than the token made."""
    error: str = ""


def add_parser(kinds: Commands) -> None:
    parser = add_command(kinds, "burst", run, "Send many long prompts at once; compare runs bit by bit by their hash.")
    add_server_flags(parser)
    add = parser.add_argument
    add("--num-prompts", type=int, default=100, metavar="N", help="requests, all different; default: 100")
    add("--input-len", type=int, default=1001, metavar="N", help="prompt tokens of each; default: 1001")
    add("--output-len", type=int, default=1, metavar="N", help="answer tokens of each; default: 1")
    add("--vocab-size", type=int, metavar="N", help="token ids are drawn below it; default: the server's vocabulary")
    add("--seed", type=int, default=0, metavar="N", help="of the prompts; default: 0")
    add("--json", type=Path, metavar="FILE", help="write numbers and answers")
    add("--disable-tqdm", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    model, answers, duration_s = asyncio.run(_run(args))
    good = [answer for answer in answers if not answer.error]
    errors = [answer.error for answer in answers if answer.error]
    result: dict[str, Any] = {
        "model": model,
        "num_prompts": args.num_prompts,
        "input_len": args.input_len,
        "output_len": args.output_len,
        "seed": args.seed,
        "succeeded": len(good),
        "failed": len(errors),
        "duration_s": duration_s,
        "prompt_tokens_per_s": len(good) * args.input_len / duration_s,
        "sha256": digest(answers),
    }
    for error in errors[:MAX_ERRORS_SHOWN]:
        print(f"request failed: {error}")
    print(f"Requests:               {len(good)} of {args.num_prompts} succeeded")
    print(f"Prompt tokens each:     {args.input_len}")
    print(f"Duration (s):           {duration_s:.3f}")
    print(f"Prompt tokens/s:        {result['prompt_tokens_per_s']:.1f}")
    print(f"SHA-256 of the answers: {result['sha256']}")
    if args.json is not None:
        result["answers"] = [dataclasses.asdict(answer) for answer in answers]
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if errors else 0


def digest(answers: Sequence[Answer]) -> str:
    """SHA-256 over tokens and the exact bits of logprobs, in the order of the prompts; errors count as such."""
    sha = hashlib.sha256()
    for answer in answers:
        logprobs = [logprob.hex() for logprob in answer.logprobs]
        top = [{token: logprob.hex() for token, logprob in sorted(place.items())} for place in answer.top_logprobs]
        bits = [[*answer.token_ids], logprobs, top, bool(answer.error)]
        sha.update(json.dumps(bits).encode())
    return sha.hexdigest()


async def _run(args: argparse.Namespace) -> tuple[str, list[Answer], float]:
    async with connect(args) as client:
        if args.ready_check_timeout_sec > 0:
            await client.wait_until_ready(args.ready_check_timeout_sec)
        model = args.model or await client.model()
        prompts = random_prompts(
            count=args.num_prompts,
            length=args.input_len,
            vocab_size=args.vocab_size or await server_vocab_size(client),
            seed=args.seed,
        )
        with tqdm(total=len(prompts), disable=args.disable_tqdm, unit="req") as bar:
            start = time.perf_counter()
            answers = await asyncio.gather(*(_ask(client, model, prompt, args.output_len, bar) for prompt in prompts))
            return model, list(answers), time.perf_counter() - start


async def _ask(client: BenchClient, model: str, prompt: TokenIds, output_len: int, bar: tqdm[Any]) -> Answer:
    payload = {
        "model": model,
        "prompt": prompt,
        "max_tokens": output_len,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": TOP_LOGPROBS,
        "return_token_ids": True,
    }
    try:
        (choice,) = (await client.post("/v1/completions", payload))["choices"]
    except OctavoError as exc:
        return Answer(error=exc.message)
    finally:
        bar.update()
    logprobs = choice["logprobs"]
    return Answer(choice["token_ids"], logprobs["token_logprobs"], logprobs["top_logprobs"])
