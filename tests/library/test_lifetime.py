"""However an LLM ends, it ends: no hang, and no process, descriptor, thread or file is left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

TESTS = Path(__file__).parent.parent
SAFETY_NET_S = 180.0
"""For a process that hangs; on a quiet core each takes a second."""

PRELUDE = """
import asyncio, gc, os, sys, threading, time
import psutil
from library.stand_ins import StandIns, dying, fine, hanging
from octavo import AsyncLLM, LLM, SamplingParams
from octavo.errors import ClosedError, OctavoError

FEW = SamplingParams(temperature=0, max_tokens=4)
MANY = SamplingParams(temperature=0, max_tokens=60, ignore_eos=True)

def open_llm(kind=LLM, workers=fine):
    return kind(workers=workers, max_model_len=64, crash_dir=None)

def made(llm):
    return len(llm.generate([[1, 2]], FEW, use_tqdm=False)[0].outputs[0].token_ids)

def held():
    "Descriptors, threads and children of this process."
    me = psutil.Process()
    return me.num_fds(), me.num_threads(), len(me.children(recursive=True))

def assert_nothing_is_left():
    "A thread that was told to end, or has been joined, takes a moment to be gone."
    for _ in range(600):
        if held() == before:
            return
        time.sleep(0.1)
    raise AssertionError(f"{before} before, now {held()}")

def is_over(use):
    try:
        use()
    except ClosedError:
        return True
    return False

async def stream(engine, name="a", sampling=MANY):
    return [output async for output in engine.generate([1, 2], sampling, name)]

open_llm().close()  # what is loaded and opened once
for _ in range(600):
    if held()[1:] == (1, 0): break  # its thread takes a moment to be gone, and must not count as what there was before
    time.sleep(0.1)
before = held()
assert before[1:] == (1, 0), before
"""

COLLECTED = """
llm = open_llm()
assert made(llm) == 4
cycle = [llm]
cycle.append(cycle)
llm.itself = llm
del llm, cycle
gc.collect()
assert_nothing_is_left()
"""
DROPPED = """
llm = open_llm()
del llm
assert_nothing_is_left()
"""
CLOSED = """
llm = open_llm()
threads = [threading.Thread(target=llm.close) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
llm.close()
assert_nothing_is_left()
started = StandIns.started
assert is_over(lambda: made(llm))
assert is_over(lambda: llm.chat([{"role": "user", "content": "a"}], FEW))
assert is_over(llm.reset_prefix_cache)
assert llm.get_tokenizer().encode("a") == [97], "what needs no worker is still there"
assert StandIns.started == started
"""
CLOSED_WHILE_IT_GENERATES = """
for workers in (hanging, dying):
    llm = open_llm(workers=workers)
    over = []
    thread = threading.Thread(target=lambda: over.append(is_over(lambda: made(llm))))
    thread.start()
    while not llm._engine.has_work: time.sleep(0.01)
    if workers is dying:
        while not llm._engine.status().recovering: time.sleep(0.001)
    llm.close()
    started = StandIns.started
    thread.join()
    assert over == [True]
    assert_nothing_is_left()
    assert StandIns.started == started
"""
FORKED = """
llm = open_llm()
assert made(llm) == 4
child = os.fork()
if not child:
    over = is_over(lambda: made(llm))
    llm.close()
    sys.exit(7 if over else 8)  # runs what is registered for exit
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
child = os.fork()
if not child:
    del llm
    gc.collect()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert made(llm) == 4, "the worker of the parent lives"
llm.close()
assert_nothing_is_left()
"""
IN_A_DAEMON = """
llm = open_llm(workers=hanging)
threading.Thread(target=lambda: is_over(lambda: made(llm)), daemon=True).start()
while not llm._engine.has_work: time.sleep(0.01)
"""
NOT_CLOSED = """
llm = open_llm()
engine = open_llm(AsyncLLM)
engine.itself = engine
assert made(llm) == 4
assert asyncio.run(stream(engine, sampling=FEW))[-1].finished
"""
STREAMS_SHUT_DOWN = """
async def main():
    engine = open_llm(AsyncLLM, hanging)
    tasks = [asyncio.create_task(stream(engine, str(number))) for number in range(3)]
    while (status := engine._engine.status()).running + status.waiting < 3: await asyncio.sleep(0.01)
    engine.shutdown()
    engine.shutdown()
    assert all(isinstance(end, ClosedError) for end in await asyncio.gather(*tasks, return_exceptions=True))
    try:
        await stream(engine)
    except ClosedError:
        return
    raise AssertionError("it goes on")
asyncio.run(main())
assert_nothing_is_left()
"""
STREAMS_COLLECTED = """
engine = open_llm(AsyncLLM)
assert asyncio.run(stream(engine, sampling=FEW))[-1].finished
assert asyncio.run(stream(engine, sampling=FEW))[-1].finished, "in another event loop"
cycle = [engine]
cycle.append(cycle)
del engine, cycle
gc.collect()
assert_nothing_is_left()
"""
STREAMS_FORKED = """
engine = open_llm(AsyncLLM)
child = os.fork()
if not child:
    try:
        asyncio.run(stream(engine))
    except ClosedError:
        sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert asyncio.run(stream(engine, sampling=FEW))[-1].finished
engine.shutdown()
assert_nothing_is_left()
"""
CASES = {name.lower(): body for name, body in list(globals().items()) if name.isupper() and isinstance(body, str)}
del CASES["prelude"]


@pytest.mark.parametrize("body", CASES.values(), ids=CASES.keys())
def test_nothing_is_left(body: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + body],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=SAFETY_NET_S,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, "the log may speak of workers that died; nothing else is said"
    end_s = time.monotonic() + SAFETY_NET_S
    while alive(tmp_path):  # a child whose parent has exited takes a moment to see it
        assert time.monotonic() < end_s, alive(tmp_path)
        time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_process_does_not_keep_the_worker(tmp_path: Path) -> None:
    """The parent is killed, the fork lives on: the worker ends all the same."""
    body = """
llm = open_llm()
if not os.fork():
    time.sleep(100)
print(next(each.pid for each in psutil.Process().children() if each.cmdline()[-1] == "engine.children"), flush=True)
time.sleep(100)
"""
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + body],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        worker = psutil.Process(int(process.stdout.readline()))
        process.kill()
        try:
            worker.wait(SAFETY_NET_S)
        finally:
            os.killpg(process.pid, 9)


def environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "TMPDIR": str(folder)}


def alive(folder: Path) -> list[int]:
    """Processes that were started with `folder` as their place for temporary files."""
    return [process.pid for process in psutil.process_iter() if str(folder) in environ_of(process)]


def environ_of(process: psutil.Process) -> str:
    try:
        return str(process.environ().get("TMPDIR", ""))
    except psutil.Error:
        return ""
