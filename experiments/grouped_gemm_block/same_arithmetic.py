"""Compares the expression of every output, as trees of PTX instructions from a wgmma's fresh products and the loaded scales to the rounding, of
octavo's Triton kernel and of grouped_block.py (run reference.py and compile.py first): the sets of distinct trees, with names of registers left out.

P: a number that a wgmma chain gives, which starts from zero (checked: its first instruction does not add). L: a loaded number. S: a number loaded
from shared memory where, in octavo's, all that is stored of f32 is a product of two loaded numbers. sum: what a loop carries, or zero."""
import os, re, sys

HERE = os.path.dirname(os.path.abspath(__file__))
KEPT = {"mul.f32","mul.rn.f32","add.f32","add.rn.f32","sub.f32","neg.f32","fma.rn.f32","ex2.approx.f32","div.full.f32","ex2.approx.ftz.f32","cvt.rn.bf16x2.f32","cvt.rn.bf16.f32","rcp.approx.f32","div.rn.f32","setp.gt.f32","selp.f32"}

def trees(path):
    """Thrice over the text, as blocks may stand before those that their numbers come from."""
    defs = {}
    for _ in range(3):
        defs, *rest = walk(path, defs)
    return rest

def walk(path, defs):
    found, stored, chains = {}, {}, []
    for line in open(path):
        line = line.split("//")[0].strip()
        if line.startswith("wgmma.mma_async"):
            regs = re.findall(r"%r\d+", line.split("}")[0])
            first = re.search(r"\},\s*%rd\d+,\s*%rd\d+,\s*([^,]+),", line)[1]
            chains.append((line.split()[0], regs[0], first))
            for r in regs: defs[r] = "P"
            continue
        m = re.match(r"(?:@!?%p\d+ )?([a-z][\w.:]*)\s+(.*);", line)
        if not m: continue
        op, args = m[1], [a.strip() for a in m[2].split(",")]
        if op.startswith(("ld.", "ldmatrix")):
            for r in re.findall(r"%r\d+", m[2].split("[")[0]): defs[r] = "S" if ".shared" in op else "L"
            continue
        if op.startswith("st.shared"):
            for r in re.findall(r"%r\d+", m[2].split("]")[1]):
                t = defs.get(r, "?")
                if "f32" in t: stored[t] = stored.get(t, 0) + 1
            continue
        if op in ("mov.b32", "mov.f32") and len(args) == 2:
            value = defs.get(args[1], "sum" if args[1].startswith("%r") else args[1])
            # of what a loop carries: the sum, not what it starts from
            if not ("P" in defs.get(args[0], "") and "P" not in value): defs[args[0]] = value
            continue
        if op in KEPT:
            parts = [defs.get(a, "sum" if a.startswith("%r") else a) for a in args[1:]]
            if op in ("mul.f32", "fma.rn.f32"): parts[:2] = sorted(parts[:2])  # factors in any order
            if op == "fma.rn.f32" and "P" in parts[:2] and (parts[2] in ("sum", "?", "0", "0f00000000") or re.match(r"\(fma.rn.f32 [^?]* sum\)$", parts[2])): parts[2] = "sum"
            text = "(" + " ".join((op, *parts)) + ")"
            defs[args[0]] = text
            if op.startswith("cvt.rn.bf16"): found[text] = found.get(text, 0) + 1
    return defs, found, stored, chains

def norm(d, product):
    out = set()
    for k in d:
        if "P" not in k: continue  # an item of no steps, which there is not
        k = k.replace(product, "SCALE")
        for zero in ("0f00000000", "0", "?"): k = k.replace(f"SCALE {zero})", "SCALE sum)").replace(f"P {zero})", "P sum)")
        k = re.sub(r"\(fma\.rn\.f32 (SCALE P|P SCALE) sum\)", "(fma P SCALE sum)", k)
        out.add(k)
    return out

for what in ("down", "gated"):
    (a, stored, chains_a), (b, _, chains_b) = trees(f"{HERE}/ref_{what}.ptx"), trees(f"{HERE}/out_{what}.ptx")
    print(what, "octavo stores of scales:", {k: v for k, v in stored.items()})
    for n, c in (("octavo", chains_a), ("here", chains_b)):
        print("  ", n, {k: sum(x[0] == k for x in c) for k in {x[0] for x in c}}, "scale-d of each four:", sorted({tuple(x[2] for x in c[i : i + 4]) for i in range(0, len(c), 4)}))
    x, y = norm(a, "S"), norm(b, "(mul.f32 S S)")
    print("  ", "SAME" if x == y else "DIFFERENT", len(x), len(y), "distinct")
    for n, d in (("octavo", x), ("here", y)):
        for k in list(d)[:4]: print("  ", n, k[:700])
