"""The expert layer of PyTorch's own operations: route, expert MLPs, combine."""

from octavo.kernels.experts.cpu import CpuExperts
from octavo.kernels.experts.cuda import CudaExperts
from octavo.kernels.experts.layer import Experts, ExpertWeights
from octavo.kernels.experts.routing import Routing, choose_experts

__all__ = ["CpuExperts", "CudaExperts", "ExpertWeights", "Experts", "Routing", "choose_experts"]
