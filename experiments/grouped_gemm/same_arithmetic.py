"""Compares the expression of every output, as trees of PTX instructions from a wgmma's sums and the loaded scales to the rounding, of octavo's Triton
kernel and of grouped.py (run reference.py and compile.py first): the sets of distinct trees, with names of registers left out."""
import re, sys

def trees(path):
    defs, found, product = {}, {}, 0
    for line in open(path):
        line = line.split("//")[0].strip()
        if line.startswith("wgmma.mma_async"):
            regs = re.findall(r"%r\d+", line.split("}")[0])
            for r in regs:
                defs[r] = "SUM"
            continue
        m = re.match(r"(?:@!?%p\d+ )?([a-z][\w.:]*)\s+(.*);", line)
        if not m: continue
        op, args = m[1], [a.strip() for a in m[2].split(",")]
        if op.startswith(("ld.", "ldmatrix")) :
            for r in re.findall(r"%r\d+", m[2].split("[")[0]): defs[r] = "LOADED"
            continue
        if op.startswith("mov.b32") and len(args) == 2 and args[1].startswith("%r"):
            defs[args[0]] = defs.get(args[1], "?"); continue
        if op in ("mul.f32","mul.rn.f32","add.f32","add.rn.f32","sub.f32","neg.f32","fma.rn.f32","ex2.approx.f32","div.full.f32","ex2.approx.ftz.f32","cvt.rn.bf16x2.f32","cvt.rn.bf16.f32","rcp.approx.f32","div.rn.f32","setp.gt.f32","selp.f32"):
            tree = (op, *(defs.get(a, "IN" if a.startswith("%r") else a) for a in args[1:]))
            text = "(" + " ".join(tree) + ")"
            defs[args[0]] = text
            if op.startswith("cvt.rn.bf16"): found[text] = found.get(text, 0) + 1
    return found

for what in ("gated", "down"):
    a, b = trees(f"ref_{what}.ptx"), trees(f"out_{what}.ptx")
    # the same but for the order of a product's factors: (mul s a) for (mul a s), fma(neg s, a, 0) for fma(neg a, s, 0)
    def norm(d):
        out = set()
        for k in d:
            k = re.sub("IN|LOADED", "v", k).replace("(mul.f32 (mul.f32 v v) SUM)", "(mul.f32 SUM (mul.f32 v v))")
            out.add(k.replace("(fma.rn.f32 (neg.f32 (mul.f32 v v)) SUM ", "(fma.rn.f32 (neg.f32 SUM) (mul.f32 v v) "))
        return out

    print(what, "SAME" if norm(a) == norm(b) else "DIFFERENT", len(norm(a)), len(norm(b)), "distinct")
    for n, d in (("octavo", a), ("here", b)):
        for k, v in list(d.items())[:3]: print("  ", n, v, k[:600])
