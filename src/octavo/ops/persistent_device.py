"""Device functions that persistent kernels share, in Gluon.

Such a program has three parts (`gl.warp_specialize`): a producer, which copies operands into a ring of stages in shared memory, and two
consumers of four warps each, which multiply them.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

sync_threads = getattr(gl, "barrier", None) or gl.thread_barrier
"""The barrier of all threads of a part: Triton 3.7 has given it a new name."""


@gluon.jit
def next_stage(stage, phase, STAGES: gl.constexpr):
    """The stage behind this one, and the parity of its barriers' phase."""
    stage += 1
    wraps = stage == STAGES
    return gl.where(wraps, 0, stage), gl.where(wraps, phase ^ 1, phase)
