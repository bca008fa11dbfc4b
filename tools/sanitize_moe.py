"""Run every kernel of the expert layer, launched and in a graph, under NVIDIA's compute-sanitizer.

    python -m tools.sanitize_moe                     memcheck, racecheck and initcheck of T = 8191, 8192 and 8193, side by side
    python -m tools.sanitize_moe --tool memcheck     one of them
    python -m tools.sanitize_moe --sizes 0 1 17 129 1024 1025

Ends with 0 if no tool finds anything. Without PyTorch's caching every tensor is its own allocation, so that a stray access
is seen where it is past what the driver rounds up; `tests/gpu/test_guard_pages.py` sees those within it. The layer is
narrow: the index arithmetic of rows, assignments and tiles is that of a real one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

import torch

from octavo.ops.activations import FP8, TokenScaled, Unscaled
from octavo.ops.experts.moe import moe, moe_workspace
from octavo.ops.experts.route import Routing, route
from octavo.ops.experts.rules import SoftmaxRule
from octavo.ops.formats import Fp8Channel
from octavo.ops.norm.cuda import add_norm
from octavo.ops.quantize.cuda import swiglu_quantize
from octavo.ops.weighted_sum import WeightedSum

EXPERTS, TOP_K, HIDDEN, INTERMEDIATE = 128, 8, 144, 80
SIZES = [8191, 8192, 8193]
TOOLS = ["memcheck", "racecheck", "initcheck"]


def weights(rows: int, cols: int) -> Fp8Channel:
    """Random weights (E, rows, cols), made on the host so that every byte is initialised by a copy."""
    data = torch.randn((EXPERTS, rows, cols)).to(FP8).cuda()
    return Fp8Channel(data, torch.full((EXPERTS, rows), 0.05).cuda())


def check(tokens: int, gate_up: Fp8Channel, down: Fp8Channel) -> None:
    """Run the layer on `tokens` rows, launched and as a graph with one row less in use; the rows in both are equal.

    Raises:
        SystemExit: they are not, or are not finite.
    """
    x = torch.randn((tokens, HIDDEN)).bfloat16().cuda()
    logits = torch.randn((tokens, EXPERTS)).cuda()
    norm = torch.ones(HIDDEN, dtype=torch.bfloat16).cuda()
    used = torch.full((1,), tokens, dtype=torch.int32).cuda()
    workspace = moe_workspace(tokens, TOP_K, gate_up, down)
    routing = Routing.allocate(tokens, TOP_K, x.device)
    out, flags = torch.empty_like(x), torch.empty((tokens,), dtype=torch.bool).cuda()

    def layer() -> None:
        route(logits, SoftmaxRule(TOP_K, True), rows_in_use=used, out=routing)
        moe(
            x, routing.ids, routing.weights, gate_up, down,
            workspace=workspace, out=out, flags=flags, rows_in_use=used,
        )  # fmt: skip

    swiglu_quantize(x)
    layer()
    parts = WeightedSum(workspace.expert_out, routing.ids, routing.weights, EXPERTS, used)
    add_norm(x, parts, norm, 1e-6, forms=frozenset({TokenScaled, Unscaled}))
    launched = out.cpu()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        layer()
    used.fill_(max(tokens - 1, 0))
    graph.replay()
    replayed = out.cpu()
    torch.cuda.synchronize()
    fine = bool(launched.isfinite().all()) and torch.equal(replayed[:-1], launched[:-1])
    print(f"T={tokens}: {'finite, and the same bits in a graph' if fine else 'WRONG'}", flush=True)
    if not fine:
        raise SystemExit(1)


def sweep(sizes: Sequence[int]) -> None:
    """Check each number of tokens, in this process."""
    torch.manual_seed(0)
    gate_up, down = weights(2 * INTERMEDIATE, HIDDEN), weights(HIDDEN, INTERMEDIATE)
    for tokens in sizes:
        check(tokens, gate_up, down)


def sanitize(tools: Sequence[str], sizes: Sequence[int]) -> int:
    """Run the sweep under each tool at the same time, print what they wrote, and return how many found something."""
    here = [sys.executable, "-m", "tools.sanitize_moe", "--inside", "--sizes", *map(str, sizes)]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    # kernels are compiled before, once for all tools
    subprocess.run(here, check=True)
    running = {
        tool: subprocess.Popen(
            ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *here],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for tool in tools
    }  # fmt: skip
    for tool, process in running.items():
        print(f"== {tool}\n{process.communicate()[0][-4000:]}", flush=True)
    return sum(process.returncode != 0 for process in running.values())


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tool", choices=TOOLS, action="append", help="one of the tools; all by default")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of tokens")
    parser.add_argument("--inside", action="store_true", help="run the sweep itself, as each tool does")
    args = parser.parse_args()
    if args.inside:
        sweep(args.sizes)
    else:
        raise SystemExit(sanitize(args.tool or TOOLS, args.sizes))


if __name__ == "__main__":
    main()
