"""Processes that compile kernels into Triton's cache, where this one finds them.

A sixth of a compilation or more is Python and holds the interpreter's lock, for which dozens of threads of one process wait.
`python -m octavo.ops.compiler_process FD...` is the other end: a thread for each socket compiles what comes over it, one kernel after
the other. It opens no device.
"""

from __future__ import annotations

import gc
import hashlib
import inspect
import io
import logging
import multiprocessing
import os
import pickle
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import triton
from triton.runtime.cache import get_cache_manager

log = logging.getLogger(__name__)

MOST_PROCESSES = 8
"""Each holds 0.3 GB of its own while kernels are compiled: what PyTorch, which kernels import, and Triton take."""
CORES_EACH = 4
"""For which there is one process. On fewer there is none: what it imports would take longer than it gains."""
THREADS_EACH = 2
"""One is in C++ or waits for ptxas, while the other is in Python."""
OWN_THREADS = 4
"""That compile in this process beside the others: enough for a few kernels, and few enough for the thread that tells what to compile."""
ANSWER_S = 120.0
"""How long a process may take for a kernel, importing what it needs included, so that nobody waits for it for ever."""


class Job(NamedTuple):
    """What `triton.compile` is asked for."""

    key: str
    """Under which Triton's cache will have it."""
    source: Any
    target: Any
    options: dict[str, Any]
    variables: dict[str, str]
    """Of the environment, as far as they change what comes out."""
    hashed: tuple[Any, ...]
    """Kernels, this one the last, in the order in which Triton has hashed their sources. A key depends on it: the hash of a kernel has the global
    constants of those functions that it calls which were hashed before it (3.6, 3.7)."""

    @classmethod
    def of(cls, key: str, compile_kernel: Callable[[], Any], hashed: Iterable[Any]) -> Job:
        """What `compile_kernel` does, which Triton hands to an `AsyncCompileMode`, after the kernels that are `hashed`."""
        captured = inspect.getclosurevars(compile_kernel).nonlocals
        source = captured["src"]
        kernels = tuple(dict.fromkeys([*hashed, source.fn]))
        return cls(key, source, captured["target"], vars(captured["options"]), captured["env_vars"], kernels)

    @property
    def is_done(self) -> bool:
        """Whether the cache has it, in a file that is named by as much of the kernel's name as Triton takes."""
        manager = get_cache_manager(hashlib.sha256(self.key.encode()).hexdigest())
        return manager.get_file(f"{self.source.name[:150]}.json") is not None

    def hash_sources(self) -> None:
        """Hash them as they were hashed where the job comes from."""
        for kernel in self.hashed:
            kernel.cache_key  # noqa: B018

    def run(self) -> None:
        """Compile it into the cache; opens no device."""
        triton.runtime.driver.set_active(_Target(self.target))
        triton.compile(self.source, target=self.target, options=self.options, _env_vars=self.variables)


class _Target:
    """As much of a driver as a compilation asks for."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_target(self) -> Any:
        return self._target


class CompilerProcess:
    """One such process, which is not waited for until it is asked for something.

    Raises:
        OSError: the system has no room for another process.
    """

    def __init__(self) -> None:
        pairs = [multiprocessing.Pipe() for _ in range(THREADS_EACH)]
        self.connections = [ours for ours, _ in pairs]
        theirs = [end for _, end in pairs]
        numbers = [end.fileno() for end in theirs]
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "octavo.ops.compiler_process", *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                pass_fds=numbers,
            )
        finally:
            for end in theirs:
                end.close()

    def kill(self) -> None:
        """Kill it, and wait: what it had written is whole, and what it has not, somebody else compiles."""
        self._child.kill()
        self._child.wait()
        for connection in self.connections:
            connection.close()


class Compilers:
    """Places where kernels are compiled: threads of this process and, once those have all been taken, of others, which start one by one.

    Args:
        threads: of those that call `compile`.
    """

    def __init__(self, threads: int) -> None:
        self._most = min(MOST_PROCESSES, threads // CORES_EACH)
        self._processes: list[CompilerProcess] = []
        self._lock = threading.Lock()
        self._free: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        """None: in this process."""
        for _ in range(OWN_THREADS if self._most else threads):
            self._free.put(None)

    def compile(self, job: Job, compile_kernel: Callable[[], Any]) -> Any:
        """What `compile_kernel` returns, called once a place is free: there, or here after another process has done `job`, which is the same."""
        place = self._take()
        try:
            if place is None:
                return compile_kernel()
            if not _compile_at(place, job):
                place = None
        finally:
            self._free.put(place)
        return compile_kernel()

    def close(self) -> None:
        """End the processes; nothing is compiled any more."""
        for process in self._processes:
            process.kill()

    def _take(self) -> Connection | None:
        try:
            return self._free.get_nowait()
        except queue.Empty:
            self._start_another()
            return self._free.get()

    def _start_another(self) -> None:
        with self._lock:
            if len(self._processes) == self._most:
                return
            try:
                process = CompilerProcess()
            except OSError as exc:
                log.warning("no process can be started that compiles kernels: %s", exc)
                self._most = len(self._processes)
                return
            self._processes.append(process)
        for connection in process.connections:
            self._free.put(connection)


class _Pickler(pickle.Pickler):
    """Writes kernels as their names."""

    def reducer_override(self, value: object) -> Any:
        return value.__qualname__ if isinstance(value, triton.JITFunction) else NotImplemented


def _compile_at(connection: Connection, job: Job) -> bool:
    """Have the process at the other end compile `job`; whether it answers, and another can be sent. Tells what comes of it."""
    name = job.source.name
    try:
        connection.send_bytes(_message(job))
        if not connection.poll(ANSWER_S):
            raise TimeoutError(f"no answer within {ANSWER_S:.0f} s")
        answer = connection.recv()
    except (pickle.PicklingError, TypeError, AttributeError) as exc:
        log.warning("kernel %s is compiled here: it cannot be sent: %s", name, exc)
        return True
    except (OSError, EOFError) as exc:
        log.warning("kernel %s is compiled here: the process that was to do it has failed: %r", name, exc)
        return False
    match answer:
        case float() if job.is_done:
            log.debug("kernel %s compiled in %.2f s", name, answer)
            return True
        case float():
            log.warning("kernel %s is compiled here: another process came to another key", name)
            return False
    log.warning("kernel %s is compiled here: another process could not: %s", name, answer)
    return True


def _message(job: Job) -> bytes:
    message = io.BytesIO()
    _Pickler(message).dump(tuple(job))
    return message.getvalue()


def _serve(connection: Connection, reading: threading.Lock) -> None:
    """Compile what comes, answering with the seconds that it took or the error; one job is read at a time, as modules are imported and sources hashed."""
    while True:
        message = connection.recv_bytes()
        try:
            with reading:
                job = Job(*pickle.loads(message))
                job.hash_sources()
            began = time.perf_counter()
            job.run()
            answer: float | str = time.perf_counter() - began
        except Exception as exc:
            answer = f"{type(exc).__name__}: {exc}"
        connection.send(answer)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    gc.disable()  # it lives for seconds, and collections go over all that PyTorch is made of
    connections = [Connection(int(number)) for number in sys.argv[1:]]
    reading = threading.Lock()
    poll = select.poll()
    for connection in connections:
        poll.register(connection.fileno(), 0)
        threading.Thread(target=_serve, args=(connection, reading), daemon=True).start()
    poll.poll()  # until the other end is closed, even in the middle of a kernel
    os._exit(0)


if __name__ == "__main__":
    main()
