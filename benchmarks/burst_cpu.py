"""The burst on the CPU, Octavo against transformers' own `generate`: `python -m benchmarks.burst_cpu`.

Both run octavo-tiny on the same machine in the same run, turn by turn: 100 different prompts of 1001 tokens, one greedy
token each. transformers gets the batch size and the number format that suit it best.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks import against
from benchmarks.provenance import write_result
from octavo import LLM, SamplingParams
from octavo.checkpoints.folder import resolve_folder
from octavo.cli.bench.prompts import random_prompts

Prompts = list[list[int]]
Engine = Callable[[Prompts], list[int]]
"""Prompts to the first token of each answer."""


def octavo_engine(llm: LLM) -> Engine:
    sampling = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)

    def engine(prompts: Prompts) -> list[int]:
        outputs = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling, use_tqdm=False)
        return [output.outputs[0].token_ids[0] for output in outputs]

    return engine


def transformers_engine(folder: Path, dtype: torch.dtype, batch_size: int) -> Engine:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    def engine(prompts: Prompts) -> list[int]:
        tokens: list[int] = []
        for first in range(0, len(prompts), batch_size):
            ids = torch.tensor(prompts[first : first + batch_size])
            mask = torch.ones_like(ids)
            made = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=1, pad_token_id=0)
            tokens += made[:, -1].tolist()
        return tokens

    return engine


def seconds(engine: Engine, prompts: Prompts) -> tuple[float, list[int]]:
    """Wall-clock seconds of one burst, and its tokens."""
    start = time.perf_counter()
    tokens = engine(prompts)
    return time.perf_counter() - start, tokens


def best_transformers(folder: Path, prompts: Prompts) -> tuple[str, Engine]:
    """The number format and batch size that are fastest on a part of the burst."""
    part = prompts[:25]
    timed = []
    for dtype in (torch.bfloat16, torch.float32):
        for batch_size in (1, 5, 25):
            engine = transformers_engine(folder, dtype, batch_size)
            seconds(engine, part[:batch_size])
            elapsed_s, _ = seconds(engine, part)
            name = f"{str(dtype).removeprefix('torch.')}, batches of {batch_size}"
            print(f"transformers, {name}: {len(part) * len(part[0]) / elapsed_s:.0f} prompt tokens/s", flush=True)
            timed.append((elapsed_s, name, engine))
    _, name, engine = min(timed, key=lambda item: item[0])
    return name, engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-prompts", type=int, default=100)
    parser.add_argument("--input-len", type=int, default=1001)
    parser.add_argument("--repeats", type=int, default=3)
    args = against.parse_args(parser, "burst_cpu")
    folder = resolve_folder("octavo-tiny", None)
    with LLM("octavo-tiny", device="cpu", enable_prefix_caching=False) as llm:
        prompts = random_prompts(count=args.num_prompts, length=args.input_len, vocab_size=llm.vocab_size, seed=0)
        name, theirs = best_transformers(folder, prompts)
        ours = octavo_engine(llm)
        seconds(ours, prompts)
        rates: dict[str, list[float]] = {"octavo": [], "transformers": []}
        answers: dict[str, list[int]] = {}
        for _ in range(args.repeats):
            for who, engine in (("octavo", ours), ("transformers", theirs)):
                elapsed_s, answers[who] = seconds(engine, prompts)
                rates[who].append(args.num_prompts * args.input_len / elapsed_s)
                print(f"{who}: {rates[who][-1]:.0f} prompt tokens/s", flush=True)
    equal = sum(a == b for a, b in zip(answers["octavo"], answers["transformers"], strict=True))
    ratio = statistics.median(rates["octavo"]) / statistics.median(rates["transformers"])
    rows: list[list[Any]] = [
        [label, round(statistics.median(rates[who])), round(min(rates[who])), round(max(rates[who]))]
        for who, label in (("octavo", "Octavo, FP8"), ("transformers", f"transformers `generate`, {name}"))
    ]
    write_result(
        "burst_cpu",
        title="The burst on a CPU",
        conditions=f"octavo-tiny, {args.num_prompts} different prompts of {args.input_len} random tokens at once, one greedy "
        f"token each, offline, {torch.get_num_threads()} threads; turn by turn in one run, median of {args.repeats}. "
        f"transformers runs the same weights in the number format and batch size that were fastest for it. Octavo is "
        f"{ratio:.1f} times as fast; {equal} of {args.num_prompts} first tokens are the same (random prompts, near ties).",
        columns=["", "prompt tokens/s", "least", "most"],
        rows=rows,
        raw={"prompt_tokens_per_s": rates, "equal_tokens": equal},
    )


if __name__ == "__main__":
    main()
