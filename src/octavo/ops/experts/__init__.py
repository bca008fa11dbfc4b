"""The expert layer of PyTorch's own operations: route, expert MLPs, combine."""

from octavo.ops.experts.cpu import CpuExperts
from octavo.ops.experts.layer import Experts, ExpertWeights
from octavo.ops.experts.routing import Routing, choose_experts
from octavo.ops.experts.torch_cuda import CudaExperts

__all__ = ["CpuExperts", "CudaExperts", "ExpertWeights", "Experts", "Routing", "choose_experts"]
