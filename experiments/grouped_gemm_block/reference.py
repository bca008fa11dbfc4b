"""Octavo's own kernel compiled for sm_90a, for comparing machine code: python reference.py gated|down -> ref_*.{ptx,sass,ttgir}"""
import re, subprocess, sys
sys.path.insert(0, "experiments/grouped_gemm_block")
import torch, triton
from compile import NoGpu, disassembled, parse

def build(gated, rows=128, halvings=0):
    triton.runtime.driver.set_active(NoGpu())
    from octavo.ops.experts.grouped_gemm.kernel import grouped_gemm_kernel
    from triton.tools.tensor_descriptor import TensorDescriptor
    E, H, I = 128, 2048, 768
    K, N = (H, I) if gated else (I, H)
    cols = 64
    i = lambda *s: torch.zeros(s, dtype=torch.int32)
    f8 = lambda *s: torch.empty(s, dtype=torch.float8_e4m3fn)
    x = f8(8192 if gated else 65536, K)
    w = f8(E * (2 if gated else 1) * N, K)
    xs, ws = torch.empty(x.shape[0], K // 128), torch.empty(E, (2 if gated else 1) * N // 128, K // 128)
    y = torch.empty((65536, N), dtype=torch.bfloat16)
    xt = None if gated else TensorDescriptor.from_tensor(x, [rows, 128])
    return grouped_gemm_kernel.warmup(
        x, xt, None, xs, TensorDescriptor.from_tensor(w, [cols, 128]), None, ws, y, i(65536), i(4224, 3), i(1),
        65536, x.shape[0], E, 4224, K, 0, 0, 0, 0,
        N=N, GATED=gated, GATHER=gated, TOP_K=8 if gated else 1, SCALED=False, BLOCKWISE=True, EVEN_K=True, STEP=128, ROWS=rows, MIN_ROWS=rows >> halvings,
        COLS=cols, TILES_PER_BAND=4, TMA=True, EARLY=0, LATE=True, PDL=True,
        num_warps=4, num_stages=3, grid=(1,), launch_pdl=True, enable_fp_fusion=True)

for what in sys.argv[1:] or ("gated", "down"):
    k = build(what == "gated")
    text, usage = disassembled(k, "ref_" + what)
    print(what, usage, "shared", k.metadata.shared, len(parse(text)[0]))
