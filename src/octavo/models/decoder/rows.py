"""What a layer must know of a step's rows."""

from __future__ import annotations

import dataclasses

from octavo.ops.attention.layer import AttentionRows
from octavo.ops.delta_net import DeltaPlan


@dataclasses.dataclass(frozen=True)
class LayerRows:
    """A step's rows as the mixer of a layer takes them."""

    attention: AttentionRows
    """Of the rows that are wanted, whatever the mixer."""
    delta: DeltaPlan | None
    """Of all rows; None in a model without recurrent layers."""
