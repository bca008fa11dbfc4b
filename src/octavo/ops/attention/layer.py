"""What attention on every device has in common."""

from __future__ import annotations


class Plan:
    """What the attention layers of one step share: made and read by the same operations."""
