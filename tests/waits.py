"""How tests wait for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_S = 0.005
BOUND_S = 120.0
"""Ends a broken run; what works takes seconds, however busy the machine."""


def wait_until(reached: Callable[[], object], told: Callable[[], object] = str) -> None:
    """Look until `reached` holds, which must last from then on: what passes may come and go between two looks.

    `told` says how it stands, if it never does.
    """
    end_s = time.monotonic() + BOUND_S
    while not reached():
        assert time.monotonic() < end_s, f"waited for in vain for {BOUND_S:g} s; {told()}"
        time.sleep(LOOK_S)
