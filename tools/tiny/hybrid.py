"""Qwen3.5-MoE in plain PyTorch, for training: Gated DeltaNet, an attention layer in four, a shared expert."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.tiny import delta, start
from tools.tiny.model import Context, Experts, Model, Norm, Numerics, Shape, drawn, rotate

EPS = 1e-6
"""Added to the sum of squares by which queries and keys of the delta rule are normed."""


@dataclasses.dataclass(frozen=True)
class HybridShape(Shape):
    """The sizes of octavo-tiny-hybrid."""

    hidden: int = 256
    kv_heads: int = 4
    experts: int = 96
    rotary_share: float = 0.5
    interval: int = 4
    """Each so-many-th layer has attention."""
    shared_width: int = 128
    key_heads: int = 4
    value_heads: int = 8
    key_dim: int = 64
    value_dim: int = 32
    taps: int = 4

    @property
    def keys(self) -> int:
        """Numbers of all key heads."""
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        """Numbers of all value heads."""
        return self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        """What the convolution takes one by one: queries, keys and values."""
        return 2 * self.keys + self.values

    def has_attention(self, layer: int) -> bool:
        """Whether `layer` has attention, and not Gated DeltaNet."""
        return (layer + 1) % self.interval == 0


@dataclasses.dataclass(frozen=True)
class HybridContext(Context):
    """The same for layers of Gated DeltaNet, too."""

    same: Tensor | None
    """(B, S, taps) bool: which of the inputs of its convolution a token sees; None: all."""
    sight: delta.Sight


class DeltaNet(nn.Module):
    """Gated DeltaNet: a short causal convolution, the delta rule, and a norm of each head times the silu of its gate."""

    def __init__(self, shape: HybridShape, numerics: Numerics) -> None:
        super().__init__()
        self.shape, self.numerics = shape, numerics
        self.norm = Norm(shape.hidden, shape.eps)
        self.qkvz = drawn(shape.channels + shape.values, shape.hidden)
        self.write, self.decay = (drawn(shape.value_heads, shape.hidden) for _ in range(2))
        self.taps = nn.Parameter((torch.rand(shape.channels, shape.taps) * 2 - 1) * shape.taps**-0.5)
        # From a state that forgets half in two tokens to one that does so in a thousand.
        rates = torch.logspace(math.log10(0.001), math.log10(0.3), shape.value_heads)
        self.log_decay = nn.Parameter(torch.zeros(shape.value_heads))
        self.step_bias = nn.Parameter(torch.log(torch.expm1(rates)))
        self.head_norm = Norm(shape.value_dim, shape.eps)
        self.out = drawn(shape.hidden, shape.values, gain=(2 * shape.layers) ** -0.5)

    def convolve(self, x: Tensor, same: Tensor | None) -> Tensor:
        """silu of the weighted sum of each row (B, S, channels) and the rows before it that have its owner."""
        windows = F.pad(x, (0, 0, self.shape.taps - 1, 0)).unfold(1, self.shape.taps, 1)
        if same is not None:
            windows = windows * same[:, :, None]
        return F.silu((windows * self.taps.bfloat16().to(x.dtype)).float().sum(dim=-1)).to(x.dtype)

    def unit(self, x: Tensor, scale: float) -> Tensor:
        """x (B, S, key heads * key_dim) as heads of length `scale`: (B, S, key heads, key_dim) float32."""
        s = self.shape
        heads = x.float().unflatten(-1, (s.key_heads, s.key_dim))
        factor = torch.full((s.key_dim,), scale * s.key_dim**-0.5, device=x.device)
        return F.rms_norm(heads, (s.key_dim,), factor, EPS / s.key_dim)

    def forward(self, x: Tensor, context: HybridContext) -> Tensor:
        """x + mixed(norm(x)); x (B, S, hidden)."""
        s, rounding = self.shape, self.numerics
        normed = self.norm(x)
        qkvz = F.linear(rounding.activation(normed), rounding.weight(self.qkvz))
        qkv, gates = qkvz.split([s.channels, s.values], dim=-1)
        q, k, v = self.convolve(qkv, context.same).split([s.keys, s.keys, s.values], dim=-1)
        q, k = self.unit(q, s.key_dim**-0.5), self.unit(k, 1.0)
        v = v.float().unflatten(-1, (s.value_heads, s.value_dim))
        both = torch.cat((self.write, self.decay)).bfloat16().to(x.dtype)
        write, step = F.linear(normed, both).float().chunk(2, dim=-1)
        log_decay = -self.log_decay.exp() * F.softplus(step + self.step_bias)
        mixed = delta.delta_rule(q, k, v, write.sigmoid(), log_decay, context.sight)
        mixed = self.head_norm(mixed.to(x.dtype)).flatten(2)
        mixed = (F.silu(gates.float()) * mixed.float()).to(x.dtype)
        return x + F.linear(rounding.activation(mixed), rounding.weight(self.out))


class GatedAttention(nn.Module):
    """Grouped-query causal attention with q/k norms, a part of each head rotated, and a gate for its output."""

    def __init__(self, shape: HybridShape, numerics: Numerics) -> None:
        super().__init__()
        self.shape, self.numerics = shape, numerics
        width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.norm = Norm(shape.hidden, shape.eps)
        self.q, self.k, self.v = (drawn(n, shape.hidden) for n in (2 * width, kv_width, kv_width))
        self.o = drawn(shape.hidden, width, gain=2 * (2 * shape.layers) ** -0.5)
        self.q_norm, self.k_norm = (Norm(shape.head_dim, shape.eps, start=2.0) for _ in range(2))

    def turn(self, x: Tensor, context: Context) -> Tensor:
        """Rotate the first numbers of each head: x (B, S, heads, D)."""
        turned, rest = x.split([context.cos.shape[-1], x.shape[-1] - context.cos.shape[-1]], dim=-1)
        return torch.cat((rotate(turned, context.cos, context.sin), rest), dim=-1)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x + attention(norm(x)); x (B, S, hidden)."""
        s, rounding = self.shape, self.numerics
        normed = rounding.activation(self.norm(x))
        with_gates, k, v = (F.linear(normed, rounding.weight(w)) for w in (self.q, self.k, self.v))
        q, gates = with_gates.unflatten(-1, (s.heads, 2, s.head_dim)).unbind(dim=-2)
        k, v = (side.unflatten(-1, (s.kv_heads, s.head_dim)) for side in (k, v))
        q, k = self.turn(self.q_norm(q), context), self.turn(self.k_norm(k), context)
        k, v = (side.repeat_interleave(s.heads // s.kv_heads, dim=2) for side in (k, v))
        q, k, v = (side.transpose(1, 2) for side in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=context.seen, is_causal=context.seen is None)
        mixed = (mixed.transpose(1, 2) * gates.float().sigmoid().to(x.dtype)).flatten(2)
        return x + F.linear(rounding.activation(mixed), rounding.weight(self.o))


class ExpertsAndShared(Experts):
    """The chosen experts beside one that all rows share, weighted by the sigmoid of a gate."""

    def __init__(self, shape: HybridShape, numerics: Numerics) -> None:
        super().__init__(shape, numerics)
        width = shape.shared_width
        self.shared_gate_up = drawn(2 * width, shape.hidden)
        self.shared_down = drawn(shape.hidden, width, gain=(2 * shape.layers) ** -0.5)
        self.share = drawn(1, shape.hidden)

    def added(self, normed: Tensor, read: Tensor) -> Tensor:
        """See `Experts`: normed and read (T, hidden)."""
        rounding = self.numerics
        gate, up = F.linear(read, rounding.weight(self.shared_gate_up)).chunk(2, dim=-1)
        inner = rounding.activation((F.silu(gate.float()) * up.float()).to(normed.dtype))
        out = F.linear(inner, rounding.weight(self.shared_down))
        share = F.linear(normed, self.share.bfloat16().to(normed.dtype)).float().sigmoid()
        return (share * out.float()).to(normed.dtype)


class Hybrid(Model):
    """Token ids to logits."""

    shape: HybridShape

    def mixer(self, layer: int) -> nn.Module:
        """See `Model`."""
        kind = GatedAttention if self.shape.has_attention(layer) else DeltaNet
        return kind(self.shape, self.numerics)

    def mlp(self) -> Experts:
        """See `Model`."""
        return ExpertsAndShared(self.shape, self.numerics)

    def look_back(self) -> None:
        """See `Model`."""
        start.remember(self)

    def context(self, length: int, owners: Tensor | None, device: torch.device) -> HybridContext:
        """See `Model`."""
        plain, taps = super().context(length, owners, device), self.shape.taps
        same = None
        if owners is not None:
            same = F.pad(owners, (taps - 1, 0), value=-2).unfold(1, taps, 1) == owners[..., None]
        return HybridContext(plain.cos, plain.sin, plain.seen, same, delta.sight(length, owners, device))

    @property
    def turned(self) -> int:
        """See `Model`."""
        return int(self.shape.head_dim * self.shape.rotary_share)
