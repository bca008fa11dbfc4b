"""Random interleavings of grouped.py's three partitions with the mbarrier's parity semantics: no deadlock, right data, nothing overwritten early.

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


def run(items, stages, shared, gather, seed, turns=True):
    """items: steps of each item, 0 for a turn without one."""
    rng = random.Random(seed)
    full = [Barrier(1 + (GATHERERS if gather else 0)) for _ in range(stages)]
    empty = [Barrier(2 if shared else 1) for _ in range(stages)]
    given = [Barrier(1), Barrier(1)]
    parts = ["w0", "w1"] + ([f"g{n}" for n in range(GATHERERS)] if gather else ["x"])
    held = [dict.fromkeys(parts) for _ in range(stages)]
    copies, reading = [], []  # in flight: (stage, part, tag), and stages that products in flight read: [stage, tag]
    result = {}

    def nxt(stage, phase):
        stage += 1
        return (0, phase ^ 1) if stage == stages else (stage, phase)

    def producer():
        stage, phase = 0, 1
        for item, steps in enumerate(items):
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
        done = mine = 0
        for item, steps in enumerate(items):
            if not steps:
                continue
            if shared or mine % 2 == me:
                stage, phase = done % stages, done // stages & 1
                if not shared and turns:
                    while not given[me].passes((mine // 2 & 1) ^ (1 - me)):
                        yield
                flying = []
                for step in range(steps):
                    if step:
                        before = stage
                        stage, phase = nxt(stage, phase)
                    while not full[stage].passes(phase):
                        yield
                    look(stage, (item, step))
                    r = [stage, (item, step)]
                    reading.append(r)
                    flying.append(r)
                    yield
                    if step:  # wait(2): the products of the step before are done
                        r = flying.pop(0)
                        look(r[0], r[1])
                        reading.remove(r)
                        yield
                        empty[before].arrive()
                        yield
                if not shared:
                    given[1 - me].arrive()
                    yield
                r = flying.pop(0)
                look(r[0], r[1])
                reading.remove(r)
                yield
                empty[stage].arrive()
                result.setdefault(item, []).append(me)
                for _ in range(rng.choice((0, 3, 40))):  # epilogue
                    yield
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
                for item, steps in enumerate(items):
                    assert not steps or len(result[item]) == (2 if shared else 1)
                return
    raise AssertionError(f"stuck: {live.keys()} {items} {stages} {shared} {gather}")


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


def columns(blocks, pieces, gated, N):
    """What the producer loads as rows of weights is what the consumer writes as columns: pieces 2c, 2c + 1 are consumer c's."""
    written = []
    for block in range(blocks):
        for me in range(pieces // 2):
            first_piece = 2 * me
            if gated:
                rows = [p % 2 * N + (block * (pieces // 2) + p // 2) * 64 for p in (first_piece, first_piece + 1)]
                first_column = (block * (pieces // 2) + first_piece // 2) * 64
                assert rows == [first_column, N + first_column]
                written.append(first_column)
            else:
                rows = [(block * pieces + p) * 64 for p in (first_piece, first_piece + 1)]
                first_column = (block * pieces + first_piece) * 64
                assert rows == [first_column, first_column + 64]
                written += rows
    assert sorted(written) == list(range(0, N, 64))


if __name__ == "__main__":
    for tiles in (0, 1, 3, 4, 5, 127, 577):
        for blocks in (6, 8, 12, 16):
            for band in (1, 2, 4, 8):
                for programs in (1, 7, 132):
                    covered(tiles, blocks, band, programs)
    columns(6, 4, True, 768), columns(12, 2, True, 768), columns(8, 4, False, 2048), columns(16, 2, False, 2048)
    n = 0
    for seed in range(int(sys.argv[1]) if len(sys.argv) > 1 else 300):
        rng = random.Random(seed)
        items = [rng.choice((0, 1, 1, 2, 3, 6, 6, 16)) for _ in range(rng.randrange(1, 9))]
        for stages in (2, 3, 4, 6):
            for shared in (False, True):
                for gather in (False, True):
                    run(items, stages, shared, gather, seed)
                    n += 1
    print(n, "runs, none stuck, none wrong")
    # the model finds what it is there to find: ping-pong without turns passes on the parity of two uses before
    wrong = 0
    for seed in range(300):
        rng = random.Random(seed)
        items = [rng.choice((1, 2, 3, 6, 16)) for _ in range(8)]
        try:
            run(items, 2, False, False, seed, turns=False)
        except AssertionError:
            wrong += 1
    print(f"without turns {wrong} of 300 are wrong")
    assert wrong
