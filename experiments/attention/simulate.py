"""Random interleavings of attend.py's three partitions with the mbarrier's parity semantics: no deadlock, right data, nothing overwritten early."""

import random


class Barrier:
    def __init__(self, count):
        self.count, self.pending, self.tx, self.phase = count, count, 0, 0  # phase: completed phases

    def settle(self):
        if self.pending == 0 and self.tx == 0:
            self.phase += 1
            self.pending = self.count

    def arrive(self):
        assert self.pending > 0, "more arrivals than expected"
        self.pending -= 1
        self.settle()

    def passes(self, parity):  # try_wait.parity: the phase of that parity has completed
        return (self.phase - 1) % 2 == parity % 2


def run(items, stages, pingpong, seed):
    rng = random.Random(seed)
    full, empty = [Barrier(1) for _ in range(stages)], [Barrier(2) for _ in range(stages)]
    k, v = [None] * stages, [None] * stages
    named = {8: [0, 0, 0], 9: [0, 0, 0]}  # arrivals of the giver, of the taker, generation
    copies, readers = [], []  # in flight; (kind, stage, tag) that products in flight read

    def nxt(stage, phase):
        stage += 1
        return (0, phase ^ 1) if stage == stages else (stage, phase)

    def producer():
        stage, phase = 0, 1
        for item, tiles in enumerate(items):
            for unit in range(tiles + 1 if tiles else 0):
                while not empty[stage].passes(phase):
                    yield
                jobs = ([("k", stage, (item, unit))] if unit < tiles else []) + ([("v", stage, (item, unit - 1))] if unit else [])
                full[stage].tx += len(jobs)
                full[stage].arrive()
                yield
                for job in jobs:
                    copies.append(job)
                    yield
                stage, phase = nxt(stage, phase)

    def consumer(me):
        stage, phase = 0, 0

        def give(b):
            named[b][0] += 1
            assert named[b][0] == 1, "two turns given"
            if named[b][1]:
                named[b][:] = [0, 0, named[b][2] + 1]

        def take(b):
            generation = named[b][2]
            named[b][1] += 1
            if named[b][0]:
                named[b][:] = [0, 0, generation + 1]
            return generation

        for item, tiles in enumerate(items):
            if not tiles:
                continue
            while not full[stage].passes(phase):
                yield
            assert k[stage] == (item, 0)
            r = ("k", stage, k[stage]); readers.append(r); yield; readers.remove(r)
            empty[stage].arrive(); yield
            stage, phase = nxt(stage, phase)
            while not full[stage].passes(phase):
                yield
            if pingpong and me == 1 and tiles > 1:
                give(8)
            for tile in range(1, tiles):
                if pingpong:
                    b = 8 + me
                    g = take(b)
                    while named[b][2] == g:
                        yield
                assert k[stage] == (item, tile) and v[stage] == (item, tile - 1), (k, v, item, tile)
                r = [("k", stage, k[stage]), ("v", stage, v[stage])]; readers.extend(r); yield
                if pingpong:
                    if me == 0: give(9)
                    elif tile + 1 < tiles: give(8)
                yield
                ns, np = nxt(stage, phase)
                while not full[ns].passes(np):
                    yield
                for x in r: readers.remove(x)
                empty[stage].arrive(); yield
                stage, phase = ns, np
            assert v[stage] == (item, tiles - 1)
            r = ("v", stage, v[stage]); readers.append(r); yield; readers.remove(r)
            empty[stage].arrive(); yield
            stage, phase = nxt(stage, phase)

    def memory():
        while True:
            if copies:
                kind, stage, tag = copies.pop(rng.randrange(len(copies)))
                assert not any(x[0] == kind and x[1] == stage for x in readers), "overwritten while read"
                (k if kind == "k" else v)[stage] = tag
                full[stage].tx -= 1
                full[stage].settle()
            yield

    live = {"p": producer(), 0: consumer(0), 1: consumer(1)}
    mem, idle = memory(), 0
    weights = {n: rng.choice((1, 1, 5, 30)) for n in ("p", 0, 1, "m")}
    for _ in range(400000):
        names = list(live) + ["m"]
        name = rng.choices(names, [weights[n] for n in names])[0]
        if name == "m":
            next(mem)
            continue
        try:
            next(live[name])
        except StopIteration:
            del live[name]
            if not live:
                assert not copies
                return
    raise AssertionError(f"stuck: {live.keys()} {items} {stages}")


if __name__ == "__main__":
    n = 0
    for seed in range(600):
        rng = random.Random(seed)
        items = [rng.choice((0, 1, 1, 2, 3, 5, 9, 17)) for _ in range(rng.randrange(1, 6))]
        for stages in (2, 3, 4):
            for pingpong in (False, True):
                run(items, stages, pingpong, seed)
                n += 1
    print(n, "runs, none stuck, none wrong")
