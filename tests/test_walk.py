"""The walk of a request in docs/architecture.md is the one that a request takes."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import CodeType, FrameType

import httpx
import pytest

import octavo
from octavo.config import Settings
from octavo.server.app import create_app
from octavo.startup import in_this_process, server_context, start
from server.harness import serving

PAGE = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGE = Path(octavo.__path__[0])
WALK = re.findall(r"^\| \d+ \| `([\w./]+)` \| `([\w.<>]+)` \|", PAGE, re.MULTILINE)
TENSORS = PAGE.partition("\n| Tensor |")[2].partition("\n\n")[0]
COUNTS = re.search(r"^(\d+) calls in (\d+) files", PAGE, re.MULTILINE)
KERNEL = re.search(r"(\d+) calls in (\d+) files down to the kernel", PAGE)
BETWEEN_PROCESSES = ("engine/processes/", "wire.py", "worker/process.py")
"""A worker in this process, whose calls can be seen, has none of them; that they exist is seen without running."""
SETTINGS = Settings(device="cpu", cpu_threads=1, max_model_len=512, num_gpu_blocks_override=200, crash_dir="none")


class Calls:
    """The functions of the package that threads begun from now on call, as file and name, in order."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    @contextmanager
    def watched(self) -> Iterator[None]:
        threading.setprofile(self._note)
        try:
            yield
        finally:
            threading.setprofile(None)

    def _note(self, frame: FrameType, event: str, _argument: object) -> None:
        path = frame.f_code.co_filename
        if event == "call" and path.startswith(str(PACKAGE)):
            self.seen.append((Path(path).relative_to(PACKAGE).as_posix(), frame.f_code.co_qualname))


def names_of(code: CodeType) -> Iterator[str]:
    """Qualified names of all functions in a module's code."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant.co_qualname
            yield from names_of(constant)


def makers(table: str) -> Iterator[tuple[str, str]]:
    """File and function of each that a table of tensors names; one that it names again without its file is where it was.

    Raises:
        KeyError: a function has no file.
    """
    known: dict[str, str] = {}
    for row in table.splitlines():
        for name, path in re.findall(r"`([\w.]+)`(?:, `([\w/]+\.py)`)?", row.rstrip(" |").rpartition("|")[2]):
            owner = name.partition(".")[0]
            known[owner] = path or known[owner]
            yield known[owner], name


def missing(walk: list[tuple[str, str]], seen: list[tuple[str, str]]) -> tuple[str, str] | None:
    """The first hop of `walk` that does not come in `seen` after those before it."""
    calls = iter(seen)
    return next((hop for hop in walk if hop not in calls), None)


MAKERS = list(makers(TENSORS))


def test_each_hop_is_a_function() -> None:
    assert len(WALK) > 30
    for path, name in WALK:
        assert name in set(names_of(compile((PACKAGE / path).read_text(encoding="utf-8"), path, "exec"))), (path, name)


def test_the_counts_are_those_of_the_table() -> None:
    assert COUNTS is not None
    assert (int(COUNTS[1]), int(COUNTS[2])) == (len(WALK), len({path for path, _ in WALK}))


def test_a_request_takes_this_walk() -> None:
    calls = Calls()
    with closing(start(SETTINGS, in_this_process)) as runtime, calls.watched():
        context = server_context(runtime)
        context.loop.start()
        try:
            with serving(create_app(context)) as url, httpx.Client(base_url=url, timeout=60) as http:
                calls.seen.clear()
                body = {"prompt": "What is", "max_tokens": 1, "temperature": 1, "seed": 3}
                assert http.post("/v1/completions", json=body).status_code == 200
        finally:
            context.loop.stop()
    walk = [hop for hop in WALK if not hop[0].startswith(BETWEEN_PROCESSES)]
    assert missing(walk, calls.seen) is None
    assert missing(walk[::-1], calls.seen) is not None, "the twin: in another order"


def test_the_profile_is_not_left_on() -> None:
    before: Callable[..., object] | None = sys.getprofile()
    with Calls().watched():
        pass
    assert sys.getprofile() is before
    assert threading.getprofile() is None


def test_each_tensor_is_made_by_a_function() -> None:
    assert len(MAKERS) > 20
    for path, name in MAKERS:
        assert name in set(names_of(compile((PACKAGE / path).read_text(encoding="utf-8"), path, "exec"))), (path, name)
    with pytest.raises(KeyError):
        list(makers("| x | y | `nobody_made_this` |"))


def test_the_counts_down_to_the_kernel_are_those_of_both_tables() -> None:
    """Down to the first product: that makes queries, keys and values of the first layer."""
    assert KERNEL is not None
    above = WALK[: WALK.index(("worker/runner.py", "Runner._sample_rows"))]
    first_product = ("ops/linear/dense_gemm.py", "dense_gemm")
    hops = list(dict.fromkeys([*above, *MAKERS[: MAKERS.index(first_product) + 1]]))
    assert (int(KERNEL[1]), int(KERNEL[2])) == (len(hops), len({path for path, _ in hops}))
