"""The expert layer of PyTorch's own operations: route, expert MLPs, combine."""

from octavo.ops.experts.cpu import CpuExperts
from octavo.ops.experts.layer import Experts, ExpertWeights
from octavo.ops.experts.routing import Routing, choose_experts
from octavo.ops.experts.rules import RoutingRule, SigmoidRule, SoftmaxRule

__all__ = [
    "CpuExperts",
    "ExpertWeights",
    "Experts",
    "Routing",
    "RoutingRule",
    "SigmoidRule",
    "SoftmaxRule",
    "choose_experts",
]
