"""Compiles kernels side by side, before their first launch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import triton


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
