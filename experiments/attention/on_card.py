"""attend.py against octavo's paged attention on an H200: bits, then times.

    cd the root of the repository
    PYTHONPATH=src:.:experiments/attention python experiments/attention/on_card.py                       all cases, all settings
    ... on_card.py --cases prompt8192 odd --settings "" "STAGES=4,PINGPONG=1" "programs=132"
    ... on_card.py --kernel-only prompt8192 --settings "STAGES=4"                    three launches of the kernel alone, for ncu
        (ncu --kernel-name attend_kernel --launch-skip 1 --launch-count 1 --set full python on_card.py --kernel-only ...)

A setting is options of attend.OPTIONS, and `programs` (132: a persistent grid; none: one program for each piece of work). Each case and
setting has a process of its own; one whose kernel does not end is left after 10 s, and one that does not end at all killed after --limit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

SHARED, KV_HEADS, WIDTH, BLOCK = 8, 4, 128, 64
CASES = {
    "tiny": [(16, 16)],
    "prompts8": [(1001, 1001)] * 8,
    "prompt8192": [(8192, 8192)],
    "chunk": [(8192, 32192)],
    "odd": [(n, n + n * 37 % 1500) for n in range(1, 201)],
    "prompt512": [(512, 512), (513, 513), (64, 64), (65, 65), (63, 63)],
    "splits": [(100, 3100), (33, 2000), (7, 1500)],
    "missing": [(700, 700), (300, 1500), (130, 130)],
}
SETTINGS = (
    "",
    "STAGES=4",
    "PINGPONG=1",
    "PINGPONG=1,STAGES=4",
    "Q_REGS=0",
    "ACC_SHARED=0,Q_REGS=0,STAGES=4",
    "programs=132",
    "programs=132,STAGES=4",
    "programs=132,PINGPONG=1,STAGES=4",
)


def parsed(setting):
    options = dict(item.split("=") for item in setting.split(",") if item)
    options = {name: int(value) for name, value in options.items()}
    for name in ("PINGPONG", "Q_REGS", "ACC_SHARED"):
        if name in options:
            options[name] = bool(options[name])
    return options


def made(case, device="cuda"):
    """Queries, a cache whose unused slots are NaN, block tables, chunk starts and contexts of a case."""
    import torch

    torch.manual_seed(1)
    chunks = CASES[case]
    counts, contexts = [n for n, _ in chunks], [c for _, c in chunks]
    starts = [0]
    for n in counts:
        starts.append(starts[-1] + n)
    needed = [-(-c // BLOCK) for c in contexts]
    blocks = sum(needed) + 3
    order = torch.randperm(blocks)
    tables = torch.full((len(chunks), max(needed)), -1, dtype=torch.int32)
    at = 0
    for row, n in enumerate(needed):
        tables[row, :n] = order[at : at + n].to(torch.int32)
        at += n
    cache = torch.full((2, blocks, BLOCK, KV_HEADS, WIDTH), float("nan"), dtype=torch.bfloat16, device=device)
    flat = cache.view(2, blocks * BLOCK, KV_HEADS, WIDTH)
    for row, context in enumerate(contexts):
        position = torch.arange(context)
        slot = (tables[row, position // BLOCK].long() * BLOCK + position % BLOCK).to(device)
        for side in range(2):
            flat[side, slot] = torch.randn(context, KV_HEADS, WIDTH, device=device).to(torch.bfloat16)
    if case == "missing":
        tables[0, 5] = -1
        tables[1, 20] = blocks + 7
    queries = torch.randn(starts[-1], KV_HEADS * SHARED, WIDTH, device=device).to(torch.bfloat16)
    return queries, cache, tables.to(device), tuple(starts), tuple(contexts)


def lines_of(starts, contexts, split):
    """Work of up to 16 tokens a line, longest first; with `split` a line for each 512 keys, and merges and the number of their results.
    Made here and not by octavo's plan, whose lines had 7 numbers before they had the context of the chunk."""
    import numpy as np
    import torch

    lines, merges, results = [], [], 0
    for chunk, context in enumerate(contexts):
        count = starts[chunk + 1] - starts[chunk]
        for offset in range(0, count, 128 // SHARED):
            tokens = min(128 // SHARED, count - offset)
            row, position = starts[chunk] + offset, context - count + offset
            splits = -(-(position + tokens) // 512)
            if not split or splits == 1:
                lines.append((chunk, row, tokens, position, 0, splits, -1, context))
                continue
            for n in range(splits):
                lines.append((chunk, row, tokens, position, n, n + 1, results + n * tokens, context))
            merges += [(row + token, results + token, tokens, splits) for token in range(tokens)]
            results += splits * tokens
    work = np.array(lines, dtype=np.int32)
    work = work[np.argsort((work[:, 4] - work[:, 5]) * 512 - work[:, 3], kind="stable")]
    return torch.from_numpy(work).cuda(), torch.tensor(merges, dtype=torch.int32).reshape(-1, 4).cuda(), results


def timed(call, times=20):
    import torch

    for _ in range(3):
        call()
    spans = []
    for _ in range(times):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(1_000_000)  # the host gets ahead
        first.record()
        call()
        last.record()
        torch.cuda.synchronize()
        spans.append(first.elapsed_time(last))
    return statistics.median(spans)


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
        time.sleep(0.01)


def compared(out, expected):
    import torch

    same = (out.view(torch.int16) == expected.view(torch.int16)) | (out.isnan() & expected.isnan())
    if bool(same.all()):
        return f"same bits (torch.equal {torch.equal(out, expected)}, {int(expected.isnan().sum())} NaN in both)"
    wrong = (~same).nonzero()
    row, head, column = wrong[0].tolist()
    off = (out.float() - expected.float()).abs() / expected.float().abs().clamp(min=1e-3)
    rows = (~same).any(-1).any(-1).nonzero().flatten()
    return (
        f"DIFFER: {len(wrong)} of {same.numel()} numbers in {len(rows)} rows {rows[:6].tolist()}.., first (row {row}, head {head}, column "
        f"{column}): {out[row, head, column].item()} for {expected[row, head, column].item()}; largest relative error "
        f"{off.nan_to_num(float('inf')).max().item():.3g}, NaN {int(out.isnan().sum())} for {int(expected.isnan().sum())}"
    )


def child(case, setting, kernel_only):
    import torch

    import attend as A
    from octavo.ops.attention import cuda as C
    from octavo.ops.attention.plan import MAX_SPLIT_RESULTS, plan_paged_attention

    queries, cache, tables, starts, contexts = made(case)
    heads = KV_HEADS * SHARED
    results = C.SplitResults.allocate(heads, WIDTH, queries.device, count=MAX_SPLIT_RESULTS)
    flops = 4 * WIDTH * heads * sum(sum(range(c - n + 1, c + 1)) for n, c in CASES[case])
    expected = torch.full_like(queries, 7.0)
    plan = plan_paged_attention(tables, starts, contexts, block_size=BLOCK, heads_per_kv_head=SHARED)

    def reference():
        C.paged_attention(queries, cache, plan, results, out=expected)

    if setting == "reference":
        reference()
        wait(60, "the reference")
        ms = timed(reference)
        print(f"{case:11} {'octavo':34} {ms * 1000:9.1f} us {flops / ms / 1e9:6.1f} TFLOP/s", flush=True)
        return
    options = parsed(setting)
    programs = options.pop("programs", None)
    work, merges, num_results = lines_of(starts, contexts, split=case == "splits")
    out = torch.full_like(queries, 5.0)

    def call():
        A.attend(
            queries, cache, tables, work, out, results.stats, results.acc, shared=SHARED, programs=programs, **options
        )
        if len(merges):
            import math

            C.merge_kernel[(len(merges) * heads // C.MERGED_HEADS,)](
                results.stats, results.acc, merges, None, out, queries.shape[0], results.stats.shape[0], len(merges), heads,
                math.log2(math.e) / math.sqrt(WIDTH), None, WIDTH=WIDTH, HEAD=WIDTH, HEADS=C.MERGED_HEADS, num_warps=4, **C.LAUNCH,
            )  # fmt: skip

    call()
    wait(10, f"{case} {setting}")
    if kernel_only:
        call(), call()
        wait(10, f"{case} {setting}")
        return
    first = out.clone()
    for again in range(5):
        out.fill_(3.0)
        call()
        wait(10, f"{case} {setting}, call {again + 2}")
        if not bool(((out.view(torch.int16) == first.view(torch.int16)) | (out.isnan() & first.isnan())).all()):
            print(f"{case:11} {setting:34} call {again + 2} DIFFERS from the first: {compared(out, first)}", flush=True)
            break
    reference()
    wait(60, "the reference")
    print(f"{case:11} {setting:34} {compared(first, expected)}", flush=True)
    ms = timed(call)
    print(f"{case:11} {setting:34} {ms * 1000:9.1f} us {flops / ms / 1e9:6.1f} TFLOP/s", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cases", nargs="*", default=list(CASES))
    arguments.add_argument("--settings", nargs="*", default=list(SETTINGS))
    arguments.add_argument("--limit", type=float, default=90, help="seconds of one process, its compiling too")
    arguments.add_argument("--kernel-only", metavar="CASE")
    arguments.add_argument("--child", nargs=2, metavar=("CASE", "SETTING"))
    given = arguments.parse_args()
    if given.child:
        child(*given.child, kernel_only=False)
        return
    if given.kernel_only:
        child(given.kernel_only, given.settings[0], kernel_only=True)
        return
    hangs = {}
    for case in given.cases:
        for setting in ["reference", *given.settings]:
            if hangs.get(setting, 0) >= 2:
                continue  # it has cost enough
            process = subprocess.Popen([sys.executable, "-W", "ignore", __file__, "--child", case, setting])
            try:
                code = process.wait(given.limit)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = "killed, it did not end"
            if code:
                hangs[setting] = hangs.get(setting, 0) + 1
                print(f"{case:11} {setting:34} FAILED: {code}", flush=True)


if __name__ == "__main__":
    main()
