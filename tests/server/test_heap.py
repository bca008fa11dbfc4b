"""Memory of large blocks goes back to the system when they are freed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEASURE = """
import ctypes, sys
from octavo.server.heap import map_large_blocks

class Use(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks mapped usmblks fsmblks used free top".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Use
libc.malloc.restype = ctypes.c_void_p
if sys.argv[1] == "mapped":
    assert map_large_blocks()
libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(2**22))))
before = libc.mallinfo2().mapped
block = libc.malloc(ctypes.c_size_t(2**21))
print(libc.mallinfo2().mapped - before >= 2**21)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such bound")
@pytest.mark.parametrize(("how", "mapped"), [("mapped", "True"), ("as glibc does", "False")])
def test_a_large_block_after_a_freed_one_is_mapped(how: str, mapped: str) -> None:
    """The second way is the twin: without the call, it is cut out of the heap."""
    ended = subprocess.run([sys.executable, "-c", MEASURE, how], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == mapped
