"""The expert layer of PyTorch's own operations: route, expert MLPs, combine."""

from octavo.ops.experts.cpu import CpuExperts
from octavo.ops.experts.layer import Experts, ExpertWeights
from octavo.ops.experts.routing import Routing, choose_experts
from octavo.ops.experts.rules import MAX_TOP_K, ChoosingRule, RoutingRule, SharedRule, SigmoidRule, SoftmaxRule

__all__ = [
    "MAX_TOP_K",
    "ChoosingRule",
    "CpuExperts",
    "ExpertWeights",
    "Experts",
    "Routing",
    "RoutingRule",
    "SharedRule",
    "SigmoidRule",
    "SoftmaxRule",
    "choose_experts",
]
