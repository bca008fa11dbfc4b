"""Random interleavings of grouped_block.py's three partitions with the mbarrier's parity semantics: no deadlock, right data, nothing overwritten early.

Products of a consumer are asynchronous here too: they read their stage at any time between issue and wait. Where rows are gathered, full
barriers take an arrival of each of (here 3) threads of the producer, which comes when that thread's copies have ended.
"""

import random
import sys


class Barrier:
    def __init__(self, count):
        self.count, self.pending, self.tx, self.phase = count, count, 0, 0  # phase: completed phases

    def settle(self):
        assert self.tx >= 0
        if self.pending == 0 and self.tx == 0:
            self.phase += 1
            self.pending = self.count

    def arrive(self):
        assert self.pending > 0, "more arrivals than expected"
        self.pending -= 1
        self.settle()

    def passes(self, parity):  # try_wait.parity: the phase of that parity has completed
        return (self.phase - 1) % 2 == parity % 2


GATHERERS = 3


def run(items, stages, skew, gather, seed):
    """items: (steps, rows) of each item, no steps for a turn without one."""
    rng = random.Random(seed)
    full = [Barrier(1 + GATHERERS) for _ in range(stages)]
    empty = [Barrier(2) for _ in range(stages)]
    ahead = Barrier(1)
    parts = ["w0", "w1"] + [f"g{n}" for n in range(GATHERERS)] + ([] if gather else ["x"])
    held = [dict.fromkeys(parts) for _ in range(stages)]
    copies, reading = [], []  # in flight: (stage, part, tag), and stages that products in flight read: [stage, tag]
    result = {}
    early = 0

    def nxt(stage, phase):
        stage += 1
        return (0, phase ^ 1) if stage == stages else (stage, phase)

    def producer():
        stage, phase = 0, 1
        for item, (steps, _) in enumerate(items):
            for step in range(steps):
                while not empty[stage].passes(phase):
                    yield
                full[stage].tx += sum(not p.startswith("g") for p in parts)
                full[stage].arrive()
                yield
                for p in rng.sample(parts, len(parts)):
                    copies.append((stage, p, (item, step)))
                    yield
                stage, phase = nxt(stage, phase)

    def look(stage, tag):
        assert all(v == tag for v in held[stage].values()), (held[stage], tag)

    def consumer(me):
        nonlocal early
        done = mine = 0
        for item, (steps, rows) in enumerate(items):
            if not steps:
                continue
            stage, phase = done % stages, done // stages & 1
            if rows > 64 * me:
                if skew and me == 1 and steps >= stages:
                    while not ahead.passes(mine & 1):
                        yield
                    early += ahead.phase < mine + 1
                while not full[stage].passes(phase):
                    yield
                for step in range(steps):
                    after, after_phase = nxt(stage, phase)
                    for part in range(2):
                        look(stage, (item, step))
                        r = [stage, (item, step)]
                        reading.append(r)
                        yield
                        if part:
                            if skew and me == 0 and step == skew - 1:
                                ahead.arrive()
                                yield
                            if step + 1 < steps:
                                while not full[after].passes(after_phase):
                                    yield
                        look(stage, (item, step))
                        reading.remove(r)
                        yield
                    empty[stage].arrive()
                    yield
                    stage, phase = after, after_phase
                result.setdefault(item, []).append(me)
                for _ in range(rng.choice((0, 3, 40))):  # epilogue
                    yield
            else:
                for step in range(steps):
                    while not full[stage].passes(phase):
                        yield
                    empty[stage].arrive()
                    yield
                    stage, phase = nxt(stage, phase)
            done += steps
            mine += 1

    def land():
        stage, part, tag = copies.pop(rng.randrange(len(copies)))
        assert not any(r[0] == stage for r in reading), "overwritten while read"
        held[stage][part] = tag
        if part.startswith("g"):
            full[stage].arrive()
        else:
            full[stage].tx -= 1
            full[stage].settle()

    live = {"p": producer(), 0: consumer(0), 1: consumer(1)}
    weights = {n: rng.choice((1, 1, 5, 30)) for n in ("p", 0, 1, "m")}
    for _ in range(300000):
        names = list(live) + ["m"]
        name = rng.choices(names, [weights[n] for n in names])[0]
        if name == "m":
            if copies:
                land()
            continue
        try:
            next(live[name])
        except StopIteration:
            del live[name]
            if not live:
                assert not copies
                for item, (steps, rows) in enumerate(items):
                    assert not steps or len(result[item]) == 1 + (rows > 64)
                return early
    raise AssertionError(f"stuck: {live.keys()} {items} {stages} {skew} {gather}")


def covered(tiles, blocks, band, programs):
    """`_entry` over all turns and programs: every (tile, block of columns) once."""
    turns = -(-(-(-tiles // band) * band * blocks) // programs)
    seen = []
    for program in range(programs):
        for turn in range(turns):
            item = turn * programs + (program + turn * 37) % programs
            tile, block = item // (band * blocks) * band + item % band, item % (band * blocks) // band
            if tile < tiles:
                seen.append((tile, block))
    assert sorted(seen) == [(t, b) for t in range(tiles) for b in range(blocks)]


def columns(blocks, gated, N):
    """What the producer loads as rows of weights, and of scales, is what the consumers write as columns."""
    written = []
    for block in range(blocks):
        for expert in (0, 5):
            w_row = expert * 2 * N + block * 128 if gated else expert * N + block * 256
            second = N if gated else 128
            for part in range(2):
                row = w_row + part * second
                column = block * 128 if gated else block * 256 + part * 128
                parts = 2 if gated else 1
                assert row == (expert * parts + (part if gated else 0)) * N + column
                # octavo's: expert * parts * cdiv(N, 128) + first_column // 128, and for up + cdiv(N, 128)
                assert w_row // 128 + part * (second // 128) == expert * parts * (N // 128) + column // 128 + (N // 128 if gated and part else 0)
                if not expert and not (gated and part):
                    written.append(column)
    assert sorted(written) == list(range(0, N, 128))


if __name__ == "__main__":
    for tiles in (0, 1, 3, 4, 5, 127, 577):
        for blocks in (3, 6, 8):
            for band in (1, 2, 4, 8):
                for programs in (1, 7, 132):
                    covered(tiles, blocks, band, programs)
    columns(6, True, 768), columns(8, False, 2048)
    n = early = 0
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 200):
        rng = random.Random(seed)
        # K, and so the steps of an item, are the same for all items of a launch
        steps = rng.choice((1, 2, 3, 4, 6, 6, 16))
        items = [(rng.choice((0, steps, steps, steps)), rng.choice((1, 64, 65, 128, 128, 128))) for _ in range(rng.randrange(1, 12))]
        for stages in (2, 3, 4):
            for skew in range(stages):
                for gather in (False, True):
                    early += run(items, stages, skew, gather, seed)
                    n += 1
    print(n, "runs, none stuck, none wrong;", early, "items begun early by consumer 1")
