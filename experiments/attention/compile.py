"""Compiles attend.py for sm_90a without a GPU and says what came out.

PYTHONPATH=TRITON_3.6:src:.:experiments/attention python -W ignore experiments/attention/compile.py
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


def compiled(**options):
    triton.runtime.driver.set_active(NoGpu())
    import attend as A

    b = lambda *s: torch.empty(s, dtype=torch.bfloat16)
    cache = b(2, 16, 64, 4, 128)
    tables, work = torch.zeros((4, 32), dtype=torch.int32), torch.zeros((64, 8), dtype=torch.int32)
    stats, accs = torch.empty((64, 32, 2)), torch.empty((64, 32, 128))
    q = b(64, 32, 128)
    return A.attend(q, cache, tables, work, q, stats, accs, shared=8, compile_only=True, **options)


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


def loops(instructions, labels, least=60):
    found = []
    for i, t in enumerate(instructions):
        m = re.search(r"BRA.*?\(?(\.L_x_\d+)", t)
        if m and m[1] in labels and labels[m[1]] <= i and i - labels[m[1]] >= least:
            found.append((labels[m[1]], i))
    return found


def name(t):
    return re.sub(r"^@!?U?P\w+\s+", "", t).split()[0]


MARKS = re.compile(r"HGMMA|DEPBAR|SYNCS|BAR\.|WARPSYNC|WARPGROUP|FENCE|BRA|USETMAXREG|HMMA|UTMALDG|ACQBULK|PREEXIT|CALL")
BUILDS = (
    {},
    dict(STAGES=4),
    dict(STAGES=2),
    dict(PINGPONG=True),
    dict(PINGPONG=True, STAGES=4),
    dict(Q_REGS=False),
    dict(ACC_SHARED=False, Q_REGS=False),
    dict(ACC_SHARED=False, Q_REGS=False, STAGES=4),
)



def written(t):
    """Registers that an instruction writes, roughly: its first operand, and those after it of wide loads and products."""
    t = re.sub(r"^@!?U?P\w+\s+", "", t)
    op, _, rest = t.partition(" ")
    first = rest.split(",")[0].strip()
    m = re.fullmatch(r"R(\d+)(\.\w+)?", first)
    if not m or op.split(".")[0] in ("ST", "STS", "STG", "STSM", "SYNCS", "BRA", "RED", "ISETP", "FSETP"):
        return set()
    wide = 1
    if op.startswith("HGMMA"):
        wide = {"64x64x16": 32, "64x128x16": 64}[op.split(".")[1]]
    elif op.startswith(("HMMA", "LDSM", "LDS.128", "LDG.E.128")) or ".128" in op:
        wide = 4
    elif ".64" in op or ".WIDE" in op or op.startswith("CS2R"):
        wide = 2
    return set(range(int(m[1]), int(m[1]) + wide))


def hazards(body):
    """Writes, in program order, to registers of wgmmas in flight: of their sums, and of left operands in registers."""
    groups, current, found, mufu = [], set(), [], 0
    overlapped = 0
    for i, t in enumerate(body):
        op = name(t)
        if op.startswith("HGMMA"):
            m = re.match(r"HGMMA\.(\S+?)\.F32\.BF16 R(\d+), (?:R(\d+)|gdesc)", re.sub(r"^@!?U?P\w+\s+", "", t))
            wide = {"64x64x16": 32, "64x128x16": 64}[m[1]]
            current |= set(range(int(m[2]), int(m[2]) + wide))
            if m[3]:
                current |= set(range(int(m[3]), int(m[3]) + 4))
            if "gsb0" in t:
                groups.append(current)
                current = set()
            continue
        if "DEPBAR.LE gsb0" in t:
            left = int(t.split(",")[1], 16)
            groups = groups[len(groups) - left :] if left else []
        busy = set().union(*groups, current) if groups or current else set()
        if groups and op.startswith("MUFU"):
            overlapped += 1
        if written(t) & busy:
            found.append((i, t))
    return found, overlapped


def main_path(instructions, labels, a, b):
    """Instructions of a turn that takes every forward branch within the loop: no mask, no merge."""
    skipped = set()
    for i in range(a, b):
        m = re.match(r"@\S+ BRA.*?\(?(\.L_x_\d+)", instructions[i])
        if m and m[1] in labels and i < labels[m[1]] <= b:
            skipped |= set(range(i + 1, labels[m[1]]))
    return [t for i, t in enumerate(instructions[a : b + 1], a) if i not in skipped]


def report(options, dump=None, details=True):
    try:
        k = compiled(**options)
    except Exception as e:
        while e is not None:
            print(options, "FAILED", type(e).__name__, str(e)[-1200:])
            e = e.__cause__
        return None
    text, usage = disassembled(k, dump)
    instructions, labels = parse(text)
    local = sum(name(t).split(".")[0] in ("LDL", "STL") for t in instructions)
    print(options, usage, "shared", k.metadata.shared, "instructions", len(instructions), "LDL+STL", local)
    heads = set()
    for a, b in loops(instructions, labels):
        body = instructions[a : b + 1]
        if a in heads or b - a > 1000 or sum("HGMMA" in t for t in body) != 12 or any("STG" in t for t in body):
            continue
        heads.add(a)
        path = main_path(instructions, labels, a, b)
        count = collections.Counter(name(t).split(".")[0] for t in path)
        top = max(int(r) for t in body for r in re.findall(r"\bR(\d+)\b", t))
        _, overlapped = hazards(path)
        found, _ = hazards(body)
        control, _ = hazards([t for t in body if 'DEPBAR' not in t])
        assert control, 'the check finds nothing where nothing is waited for'
        print(f"  consumer's loop {a}..{b}: {len(path)} instructions a tile without mask and merge, highest register R{top},")
        print(f"    exponentials issued beside a product in flight: {overlapped}; writes to registers in flight: {found or 'none'}")
        print("   ", dict(count.most_common(30)))
        if details:
            for i, t in enumerate(body):
                if MARKS.search(t):
                    print("     ", i, t[:110])
    return k, text


if __name__ == "__main__":
    print(triton.__version__)
    for n, build in enumerate(BUILDS):
        report(build, dump="out" if n == 0 else None, details=n == 0 or "-v" in sys.argv)
