"""Writes docs/kernels.md from the docstrings of octavo.ops and the layer's results: `python -m tools.kernels_page`."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tables import RESULTS, ROOT, section

PAGE = ROOT / "docs" / "kernels.md"
OPERATIONS = {
    "experts.moe": ["moe", "moe_workspace"],
    "experts.route": ["route"],
    "experts.permute": ["permute", "Permutation"],
    "quantize.cuda": ["quantize", "quantize_groups", "quantize_static", "swiglu_quantize"],
    "experts.grouped_gemm": [
        "grouped_gemm_swiglu",
        "grouped_gemm_swiglu_quantize",
        "grouped_gemm",
        "Tile",
        "PersistentTile",
    ],
    "experts.combine": ["combine"],
    "attention.cuda": ["paged_attention", "plan_paged_attention", "PagedPlan", "SplitResults"],
    "delta_net.cuda": ["delta_net"],
    "delta_net": ["plan_delta", "DeltaPlan"],
    "norm.cuda": ["add_norm", "cuda_rms_norm"],
    "gates.cuda": ["swiglu", "gate_norm", "gate_heads", "add_share"],
    "adjust": ["adjust"],
    "adjust.settings": ["AdjustSettings"],
    "draw": ["draw", "draw_truncated"],
    "draw.settings": ["DrawSettings"],
    "largest": ["largest"],
    "peak": ["peak", "Peak"],
    "prepare_qkv.cuda": ["prepare_qkv"],
    "linear.dense_gemm": ["dense_gemm", "DenseTile", "EarlyTile"],
    "formats": ["Bf16", "Fp8Channel", "Fp8Block", "Fp8Static"],
}

HEAD = """# The expert layer

<!-- Written by tools/kernels_page.py from the docstrings and benchmarks/results; a test fails if it is not current. -->

`octavo.ops` is an FP8 expert layer for Hopper GPUs that stands on its own: tensors in, tensors out. Every operation is
a folder with its launcher and contract, its Triton kernel and a reference in plain PyTorch; what computes it on a CPU is
beside them.

```python
import torch
from octavo.ops.activations import FP8
from octavo.ops.experts.moe import moe, moe_workspace
from octavo.ops.formats import Fp8Channel

device, T, E, K, H, I = torch.device("cuda"), 5, 8, 2, 256, 128
gate_up = Fp8Channel(torch.randn(E, 2 * I, H, device=device).to(FP8), torch.full((E, 2 * I), 0.06, device=device))
down = Fp8Channel(torch.randn(E, H, I, device=device).to(FP8), torch.full((E, H), 0.09, device=device))
workspace = moe_workspace(max_tokens=64, top_k=K, gate_up=gate_up, down=down)
x, ids = torch.randn(T, H, device=device).bfloat16(), torch.randint(0, E, (T, K), device=device, dtype=torch.int32)
out, flags = torch.empty_like(x), torch.empty(T, dtype=torch.bool, device=device)
moe(x, ids, torch.full((T, K), 0.5, device=device), gate_up, down, workspace=workspace, out=out, flags=flags)
```

What holds for every call:

- **Any batch.** Every T from 0 to the workspace's size, any ids, any values. Indices from device memory are compared with
  both bounds where they are used; offsets of rows are 64-bit; sizes that cannot run are refused on the host with a
  `KernelContractError` that names the argument and the remedy. Where an address is not a multiple of 16 bytes nothing is
  copied in bulk; a tile that says it should be is refused.
- **Same bits.** A row's output depends on the row, its routing and the weights. Tiles, batch, position, neighbours, padding
  and graph replay do not change it: the order of summation is fixed by the weights' format (`src/octavo/ops/experts/grouped_gemm/kernel.py`).
- **Contained.** A row with NaN or infinity comes back flagged and changes no other row.
- **No allocation, no host synchronisation** in `moe`: it can be captured in a CUDA graph, and reads the true number of
  tokens from device memory.

Without a GPU the same kernels run through Triton's interpreter (`TRITON_INTERPRET=1`), slowly; the tests do that. Attention of many rows,
products with a `PersistentTile` or an `EarlyTile`, and Gated DeltaNet by two warps are in
Gluon and run on Hopper alone: tests elsewhere compile them and draw interleavings of their barriers. What was tried and what it
gave: [kernels_log.md](kernels_log.md).
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for module, names in OPERATIONS.items():
        home = importlib.import_module(f"octavo.ops.{module}")
        parts += [f"## {module.removesuffix('.cuda')}\n", *(_entry(name, getattr(home, name)) for name in names)]
    tables = [section(json.loads(path.read_text())) for path in sorted(RESULTS.glob("moe_layer*.json"))]
    if tables:
        parts += ["## Measured\n", *(table.replace("\n## ", "\n### ").replace("## ", "### ", 1) for table in tables)]
    return "\n".join(parts)


def _entry(name: str, thing: Callable[..., Any]) -> str:
    parameters = ", ".join(str(p.name) if p.default is p.empty else f"{p.name}=..." for p in _parameters(thing))
    return f"### `{name}({parameters})`\n\n```text\n{inspect.getdoc(thing)}\n```\n"


def _parameters(thing: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(thing).parameters.values())


if __name__ == "__main__":
    Path(PAGE).write_text(page(), encoding="utf-8")
