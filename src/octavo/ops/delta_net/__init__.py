"""Gated DeltaNet: a short causal convolution and the delta rule over one state per request, 16 positions at once on every device."""

from octavo.config.delta_shape import DeltaShape
from octavo.ops.delta_net.layer import DeltaNet, DeltaPlan, DeltaWeights, StateUse, most_spans, plan_delta

__all__ = ["DeltaNet", "DeltaPlan", "DeltaShape", "DeltaWeights", "StateUse", "most_spans", "plan_delta"]
