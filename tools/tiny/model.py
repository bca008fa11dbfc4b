"""Qwen3-MoE in plain PyTorch, for training: every linear layer sees the FP8 values that inference will see."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.tiny import sparse, start
from tools.tiny.rounding import Channels, Rounding


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of octavo-tiny."""

    vocab: int = 264
    hidden: int = 192
    layers: int = 4
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 32
    experts: int = 128
    top_k: int = 8
    expert_width: int = 32
    context: int = 4096
    rope_theta: float = 10000.0
    eps: float = 1e-6


@dataclasses.dataclass
class Numerics:
    """Which roundings a forward pass makes."""

    activations: bool = True
    """Round the input of every quantised linear layer to FP8 per token (False: the bf16 reading of the weights)."""
    dtype: torch.dtype = torch.bfloat16
    """Of hidden states and matrix products."""
    block: int | None = None
    """Compute only the chosen experts, in blocks of so many rows; None: all experts for every token (the reference)."""
    rounding: Rounding = dataclasses.field(default_factory=Channels)

    def weight(self, w: Tensor) -> Tensor:
        """w (..., N, K) as the checkpoint stores it, in `dtype`."""
        return self.rounding.weight(w).to(self.dtype)

    def activation(self, x: Tensor) -> Tensor:
        """x (..., K) as a quantised linear layer reads it."""
        return self.rounding.activation(x) if self.activations else x


@dataclasses.dataclass(frozen=True)
class Context:
    """What the tokens of rows see of each other."""

    cos: Tensor
    """(S, 1, numbers of a head that are rotated) float32, as `sin`."""
    sin: Tensor
    seen: Tensor | None
    """(B, 1, S, S) bool: which keys a query sees; None: all before it."""


class Norm(nn.Module):
    """y = weight * x / sqrt(mean(x^2) + eps), over the last dimension, in float32."""

    def __init__(self, size: int, eps: float, *, start: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((size,), start))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, half-rotation layout. x (B, S, heads, D); cos, sin (S, 1, D)."""
    left, right = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat((-right, left), dim=-1) * sin).to(x.dtype)


def rope_table(width: int, theta: float, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(cos, sin), each (length, 1, width) float32."""
    power = torch.arange(0, width, 2, device=device).float() / width
    angle = torch.outer(torch.arange(length, device=device).float(), theta**-power)
    angle = torch.cat((angle, angle), dim=-1)[:, None, :]
    return angle.cos(), angle.sin()


def drawn(*size: int, gain: float = 1.0) -> nn.Parameter:
    """A weight (..., N, K) that keeps the size of what it reads, times `gain`."""
    return nn.Parameter(torch.randn(*size) * gain * size[-1] ** -0.5)


class Attention(nn.Module):
    """Grouped-query causal attention with q/k norms."""

    def __init__(self, shape: Shape, numerics: Numerics) -> None:
        super().__init__()
        self.shape, self.numerics = shape, numerics
        width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.norm = Norm(shape.hidden, shape.eps)
        self.q, self.k, self.v = (drawn(n, shape.hidden) for n in (width, kv_width, kv_width))
        self.o = drawn(shape.hidden, width, gain=(2 * shape.layers) ** -0.5)
        # Normed q and k of 32 dimensions reach a score of 5.7 at most; twice each lets a head pick one position.
        self.q_norm, self.k_norm = (Norm(shape.head_dim, shape.eps, start=2.0) for _ in range(2))

    def linear(self, x: Tensor, w: Tensor) -> Tensor:
        return F.linear(x, self.numerics.weight(w))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x + attention(norm(x)); x (B, S, hidden)."""
        s, cos, sin, seen = self.shape, context.cos, context.sin, context.seen
        normed = self.numerics.activation(self.norm(x))
        q = self.linear(normed, self.q).view(*x.shape[:2], s.heads, s.head_dim)
        k = self.linear(normed, self.k).view(*x.shape[:2], s.kv_heads, s.head_dim)
        v = self.linear(normed, self.v).view(*x.shape[:2], s.kv_heads, s.head_dim)
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        k, v = (t.repeat_interleave(s.heads // s.kv_heads, dim=2) for t in (k, v))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
        mixed = mixed.transpose(1, 2).flatten(2)
        return x + self.linear(self.numerics.activation(mixed), self.o)


class Experts(nn.Module):
    """softmax, top-k, renormalise; SwiGLU experts."""

    def __init__(self, shape: Shape, numerics: Numerics) -> None:
        super().__init__()
        self.shape, self.numerics = shape, numerics
        e, i, h = shape.experts, shape.expert_width, shape.hidden
        self.norm = Norm(h, shape.eps)
        self.router = drawn(e, h)
        self.gate, self.up = drawn(e, i, h), drawn(e, i, h)
        # Eight of 128 experts write at a time, each with a weight near 1/8.
        self.down = drawn(e, h, i, gain=3 * (2 * shape.layers) ** -0.5)

    def added(self, normed: Tensor, read: Tensor) -> Tensor | None:
        """What is added for every token beside the chosen experts; normed (T, hidden), and as quantised layers read it."""
        return None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(x + experts(norm(x)), load-balancing loss); x (T, hidden)."""
        s = self.shape
        normed = self.norm(x)
        chances = F.linear(normed, self.router.to(x.dtype)).float().softmax(dim=-1)
        best, ids = chances.topk(s.top_k, dim=-1)
        best = best / best.sum(dim=-1, keepdim=True)
        used = torch.zeros_like(chances).scatter(-1, ids, 1.0).mean(dim=0)
        balance = s.experts / s.top_k * (used * chances.mean(dim=0)).sum()
        read = self.numerics.activation(normed)
        added = self.added(normed, read)
        x, normed = x if added is None else x + added, read
        if self.numerics.block is None:
            return x + self.dense(normed, torch.zeros_like(chances).scatter(-1, ids, best)), balance
        gate_up = self.numerics.weight(torch.cat((self.gate, self.up), dim=0)).unflatten(0, (2, -1))
        gate_up = gate_up.transpose(0, 1).flatten(1, 2)
        down, rounded = self.numerics.weight(self.down), self.numerics.activation
        return x + sparse.swiglu(normed, ids, best, gate_up, down, rounded=rounded, block=self.numerics.block), balance

    def dense(self, normed: Tensor, weights: Tensor) -> Tensor:
        """All experts as one wide MLP, the unchosen ones weighted zero; normed (T, hidden), weights (T, experts)."""
        s, dtype = self.shape, normed.dtype
        gate = F.linear(normed, self.numerics.weight(self.gate).flatten(0, 1))
        up = F.linear(normed, self.numerics.weight(self.up).flatten(0, 1))
        inner = (F.silu(gate.float()) * up.float()).to(dtype).view(-1, s.experts, s.expert_width)
        inner = (self.numerics.activation(inner) * weights[..., None]).to(dtype).flatten(1)
        down = self.numerics.weight(self.down).transpose(1, 2).flatten(0, 1)
        return inner @ down


class Model(nn.Module):
    """Token ids to logits."""

    def __init__(self, shape: Shape, numerics: Numerics) -> None:
        super().__init__()
        self.shape, self.numerics = shape, numerics
        # Large beside what the layers add, or a token is lost in the residual stream before any head can match it
        # (at 0.05 its cosine with the stream is 0.17 after one layer, at 1.0 it is 0.96).
        self.embed = nn.Parameter(torch.randn(shape.vocab, shape.hidden))
        self.mixers = nn.ModuleList(self.mixer(layer) for layer in range(shape.layers))
        self.experts = nn.ModuleList(self.mlp() for _ in range(shape.layers))
        self.norm = Norm(shape.hidden, shape.eps)
        self.head = drawn(shape.vocab, shape.hidden)
        self.look_back()

    def mixer(self, layer: int) -> nn.Module:
        """What lets the tokens of a layer see those before: (x (B, S, hidden), context) -> the same with what it adds."""
        return Attention(self.shape, self.numerics)

    def mlp(self) -> Experts:
        """The second half of a layer."""
        return Experts(self.shape, self.numerics)

    def look_back(self) -> None:
        """Write start values under which copying is learnt soon."""
        start.look_back(self)

    def context(self, length: int, owners: Tensor | None, device: torch.device) -> Context:
        """What the tokens of rows of `length` see; owners as in `forward`."""
        cos, sin = rope_table(self.turned, self.shape.rope_theta, length, device)
        seen = None if owners is None else (owners[:, None, :, None] == owners[:, None, None, :]).tril()
        return Context(cos, sin, seen)

    @property
    def turned(self) -> int:
        """How many numbers of a head are rotated."""
        return self.shape.head_dim

    def forward(self, ids: Tensor, owners: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(logits (B, S, vocab) float32, mean load-balancing loss); ids (B, S) int64.

        Tokens see those of the same conversation alone, by `owners` (B, S) int64; None: each row is one.
        """
        # A product with a one-hot matrix: the same values, and a gradient that a CUDA graph can hold.
        chosen = (ids[..., None] == torch.arange(self.shape.vocab, device=ids.device)).to(self.numerics.dtype)
        x = chosen @ self.embed.bfloat16().to(self.numerics.dtype)
        context = self.context(ids.shape[1], owners, ids.device)
        balances = []
        for mixer, experts in zip(self.mixers, self.experts, strict=True):
            x = mixer(x, context)
            y, balance = experts(x.flatten(0, 1))
            x = y.view_as(x)
            balances.append(balance)
        head = self.head.bfloat16().to(self.numerics.dtype)
        return F.linear(self.norm(x), head).float(), torch.stack(balances).mean()
