"""A process that has imported xgrammar, and forks another one in milliseconds whenever a grammar needs it."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import threading
from typing import Any, Protocol

import msgspec

from octavo.wire import Wire

ENVIRONMENT = {
    # One thread, or it could not fork.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # tvm_ffi would compile an extension of PyTorch, which nothing here needs, with whatever compiler it finds.
    "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1",
    # Where xgrammar needs transformers (see `lean_import`), that would look for other libraries and models of its own.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "CUDA_VISIBLE_DEVICES": "",
}


class Pieces(Protocol):
    """What a grammar must know of a tokenizer."""

    @property
    def special_ids(self) -> frozenset[int]: ...

    @property
    def vocabulary(self) -> dict[str, int]: ...

    @property
    def context_free(self) -> bool: ...

    @property
    def vocab_size(self) -> int: ...

    def piece(self, token_id: int) -> bytes: ...


class Vocabulary(msgspec.Struct, frozen=True):
    """What each token stands for."""

    tokenizer: Any
    """`Pieces`; it can be pickled."""
    size: int
    """Ids that the model gives logits for."""
    eos_ids: tuple[int, ...]


class ForkServer:
    """Starts its process when a child is first wanted, and again if it has died. Every method may be called from any thread.

    Args:
        vocabulary: of the model.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process, if one runs."""
        return None if self._process is None else self._process.pid

    def fork(self) -> Wire:
        """Have a child made, and return the wire to it at once: it answers when it is there, or its end closes.

        Raises:
            OSError: the process cannot be started, or this was closed.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._order(theirs)
            except BaseException:
                ours.close()
                raise
        return Wire(ours)

    def close(self) -> None:
        """End the process; safe to call twice. Its children end when their wires close."""
        with self._lock:
            self._closed = True
            self._end()

    def _order(self, end: socket.socket) -> None:
        with self._lock:
            if self._closed:
                raise OSError("the server is closing")
            for attempt in range(2):
                if self._process is None or self._process.poll() is not None:
                    self._end()
                    self._start()
                assert self._line is not None
                try:
                    socket.send_fds(self._line, [b"f"], [end.fileno()])
                    return
                except OSError:
                    if attempt:
                        raise
                    self._end()

    def _start(self) -> None:
        """Start the process; what it is told is in a file without a name, so that nobody waits until it has read that."""
        told = os.memfd_create("vocabulary")
        ours, theirs = socket.socketpair()
        try:
            with os.fdopen(os.dup(told), "wb") as file:
                pickle.dump(self.vocabulary, file)
            os.lseek(told, 0, os.SEEK_SET)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "octavo.grammar.process", str(theirs.fileno())],
                stdin=told,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **ENVIRONMENT},
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(told)
        self._line = ours

    def _end(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
