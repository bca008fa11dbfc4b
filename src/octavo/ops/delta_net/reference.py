"""The gated delta rule of one request in plain float64, rounded to bf16 behind the convolution, where the operation rounds."""

from __future__ import annotations

import torch

from octavo.config.delta_shape import DeltaShape
from octavo.ops.delta_net.layer import EPS, DeltaWeights


def delta_net_reference(
    qkv: torch.Tensor,
    write_logits: torch.Tensor,
    decay_logits: torch.Tensor,
    weights: DeltaWeights,
    shape: DeltaShape,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `DeltaNet` gives for a request of T tokens: (T, value heads, value_dim), and the state of each head, float64.

    Args: as `DeltaNet`.
    """
    inputs = torch.nn.functional.pad(qkv.double(), (0, 0, shape.taps - 1, 0))
    total = (inputs.unfold(0, shape.taps, 1) * weights.taps.double()).sum(-1)
    convolved = (total * total.sigmoid()).bfloat16().double()
    keys, shared = shape.key_heads * shape.key_dim, shape.value_heads // shape.key_heads
    q, k, v = convolved.split([keys, keys, shape.value_heads * shape.value_dim], dim=1)
    q, k = (side.unflatten(1, (shape.key_heads, -1)).repeat_interleave(shared, 1) for side in (q, k))
    q, k = (side / (side.square().sum(-1, keepdim=True) + EPS).sqrt() for side in (q, k))
    v = v.unflatten(1, (shape.value_heads, -1))
    write = write_logits.double().sigmoid()
    step = torch.nn.functional.softplus(decay_logits.double() + weights.step_bias.double())
    decay = (-weights.log_decay.double().exp() * step).exp()
    state = torch.zeros((shape.value_heads, shape.key_dim, shape.value_dim), dtype=torch.float64, device=qkv.device)
    out = []
    for t in range(len(qkv)):
        state = state * decay[t, :, None, None]
        known = torch.einsum("hk,hkv->hv", k[t], state)
        state = state + k[t].unsqueeze(-1) * ((v[t] - known) * write[t, :, None]).unsqueeze(-2)
        out.append(torch.einsum("hk,hkv->hv", q[t], state) * shape.key_dim**-0.5)
    return torch.stack(out) if out else v, state
