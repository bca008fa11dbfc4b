"""Compiles kernels side by side, before their first launch, and tells what is compiled."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton
from triton.runtime._async_compile import active_mode

from octavo.ops.compiler_process import Compilers, Job

log = logging.getLogger(__name__)


def log_compilations() -> None:
    """Have each kernel that is compiled from now on, and is not in Triton's cache, logged with its seconds."""

    def tell(*, src: Any, times: Any, cache_hit: bool, **_others: Any) -> None:
        if not cache_hit:
            log.debug("kernel %s compiled in %.2f s", src.name, times.total / 1e6)

    triton.knobs.compilation.listener = tell


class _Compilations(triton.AsyncCompileMode):  # type: ignore[misc]  # Triton has no types
    """Compiles each kernel with what launches it: Triton 3.6 makes a C file for each signature, and has it compiled at the first launch."""

    def __init__(self, pool: ThreadPoolExecutor, compilers: Compilers) -> None:
        super().__init__(pool)
        self._compilers = compilers
        self._hashed: tuple[Any, ...] = ()
        self._signatures: set[str] = set()
        self._lock = threading.Lock()

    def submit(self, key: str, compile_kernel: Callable[[], Any], finalize: Callable[[Any], None]) -> Any:
        job = Job.of(key, compile_kernel, self._hashed)
        self._hashed = job.hashed

        def compile_with_launcher() -> Any:
            kernel = compile_kernel() if job.is_done else self._compilers.compile(job, compile_kernel)
            if self._is_first(kernel):
                triton.runtime.driver.active.launcher_cls(kernel.src, kernel.metadata)
            return kernel

        return super().submit(key, compile_with_launcher, finalize)

    def __exit__(self, *raised: Any) -> None:
        try:
            super().__exit__(*raised)
        finally:
            active_mode.set(None)  # Triton leaves it where a compilation has failed

    def _is_first(self, kernel: Any) -> bool:
        """Whether no kernel before it is launched alike: pointers of all types are."""
        bulk_copies = getattr(kernel.metadata, "tensordesc_meta", None)
        kinds = kernel.src.signature.values()
        arguments = ["*" if isinstance(kind, str) and kind.startswith("*") else kind for kind in kinds]
        signature = repr((arguments, bulk_copies))
        with self._lock:
            is_first = signature not in self._signatures
            self._signatures.add(signature)
        return is_first


@contextlib.contextmanager
def compiling_instead(threads: int, compilers: Compilers | None = None) -> Iterator[None]:
    """Within it every launch of this thread compiles its kernel instead, `threads` at a time; behind it all are ready to be launched.

    Nothing is computed meanwhile: what a kernel would have written holds whatever its memory held, so nobody may use it as an
    index or look at it.

    Args:
        threads: that compile, or wait for those who do.
        compilers: where kernels that are in no cache are compiled, closed at the end; None: those threads.

    Raises:
        Exception: what a compilation raised.
    """
    run = triton.JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return run(kernel, *args, grid=grid, warmup=True, **options)

    with (
        contextlib.closing(compilers or Compilers(threads)) as places,
        ThreadPoolExecutor(threads) as pool,
        _Compilations(pool, places),
    ):
        triton.JITFunction.run = compile_only
        try:
            yield
        finally:
            triton.JITFunction.run = run
