"""Compiles kernels side by side, before their first launch, and tells what is compiled."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton

log = logging.getLogger(__name__)


def log_compilations() -> None:
    """Have each kernel that is compiled from now on, and is not in Triton's cache, logged with its seconds."""

    def tell(*, src: Any, times: Any, cache_hit: bool, **_others: Any) -> None:
        if not cache_hit:
            log.debug("kernel %s compiled in %.2f s", src.name, times.total / 1e6)

    triton.knobs.compilation.listener = tell


@contextlib.contextmanager
def compiling_instead(threads: int) -> Iterator[None]:
    """Within it every launch of this thread compiles its kernel instead, `threads` at a time; behind it all are ready to be launched.

    Nothing is computed meanwhile: what a kernel would have written holds whatever its memory held, so nobody may use it as an
    index or look at it. Most of a compilation is LLVM and ptxas, which run beside Python.

    Raises:
        Exception: what a compilation raised.
    """
    run = triton.JITFunction.run

    def compile_only(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return run(kernel, *args, grid=grid, warmup=True, **options)

    with ThreadPoolExecutor(threads) as pool, triton.AsyncCompileMode(pool):
        triton.JITFunction.run = compile_only
        try:
            yield
        finally:
            triton.JITFunction.run = run
