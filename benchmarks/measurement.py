"""The time of a call beside the bytes that it must move."""

from __future__ import annotations

import dataclasses

from benchmarks.moe_layer import Timing

COLUMNS = ["call", "us", "10th to 90th percentile", "TB/s", "floor, us"]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Microseconds of a call, and the bytes that it must move."""

    name: str
    timing: Timing
    num_bytes: float

    def row(self, copied_per_s: float) -> list[object]:
        """Cells of the table, of a card that copies so many bytes per second, read and written."""
        return [
            self.name,
            f"{self.timing.median:.1f}",
            f"{self.timing.low:.1f} to {self.timing.high:.1f}",
            f"{self.num_bytes / self.timing.median / 1e6:.3f}",
            f"{self.num_bytes / copied_per_s * 1e6:.2f}",
        ]
