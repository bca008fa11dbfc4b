"""A training step as a CUDA graph: at this size the launches take longer than the kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UPS = 3
"""Steps before the capture, in which the libraries' first calls happen."""

Step = Callable[..., tuple[Tensor, Tensor]]


class Graph:
    """`step` of inputs of one shape, captured.

    `step` is run a few times before: at a learning rate of 0, so that only moments change. It must leave no gradient.

    Args:
        step: works on tensors that live as long as the graph, and waits for nothing.
        inputs: an example of its arguments, on the device; overwritten by every call.
    """

    def __init__(self, step: Step, inputs: Sequence[Tensor]) -> None:
        self.inputs = inputs
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                step(*inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.answers = step(*inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Run the step on `inputs` from the CPU; the result is overwritten by the next call."""
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.answers
