"""Processes that compile kernels into Triton's cache, where this one finds them.

A sixth of a compilation or more is Python and holds the interpreter's lock, for which dozens of threads of one process wait. A process is
forked off the one that asks, once that has imported the kernels and before it opens a device: it has imported all that it needs, and shares
the memory that this takes. In it a thread for each pipe compiles what comes over it, one kernel after the other.
"""

from __future__ import annotations

import contextlib
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
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, NoReturn

import triton
from triton.runtime.cache import get_cache_manager

log = logging.getLogger(__name__)

MOST_PROCESSES = 8
"""More than the kernels of a start keep busy."""
CORES_EACH = 2
"""For which there is one process. On fewer there is none."""
THREADS_EACH = 2
"""One is in C++ or waits for ptxas, while the other is in Python."""
ANSWER_S = 120.0
"""How long a process may take for a kernel, so that nobody waits for it for ever."""


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
    """One such process, forked off this one, which has opened no device.

    Raises:
        OSError: the system has no room for another process.
    """

    def __init__(self) -> None:
        pairs = [multiprocessing.Pipe() for _ in range(THREADS_EACH)]
        self.connections = [ours for ours, _ in pairs]
        theirs = [end for _, end in pairs]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # or a process would go on as this one does
        try:
            self._pid = _fork()
            if self._pid == 0:
                _live(theirs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for end in theirs:
            end.close()

    def kill(self) -> None:
        """Kill it, and wait: what it had written is whole, and what it has not, somebody else compiles."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # where SIGCHLD is ignored
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        for connection in self.connections:
            connection.close()


class Compilers:
    """Places where kernels are compiled: threads of this process, or of others that are forked off it now.

    Args:
        threads: of those that call `compile`.
        processes: as many others, if the system has room for all of them. With one or more, all kernels are compiled there, and none here.
    """

    def __init__(self, threads: int, processes: int = 0) -> None:
        self._processes = _fork_processes(processes)
        self._free: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        """None: in this process."""
        for process in self._processes:
            for connection in process.connections:
                self._free.put(connection)
        for _ in range(0 if self._processes else threads):
            self._free.put(None)

    def compile(self, job: Job, compile_kernel: Callable[[], Any]) -> Any:
        """What `compile_kernel` returns, called once a place is free: there, or here after another process has done `job`, which is the same."""
        place = self._free.get()
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
        while self._processes:
            self._processes.pop().kill()


def _fork_processes(count: int) -> list[CompilerProcess]:
    """`count` of them, or none where the system has no room for as many."""
    processes: list[CompilerProcess] = []
    try:
        for _ in range(count):
            processes.append(CompilerProcess())
    except OSError as exc:
        log.warning("kernels are compiled here: no room for %d processes: %s", count, exc)
        while processes:  # what they take is what is missing next
            processes.pop().kill()
    return processes


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 warns where there are threads: those of a worker that has opened no device wait for its parent, and hold nothing.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


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
    """Compile what comes, answering with the seconds that it took or the error; one job is read at a time, as modules are imported and sources hashed.

    The process ends with it, and says nothing: the last words of the one that asks are its own.
    """
    try:
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
    finally:
        os._exit(0)


def _live(connections: Sequence[Connection]) -> NoReturn:
    """Be one of the processes, until the other ends are closed, even in the middle of a kernel. Nothing of what this one was forked off goes on."""
    try:
        gc.disable()  # it lives for seconds, and a collection would write to, and so copy, what it shares
        _forget_files({connection.fileno() for connection in connections})
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
        triton.knobs.compilation.listener = None  # the process that asks tells what is compiled
        reading = threading.Lock()
        poll = select.poll()
        for connection in connections:
            poll.register(connection.fileno(), 0)
            threading.Thread(target=_serve, args=(connection, reading), daemon=True).start()
        poll.poll()
    finally:
        os._exit(0)


def _forget_files(kept: set[int]) -> None:
    """Close all files but `kept` and standard error: whoever waits for the end of one waits for no other process than this was forked off.

    Their numbers stay taken, so that no object of the other process's closes a file that is opened here.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept | {2, nothing}:
            with contextlib.suppress(OSError):  # that of the list itself
                os.dup2(nothing, int(name))
