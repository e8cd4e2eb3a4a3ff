"""Swin Transformer V2 (Liu et al. 2022, arXiv:2111.09883), with the extra norms of its giant members.

Attention is by cosine, its biases come from a small network over log-spaced offsets, and norms follow the branches.
Stages are mapped as in the first version; see :mod:`rsembed.embedders.nets.swin`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsembed.embedders.nets.patch_embed import PatchEmbed2d
from rsembed.embedders.nets.swin import neighbours
from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.nets.transformer import BlockSpec, Mlp
from rsembed.embedders.nets.window_attention import Shape, WindowAttention, relative_index

_EPS = 1e-5
_BIAS_HIDDEN = 512
_MOST_SCALE = math.log(100.0)


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # what is kept serves other callers, too
def log_offsets(window: Shape) -> Tensor:
    """(n, 2) float32 on the CPU: every offset within ``window``, rows slowest, -1..1 and log-spaced; read only.

    ``sign(x) log2(1 + 8 |x|) / 3`` with x the offset as a share of the largest one; a window of one token has none.
    """
    axes = [torch.arange(1 - w, w, dtype=torch.float32, device="cpu") / max(1, w - 1) * 8 for w in window]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
    return torch.sign(offsets) * torch.log2(offsets.abs() + 1) / math.log2(8)


class CosineAttention(WindowAttention):
    """Softmax of the cosine of queries and keys over a learned temperature; the keys' layer has no bias."""

    def __init__(self, spec: BlockSpec, window: Shape) -> None:
        super().__init__(spec, window)
        del self.bias_table  # computed instead
        self.logit_scale = nn.Parameter(torch.zeros(spec.heads, 1, 1))
        self.q_bias = nn.Parameter(torch.zeros(spec.width))
        self.v_bias = nn.Parameter(torch.zeros(spec.width))
        self.bias_net = nn.Sequential(
            nn.Linear(2, _BIAS_HIDDEN), nn.ReLU(), nn.Linear(_BIAS_HIDDEN, spec.heads, bias=False)
        )

    def bias(self, window: Shape) -> Tensor:
        """What is added to the logits, 0..16: (heads, N, N)."""
        device = self.q_bias.device
        table = 16 * torch.sigmoid(self.bias_net(log_offsets(window).to(device)))
        return table[relative_index(window, window).to(device)].permute(2, 0, 1)

    def forward(self, x: Tensor, bias: Tensor | None = None, positions_bna: Tensor | None = None) -> Tensor:
        """(B, N, dim) -> (B, N, dim); ``bias`` broadcasts to (B, heads, N, N). There are no ``positions_bna``."""
        given = F.linear(x, self.qkv.weight, torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]))
        parts = given.reshape(*given.shape[:-1], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = F.normalize(parts[0], dim=-1), F.normalize(parts[1], dim=-1)
        q = q * self.logit_scale.clamp(max=_MOST_SCALE).exp()
        mixed = F.scaled_dot_product_attention(q.to(parts.dtype), k.to(parts.dtype), parts[2], bias, scale=1.0)
        out: Tensor = self.proj(mixed.transpose(1, 2).flatten(-2))
        return out


class PostNormBlock(nn.Module):
    """``x + norm1(attention x)`` in windows, then ``x + norm2(mlp x)``, and ``norm3`` of it where there is one."""

    def __init__(self, spec: BlockSpec, window: Shape, shift: Shape, *, extra_norm: bool) -> None:
        super().__init__()
        self.shift = shift
        self.attn = CosineAttention(spec, window)
        self.norm1 = nn.LayerNorm(spec.dim, eps=spec.eps)
        self.mlp = Mlp(spec)
        self.norm2 = nn.LayerNorm(spec.dim, eps=spec.eps)
        self.norm3 = nn.LayerNorm(spec.dim, eps=spec.eps) if extra_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H, W, dim)."""
        x = x + self.norm1(self.attn.over_grid(x, self.shift))
        out: Tensor = self.norm3(x + self.norm2(self.mlp(x)))
        return out


class PatchMergingV2(nn.Module):
    """Four neighbours become one token of twice the length; normalised after the reduction."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim, eps=_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, dim) -> (B, H/2, W/2, 2 dim)."""
        out: Tensor = self.norm(self.reduction(neighbours(x)))
        return out


class SwinV2(nn.Module):
    """``depths``, ``heads``: of each stage; ``dim``: token length of the first, doubled at each merge.

    ``norm_period``: every so many blocks of a stage end in a norm of their own; 0: none.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        depths: Sequence[int],
        *,
        heads: Sequence[int],
        window: int,
        patch_px: int,
        norm_period: int,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed2d(channels, dim, patch_px)
        self.patch_norm = nn.LayerNorm(dim, eps=_EPS)
        self.stages = nn.ModuleList()
        self.merges = nn.ModuleList()
        for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            if stage:
                self.merges.append(PatchMergingV2(dim))
                dim *= 2
            spec = BlockSpec(dim, count, eps=_EPS, qkv_bias=False)
            blocks = (
                PostNormBlock(
                    spec,
                    (window, window),
                    (window // 2, window // 2) if i % 2 else (0, 0),
                    extra_norm=bool(norm_period) and (i + 1) % norm_period == 0,
                )
                for i in range(depth)
            )
            self.stages.append(nn.Sequential(*blocks))
        self.norm = nn.LayerNorm(dim, eps=_EPS)

    def forward(self, pixels_bchw: Tensor) -> Tokens:
        """The last map as it leaves its stage; ``vector``: the mean of the same map after the final norm."""
        x = self.patch_norm(self.patch_embed(pixels_bchw))
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else self.merges[i - 1](x))
        return Tokens(patches_bthwd=x[:, None], vector=self.norm(x).mean((1, 2)))
