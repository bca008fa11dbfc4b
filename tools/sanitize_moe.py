"""A sweep for compute-sanitizer: every kernel of the expert layer, with sizes around 8192.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 python -m tools.sanitize_moe
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool racecheck --error-exitcode 1 python -m tools.sanitize_moe
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool initcheck --error-exitcode 1 python -m tools.sanitize_moe

Without PyTorch's caching every tensor is its own allocation, so that a stray access is seen. The layer is narrow: the
index arithmetic of rows, slots and tiles is that of a real one.
"""

from __future__ import annotations

import torch

from octavo.kernels.moe import moe, moe_workspace
from octavo.kernels.quantize import swiglu_quantize
from octavo.kernels.rms_norm.cuda import add_norm
from octavo.kernels.route import route
from octavo.kernels.scaled import FP8, ChannelWeights

EXPERTS, TOP_K, HIDDEN, INTERMEDIATE = 128, 8, 144, 80
SIZES = [0, 1, 17, 129, 1024, 1025, 8191, 8192, 8193]


def weights(rows: int, cols: int) -> ChannelWeights:
    """Random weights (E, rows, cols), made on the host so that every byte is initialised by a copy."""
    data = torch.randn((EXPERTS, rows, cols)).to(FP8).cuda()
    return ChannelWeights(data, torch.full((EXPERTS, rows), 0.05).cuda())


def main() -> None:
    torch.manual_seed(0)
    gate_up, down = weights(2 * INTERMEDIATE, HIDDEN), weights(HIDDEN, INTERMEDIATE)
    norm = torch.ones(HIDDEN, dtype=torch.bfloat16).cuda()
    for tokens in SIZES:
        x = torch.randn((tokens, HIDDEN)).bfloat16().cuda()
        logits = torch.randn((tokens, EXPERTS)).cuda()
        workspace = moe_workspace(tokens, TOP_K, gate_up, down)
        routing = route(logits, TOP_K, renormalize=True)
        out = torch.empty_like(x)
        flags = torch.empty((tokens,), dtype=torch.bool).cuda()
        moe(x, routing.ids, routing.weights, gate_up, down, workspace=workspace, out=out, flags=flags)
        add_norm(x, out, norm, 1e-6, bf16=True, fp8=True)
        swiglu_quantize(x)
        torch.cuda.synchronize()
        print(tokens, bool(out.isfinite().all().cpu()), flush=True)


if __name__ == "__main__":
    main()
