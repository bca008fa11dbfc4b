"""Microseconds of each kernel of the expert layer at some batch sizes: `python -m tools.profile_moe`."""

from __future__ import annotations

import argparse

import torch
from benchmarks.moe_layer import FORMATS, SHAPES, draw, our_calls, random_weights
from torch.profiler import ProfilerActivity, profile

CALLS = 10


def kernel_times(tokens: int, shape: tuple[int, int, int, int], kind: str) -> list[tuple[str, float]]:
    """(kernel, mean microseconds per call of the layer) in the order of their sum."""
    experts, _, hidden, intermediate = shape
    gate_up = random_weights(kind, experts, 2, intermediate, hidden)
    down = random_weights(kind, experts, 1, hidden, intermediate)
    calls = our_calls([draw(tokens, shape) for _ in range(CALLS)], gate_up, down)
    for call in calls:
        call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for call in calls:
            call()
        torch.cuda.synchronize()
    return [(event.key, event.device_time_total / CALLS) for event in trace.key_averages() if event.device_time_total]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-30b-a3b")
    parser.add_argument("--format", choices=FORMATS, default="channel")
    parser.add_argument(
        "--tokens", type=lambda text: [int(part) for part in text.split(",")], default=[1, 64, 1024, 8192]
    )
    args = parser.parse_args()
    for tokens in args.tokens:
        print(f"T={tokens}")
        for name, time in kernel_times(tokens, SHAPES[args.shape], args.format):
            print(f"{time:10.1f} us  {name}", flush=True)


if __name__ == "__main__":
    main()
