"""The transformer block that most vision models share, with the details in which they differ.

Parameter names here (``norm1``, ``attn.qkv``, ``attn.proj``, ``norm2``, ``mlp.fc1``, ``mlp.fc2``)
are the ones a model's rename table aims at. Architecture: Dosovitskiy et al. 2021, arXiv:2010.11929.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class BlockSpec:
    """Shape and details of a block.

    ``dim``: token length; ``heads`` of ``head_dim`` each (default ``dim // heads``). ``hidden``:
    width of the MLP (default ``4 * dim``). ``qkv``: one fused linear layer or three. ``mlp``:
    exact (erf) GELU, or SwiGLU ``fc2(silu(fc1 x) * fc3 x)``. ``layer_scale``: a learned factor
    per channel on each branch (``ls1.gamma``, ``ls2.gamma``). ``norm``: before each branch, or
    ``post``, after each sum (Vaswani et al. 2017; torch's own encoder layer by default).
    ``rotary_axes``: queries and keys are turned by their token's position on so many axes, with learned frequencies
    (``attn.freqs``; RoPE-Mixed, Heo et al. 2024, arXiv:2403.13298).
    """

    dim: int
    heads: int
    head_dim: int | None = None
    hidden: int | None = None
    eps: float = 1e-5
    qkv: Literal["fused", "split"] = "fused"
    qkv_bias: bool = True
    proj_bias: bool = True
    mlp: Literal["gelu", "swiglu"] = "gelu"
    mlp_bias: bool = True
    layer_scale: bool = False
    norm: Literal["pre", "post"] = "pre"
    rotary_axes: int = 0

    @property
    def width(self) -> int:
        """Channels inside the attention: heads x head_dim."""
        return self.heads * (self.head_dim or self.dim // self.heads)


class Attention(nn.Module):
    """Multi-head self-attention, softmax of ``q k^T / sqrt(head_dim)`` plus an optional bias."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.heads = spec.heads
        self.fused = spec.qkv == "fused"
        if self.fused:
            self.qkv = nn.Linear(spec.dim, 3 * spec.width, bias=spec.qkv_bias)
        else:
            self.q = nn.Linear(spec.dim, spec.width, bias=spec.qkv_bias)
            self.k = nn.Linear(spec.dim, spec.width, bias=spec.qkv_bias)
            self.v = nn.Linear(spec.dim, spec.width, bias=spec.qkv_bias)
        self.proj = nn.Linear(spec.width, spec.dim, bias=spec.proj_bias)
        if spec.rotary_axes:
            self.freqs = nn.Parameter(torch.zeros(spec.rotary_axes, spec.heads, spec.width // spec.heads // 2))

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, dim) -> three of (B, heads, N, head_dim)."""
        parts = self.qkv(x).chunk(3, dim=-1) if self.fused else (self.q(x), self.k(x), self.v(x))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention and output projection: -> (B, N, dim). ``bias`` is added to the logits."""
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(-2))
        return out

    def turned(self, q: Tensor, k: Tensor, positions_bna: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys (B, heads, N, head_dim) with adjacent channels turned, pair by pair.

        A pair's angle is the sum of the position's coordinates times its frequencies, in float32.
        """
        # Axis by axis: a matrix product could round otherwise in another batch.
        angle = positions_bna[:, None, :, 0, None] * self.freqs[0][None, :, None]
        for axis in range(1, len(self.freqs)):
            angle = angle + positions_bna[:, None, :, axis, None] * self.freqs[axis][None, :, None]
        cos, sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)
        return _rotate(q, cos, sin), _rotate(k, cos, sin)

    def forward(self, x: Tensor, bias: Tensor | None = None, positions_bna: Tensor | None = None) -> Tensor:
        """(B, N, dim) -> (B, N, dim); ``bias`` broadcasts to (B, heads, N, N)."""
        q, k, v = self.queries_keys_values(x)
        if positions_bna is not None:
            q, k = self.turned(q, k, positions_bna)
        return self.attend(q, k, v, bias)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)


class Mlp(nn.Module):
    """The token-wise half of a block."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        hidden = spec.hidden or 4 * spec.dim
        self.gated = spec.mlp == "swiglu"
        self.fc1 = nn.Linear(spec.dim, hidden, bias=spec.mlp_bias)
        self.fc2 = nn.Linear(hidden, spec.dim, bias=spec.mlp_bias)
        if self.gated:
            self.fc3 = nn.Linear(spec.dim, hidden, bias=spec.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        inner = F.silu(self.fc1(x)) * self.fc3(x) if self.gated else F.gelu(self.fc1(x))
        out: Tensor = self.fc2(inner)
        return out


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) -> (..., dim)."""
        return x * self.gamma


class Block(nn.Module):
    """``x + attention(norm1 x)``, then ``x + mlp(norm2 x)``; ``norm1(x + attention x)`` and so on with ``post``."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.post = spec.norm == "post"
        self.norm1 = nn.LayerNorm(spec.dim, eps=spec.eps)
        self.attn = Attention(spec)
        self.ls1 = LayerScale(spec.dim) if spec.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(spec.dim, eps=spec.eps)
        self.mlp = Mlp(spec)
        self.ls2 = LayerScale(spec.dim) if spec.layer_scale else nn.Identity()

    def forward(self, x: Tensor, bias: Tensor | None = None, positions_bna: Tensor | None = None) -> Tensor:
        """(B, N, dim) -> (B, N, dim); ``bias`` is added to the attention logits.

        ``positions_bna``: coordinates of each token (B, N, axes), float32, for rotary attention.
        """
        out: Tensor
        if self.post:
            x = self.norm1(x + self.ls1(self.attn(x, bias, positions_bna)))
            out = self.norm2(x + self.ls2(self.mlp(x)))
        else:
            x = x + self.ls1(self.attn(self.norm1(x), bias, positions_bna))
            out = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class Blocks(nn.ModuleList):
    """``depth`` equal blocks, one after the other."""

    def __init__(self, spec: BlockSpec, depth: int) -> None:
        super().__init__(Block(spec) for _ in range(depth))

    def forward(self, x: Tensor, bias: Tensor | None = None, positions_bna: Tensor | None = None) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        for block in self:
            x = block(x, bias, positions_bna)
        return x
