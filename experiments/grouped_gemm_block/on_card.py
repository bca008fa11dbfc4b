"""grouped_block.py against octavo's grouped_gemm on an H200: bits, then times.

    cd the root of the repository, with torch 2.11 and Triton 3.6
    PYTHONPATH=src:.:experiments/grouped_gemm_block python experiments/grouped_gemm_block/on_card.py                       all cases, both products, all settings
    ... on_card.py --cases random8192 --products down --settings "" "SKEW=0" "STAGES=3"
    ... on_card.py --quick                                                              one setting each, fewer cases
    ... on_card.py --kernel-only random8192 --products gated --settings ""              three launches of the kernel alone, for ncu
        (ncu --kernel-name grouped_block_kernel --launch-skip 1 --launch-count 1 --set full python on_card.py --kernel-only ...)

A setting is options of grouped_block.OPTIONS, and `programs` (132 by default). Each case, product and setting has a process of its own; one
whose kernel does not end is left after 10 s, one that does not end at all is killed after --limit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

E, H, I, TOP_K = 128, 2048, 768, 8
CASES = ("ends", "random512", "skewed512", "few512", "random2048", "skewed2048", "part2048", "random4096", "random8192", "skewed8192", "random16384")
SETTINGS = (
    "",
    "SKEW=0",
    "SKEW=1",
    "SKEW=3",
    "FENCE=0",
    "STAGES=3",
    "BAND=8",
    "BAND=2",
    "PRODUCER_WARPS=4",
    "CONSUMER_REGS=224,PRODUCER_REGS=56",
    "programs=7",
)
TIMED = 5
"""Launches in a graph."""


def parsed(setting):
    options = {name: int(value) for name, value in (item.split("=") for item in setting.split(",") if item)}
    for name in ("FENCE",):
        if name in options:
            options[name] = bool(options[name])
    return options


def routed(case):
    """ids (T, 8) int32 and how many tokens are in use (None: all)."""
    import torch

    torch.manual_seed(3)
    if case == "ends":  # expert e has e rows, and so every end there is; others are absent
        rows = torch.cat([torch.full((e,), e, dtype=torch.int32) for e in range(E)])
        ids = torch.full((1024 * TOP_K,), -1, dtype=torch.int32)
        ids[torch.randperm(len(ids))[: len(rows)]] = rows
        return ids.view(1024, TOP_K), None
    tokens = int(case.lstrip("abcdefghijklmnopqrstuvwxyz"))
    ids = torch.randn(tokens, E).topk(TOP_K).indices.to(torch.int32)
    if case.startswith("skewed"):  # most rows are one expert's, half of the experts have none, some choices are absent
        ids = torch.randint(0, E // 2, (tokens, TOP_K), dtype=torch.int32)
        ids[:, :5] = 37
        ids[torch.rand(tokens, TOP_K) < 0.01] = -1
    if case.startswith("few"):  # three experts
        ids = torch.randint(0, 3, (tokens, TOP_K), dtype=torch.int32) * 50
    return ids, tokens * 5 // 8 + 3 if case.startswith("part") else None


def fp8(*shape):
    import torch

    out = torch.empty(shape, dtype=torch.float8_e4m3fn, device="cuda")
    for part in out.view(torch.uint8).view(shape[0], -1).split(max(1, 2**26 // (out.numel() // shape[0]))):
        part.copy_(torch.randn(part.shape, device="cuda").to(torch.float8_e4m3fn).view(torch.uint8))
    return out


def scales(*shape):
    import torch

    return (torch.rand(shape, device="cuda") + 0.5) * 0.15


def wait(seconds, what):
    """Synchronize, but leave the process where the device does not get there."""
    import torch

    event = torch.cuda.Event()
    event.record()
    end = time.time() + seconds
    while not event.query():
        if time.time() > end:
            print(f"HANG: {what}", flush=True)
            os._exit(3)
        time.sleep(0.005)


def timed(call, what):
    """Median us of a launch, in graphs of TIMED launches."""
    import torch

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(TIMED):
                call()
    spans = []
    for n in range(25):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        graph.replay()
        last.record()
        wait(20, what)
        if n >= 5:
            spans.append(first.elapsed_time(last))
    return statistics.median(spans) * 1000 / TIMED


def compared(out, expected):
    import torch

    same = out.view(torch.int16) == expected.view(torch.int16)
    if bool(same.all()):
        return f"same bits (torch.equal {torch.equal(out, expected)}, NaN {int(out.isnan().sum())})"
    wrong = (~same).nonzero()
    row, column = wrong[0].tolist()
    rows = (~same).any(-1).nonzero().flatten()
    columns = (~same).any(0).nonzero().flatten()
    off = (out.float() - expected.float()).abs() / expected.float().abs().clamp(min=1e-3)
    return (
        f"DIFFER (torch.equal {torch.equal(out, expected)}): {len(wrong)} of {same.numel()} numbers, in {len(rows)} rows {rows[:8].tolist()}.. and "
        f"{len(columns)} columns {columns[:8].tolist()}.., first ({row}, {column}): {out[row, column].item()} for {expected[row, column].item()}; "
        f"untouched (5.0) {int((out == 5.0).sum())} for {int((expected == 5.0).sum())}; largest relative error "
        f"{off.nan_to_num(float('inf')).max().item():.3g}, NaN {int(out.isnan().sum())} for {int(expected.isnan().sum())}"
    )


def child(case, product, setting, kernel_only):
    import torch

    import grouped_block as G
    from octavo.ops.activations import GroupScaled
    from octavo.ops.experts.grouped_gemm import choose_tiles, grouped_gemm, grouped_gemm_swiglu
    from octavo.ops.experts.permute import permute
    from octavo.ops.formats import Fp8Block

    gated = product == "gated"
    ids, in_use = routed(case)
    ids = ids.cuda()
    in_use = None if in_use is None else torch.tensor([in_use], dtype=torch.int32, device="cuda")
    tokens = len(ids)
    assignments = tokens * TOP_K
    torch.manual_seed(4)
    if gated:
        x, w = GroupScaled(fp8(tokens, H), scales(tokens, H // 128)), Fp8Block(fp8(E, 2 * I, H), scales(E, 2 * I // 128, H // 128), parts=2)
    else:
        x, w = GroupScaled(fp8(assignments, I), scales(assignments, I // 128)), Fp8Block(fp8(E, H, I), scales(E, H // 128, I // 128))
    chosen = choose_tiles(("Fp8Block", E, H, I), assignments)
    tile = chosen.gate_up if gated else chosen.down
    theirs = permute(ids, E, tile_rows=tile.rows, rows_in_use=in_use)
    ours = permute(ids, E, tile_rows=128, rows_in_use=in_use)
    rows = int(ours.rows_in_use)
    flops = 2 * rows * H * I * (2 if gated else 1)
    shape = (assignments, I if gated else H)
    name = f"{case:11} {product:5}"

    def reference(out):
        if gated:
            return grouped_gemm_swiglu(x, w, theirs, top_k=TOP_K, tile=tile, out=out, assignments=assignments)
        return grouped_gemm(x, w, theirs, tile=tile, out=out, assignments=assignments)

    if setting == "reference":
        out = torch.full(shape, 5.0, dtype=torch.bfloat16, device="cuda")
        reference(out)
        wait(60, "the reference")
        us = timed(lambda: reference(out), "the reference")
        print(f"{name} {'octavo':28} {us:9.1f} us {flops / us / 1e6:7.1f} TFLOP/s   {rows} rows, {int(ours.num_tiles)} tiles of 128", flush=True)
        return

    options = parsed(setting)

    def call(out):
        if gated:
            return G.grouped_gemm_swiglu(x, w, ours, top_k=TOP_K, out=out, assignments=assignments, **options)
        return G.grouped_gemm(x, w, ours, out=out, assignments=assignments, **options)

    out = torch.full(shape, 5.0, dtype=torch.bfloat16, device="cuda")
    what = f"{name} {setting}"
    call(out)
    wait(10, what)
    if kernel_only:
        call(out), call(out)
        wait(10, what)
        return
    first = out.clone()
    for again in range(5):
        out.fill_(5.0)
        call(out)
        wait(10, f"{what}, call {again + 2}")
        if not torch.equal(out.view(torch.int16), first.view(torch.int16)):
            print(f"{name} {setting:28} call {again + 2} DIFFERS from the first: {compared(out, first)}", flush=True)
            break
    expected = torch.full(shape, 5.0, dtype=torch.bfloat16, device="cuda")
    reference(expected)
    wait(60, "the reference")
    print(f"{name} {setting or '(defaults)':28} {compared(first, expected)}", flush=True)
    us = timed(lambda: call(out), what)
    print(f"{name} {setting or '(defaults)':28} {us:9.1f} us {flops / us / 1e6:7.1f} TFLOP/s", flush=True)
    if not torch.equal(out.view(torch.int16), first.view(torch.int16)):
        print(f"{name} {setting:28} DIFFERS behind graphs: {compared(out, first)}", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cases", nargs="*", default=list(CASES))
    arguments.add_argument("--products", nargs="*", default=["down", "gated"])
    arguments.add_argument("--settings", nargs="*", default=list(SETTINGS))
    arguments.add_argument("--quick", action="store_true", help="the defaults and no skew, five cases")
    arguments.add_argument("--limit", type=float, default=120, help="seconds of one process, its compiling too")
    arguments.add_argument("--kernel-only", metavar="CASE")
    arguments.add_argument("--child", nargs=3, metavar=("CASE", "PRODUCT", "SETTING"))
    given = arguments.parse_args()
    if given.child:
        child(*given.child, kernel_only=False)
        return
    if given.kernel_only:
        child(given.kernel_only, given.products[0], given.settings[0], kernel_only=True)
        return
    if given.quick:
        given.cases = ["ends", "random512", "skewed2048", "random2048", "random8192"]
        given.settings = ["", "SKEW=0"]
    hangs = {}
    for case in given.cases:
        for product in given.products:
            for setting in ["reference", *given.settings]:
                if product == "down" and ("FENCE" in setting or "_REGS" in setting) or product == "gated" and "PRODUCER_WARPS" in setting:
                    continue
                key = (product, setting)
                if hangs.get(key, 0) >= 2:
                    continue  # it has cost enough
                command = [sys.executable, "-W", "ignore", os.path.abspath(__file__), "--child", case, product, setting]
                process = subprocess.Popen(command)
                try:
                    code = process.wait(given.limit)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    code = "killed, it did not end"
                if code:
                    hangs[key] = hangs.get(key, 0) + 1
                    print(f"{case:11} {product:5} {setting:28} FAILED: {code}", flush=True)


if __name__ == "__main__":
    main()
