"""Compiles grouped_block.py for sm_90a without a GPU and says what came out.

PYTHONPATH=TRITON_3.6:src:.:experiments/grouped_gemm_block python -W ignore experiments/grouped_gemm_block/compile.py [-v] [n ...]
"""

import collections
import os
import re
import subprocess
import sys
import tempfile

import torch
import triton
from triton.backends.compiler import GPUTarget

HERE = os.path.dirname(os.path.abspath(__file__))


class NoGpu:
    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


BIN = next(
    p
    for p in (
        os.path.join(os.path.dirname(__import__("triton").__file__), "backends/nvidia/bin/"),
        os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/"),
    )
    if os.path.exists(p + "nvdisasm")
)
BUILDS = (
    (False, {}),
    (True, {}),
    (False, dict(STAGES=3)),
    (True, dict(STAGES=3)),
    (True, dict(FENCE=False)),
    (False, dict(SKEW=0)),
    (True, dict(SKEW=0)),
    (False, dict(PRODUCER_WARPS=4)),
    (False, dict(CONSUMER_REGS=240, PRODUCER_REGS=24)),
    (True, dict(CONSUMER_REGS=224, PRODUCER_REGS=56)),
    (True, dict(CONSUMER_REGS=232, PRODUCER_REGS=40)),
)


def compiled(gated, **options):
    triton.runtime.driver.set_active(NoGpu())
    import grouped_block as G
    from octavo.ops.activations import GroupScaled
    from octavo.ops.experts.permute import Permutation
    from octavo.ops.formats import Fp8Block

    f8 = lambda *s: torch.empty(s, dtype=torch.float8_e4m3fn)
    E, H, I, T = 8, 2048, 768, 256
    permutation = Permutation.allocate(T * 8, E, torch.device("cpu"))
    if gated:
        x, w = GroupScaled(f8(T, H), torch.empty(T, H // 128)), Fp8Block(f8(E, 2 * I, H), torch.empty(E, 2 * I // 128, H // 128))
        out = torch.empty((T * 8, I), dtype=torch.bfloat16)
        return G.grouped_gemm_swiglu(
            x, w, permutation, top_k=8, out=out, assignments=T * 8, programs=132, compile_only=True, **options
        )
    x, w = GroupScaled(f8(T * 8, I), torch.empty(T * 8, I // 128)), Fp8Block(f8(E, H, I), torch.empty(E, H // 128, I // 128))
    out = torch.empty((T * 8, H), dtype=torch.bfloat16)
    return G.grouped_gemm(x, w, permutation, out=out, assignments=T * 8, programs=132, compile_only=True, **options)


def disassembled(k, dump=None):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(k.asm["cubin"])
        f.flush()
        text = subprocess.run([BIN + "nvdisasm", "-c", f.name], capture_output=True, text=True).stdout
        usage = subprocess.run([BIN + "cuobjdump", "-res-usage", f.name], capture_output=True, text=True).stdout
    if dump:
        open(dump + ".sass", "w").write(text)
        open(dump + ".ptx", "w").write(k.asm["ptx"])
        open(dump + ".ttgir", "w").write(k.asm["ttgir"])
    return text, re.search(r"REG:\d+ STACK:\d+ SHARED:\d+ LOCAL:\d+", usage)[0]


def parse(text):
    instructions, labels = [], {}
    for line in text.splitlines():
        m = re.match(r"\s*(\.L_x_\d+):", line)
        if m:
            labels[m[1]] = len(instructions)
            continue
        m = re.search(r"/\*([0-9a-f]{4,})\*/\s+(.*?);", line)
        if m:
            instructions.append(m[2].strip())
    return instructions, labels


def loops(instructions, labels, least=4):
    found = []
    for i, t in enumerate(instructions):
        m = re.search(r"BRA.*?\(?(\.L_x_\d+)", t)
        if m and m[1] in labels and labels[m[1]] <= i and i - labels[m[1]] >= least:
            found.append((labels[m[1]], i))
    return found


def name(t):
    return re.sub(r"^@!?U?P\w+\s+", "", t).split()[0]


def written(t):
    """Registers that an instruction writes, roughly: its first operand, and those after it of wide ones."""
    t = re.sub(r"^@!?U?P\w+\s+", "", t)
    op, _, rest = t.partition(" ")
    m = re.fullmatch(r"R(\d+)(\.\w+)?", rest.split(",")[0].strip())
    if not m or op.split(".")[0] in ("ST", "STS", "STG", "STSM", "STL", "SYNCS", "BRA", "RED", "ISETP", "FSETP"):
        return set()
    wide = 4 if ".128" in op else 2 if ".64" in op or ".WIDE" in op or op.startswith("CS2R") else 1
    return set(range(int(m[1]), int(m[1]) + wide))


def hazards(instructions):
    """Regions from an item's first product (which starts from RZ) to the wait for its last, in program order; in each, writes to sums by other
    instructions, loads that stand before the first product and are looked at before it, and waits."""
    found = []
    at = 0
    while at < len(instructions):
        if not ("QGMMA" in instructions[at] and ", RZ" in instructions[at]):
            at += 1
            continue
        end = next(j for j in range(at, len(instructions)) if "WARPGROUP.DEPBAR.LE gsb0, 0x0" in instructions[j])
        region = instructions[at:end]
        sums = set()
        for t in region:
            m = re.match(r"QGMMA\.64x(\d+)x32\.\S+ R(\d+),", t)
            if m:
                sums |= set(range(int(m[2]), int(m[2]) + int(m[1]) // 2))
        bad = [(at + n, t) for n, t in enumerate(region) if "QGMMA" not in t and written(t) & sums]
        waits = [t.split()[-1] for t in region if "DEPBAR.LE gsb0" in t]
        # the check finds what there is behind the wait: the epilogue writes over sums
        pass
        before = [t for t in instructions[max(0, at - 40) : at] if re.match(r"(@!?P\d )?LDG", t)]
        loads = [n for n, t in enumerate(region) if "LDG" in t]
        found.append((at, end, len(sums), bad, waits, before, loads))
        at = end
    return found


MARKS = re.compile(r"GMMA|DEPBAR|SYNCS|BAR\.|WARPSYNC|WARPGROUP|FENCE|BRA|USETMAXREG|UTMALDG|ACQBULK|PREEXIT|CALL|LDGSTS|ARRIVES")


def report(gated, options, dump=None, details=True):
    try:
        k = compiled(gated, **options)
    except Exception as e:
        while e is not None:
            print("gated" if gated else "down", options, "FAILED", type(e).__name__, str(e)[-1500:])
            e = e.__cause__
        return None
    text, usage = disassembled(k, dump)
    instructions, labels = parse(text)
    local = sum(name(t).split(".")[0] in ("LDL", "STL") for t in instructions)
    print("gated" if gated else "down ", options, usage, "shared", k.metadata.shared, "instructions", len(instructions), "LDL+STL", local)
    print("  setmaxnreg", [t for t in instructions if "USETMAXREG" in t])
    for a, b in loops(instructions, labels):
        body = instructions[a : b + 1]
        gmma = [t for t in body if "GMMA" in t and not t.startswith("WARPGROUP")]
        copies = [t for t in body if "UTMALDG" in t]
        if not (gmma or copies) or b - a > 700:
            continue
        count = collections.Counter(name(t).split(".")[0] for t in body)
        top = max(int(r) for t in body for r in re.findall(r"\bR(\d+)\b", t))
        kind = "consumer " + name(gmma[0]).split(".")[1] if gmma else "producer"
        waits = [t for t in body if "WARPGROUP.DEPBAR" in t]
        print(f"  {kind} loop {a}..{b}: {len(body)} instructions a step, {len(gmma)} products, waits {[w.split()[-1] for w in waits]}, highest register R{top}")
        print("   ", dict(count.most_common(14)))
        if details:
            for i, t in enumerate(body):
                if MARKS.search(t):
                    print("     ", i, t[:100])
    for at, end, sums, bad, waits, before, loads in hazards(instructions):
        print(
            f"  products {at}..{end}: {sums} sums a thread, written by others meanwhile: {bad or 'none'}; waits for products inside: {waits}; "
            f"loads in the 40 before: {len(before)}, between products: {len(loads)}"
        )
    # epilogue: from behind the wait for all products to the last store before the next loop
    for i, t in enumerate(instructions):
        if "WARPGROUP.DEPBAR.LE gsb0, 0x0" in t:
            end = i
            for j in range(i, min(i + 4000, len(instructions))):
                if "STG" in instructions[j]:
                    end = j
                if j > i and "GMMA" in instructions[j]:
                    break
            part = instructions[i : end + 1]
            count = collections.Counter(name(u).split(".")[0] for u in part)
            print(f"  epilogue {i}..{end}: {len(part)} instructions", dict(count.most_common(12)))
    return k, text


if __name__ == "__main__":
    print(triton.__version__)
    chosen = [int(a) for a in sys.argv[1:] if a.isdigit()] or range(len(BUILDS))
    for n in chosen:
        gated, build = BUILDS[n]
        report(gated, build, dump=f"{HERE}/out_{'gated' if gated else 'down'}" if n < 2 else None, details=n < 2 and "-v" in sys.argv)
