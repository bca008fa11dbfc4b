"""Gated DeltaNet: a short causal convolution and the delta rule over one state per request, token by token on every device."""

from octavo.ops.delta_net.layer import DeltaNet, DeltaPlan, DeltaShape, DeltaWeights, StateUse, plan_delta

__all__ = ["DeltaNet", "DeltaPlan", "DeltaShape", "DeltaWeights", "StateUse", "plan_delta"]
