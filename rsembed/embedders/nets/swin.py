"""Swin Transformer, the first version (Liu et al. 2021, arXiv:2103.14030): stages of ever smaller maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsembed.embedders.nets.patch_embed import PatchEmbed2d
from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.nets.transformer import BlockSpec, Mlp
from rsembed.embedders.nets.window_attention import Shape, WindowAttention

_EPS = 1e-5


class WindowBlock(nn.Module):
    """``x + attention(norm1 x)`` in windows, then ``x + mlp(norm2 x)``."""

    def __init__(
        self, spec: BlockSpec, window: Shape, shift: Shape, attention: type[WindowAttention] = WindowAttention
    ) -> None:
        super().__init__()
        self.shift = shift
        self.norm1 = nn.LayerNorm(spec.dim, eps=spec.eps)
        self.attn = attention(spec, window)
        self.norm2 = nn.LayerNorm(spec.dim, eps=spec.eps)
        self.mlp = Mlp(spec)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *grid, dim) -> (B, *grid, dim)."""
        x = x + self.attn.over_grid(self.norm1(x), self.shift)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def neighbours(x: Tensor) -> Tensor:
    """(..., H, W, D) -> (..., H/2, W/2, 4 D): (even, even), (odd, even), (even, odd), (odd, odd) rows and columns.

    Odd sides are filled up with zeros.
    """
    height, width = x.shape[-3:-1]
    x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
    return torch.cat([x[..., row::2, col::2, :] for col in (0, 1) for row in (0, 1)], dim=-1)


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the length; normalised before the reduction."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=_EPS)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H, W, dim) -> (..., H/2, W/2, 2 dim)."""
        out: Tensor = self.reduction(self.norm(neighbours(x)))
        return out


class SwinStages(nn.Module):
    """Stages of window blocks with a merge between two of them, and the final norm; every second block is shifted.

    ``depths``, ``heads``: of each stage; ``dim``: token length of the first, doubled at each merge. ``window``: along
    each axis of the grid. ``merging``, ``attention``: what a member of the family has of its own.
    """

    def __init__(
        self,
        dim: int,
        depths: Sequence[int],
        *,
        heads: Sequence[int],
        window: Shape,
        merging: type[PatchMerging] = PatchMerging,
        attention: type[WindowAttention] = WindowAttention,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        self.merges = nn.ModuleList()
        half, still = tuple(w // 2 for w in window), (0,) * len(window)
        for stage, (depth, count) in enumerate(zip(depths, heads, strict=True)):
            if stage:
                self.merges.append(merging(dim))
                dim *= 2
            spec = BlockSpec(dim, count, eps=_EPS)
            blocks = (WindowBlock(spec, window, half if i % 2 else still, attention) for i in range(depth))
            self.stages.append(nn.Sequential(*blocks))
        self.norm = nn.LayerNorm(dim, eps=_EPS)

    def through(self, x: Tensor) -> Tensor:
        """(B, *grid, dim) -> the last, smallest grid after the final norm."""
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else self.merges[i - 1](x))
        out: Tensor = self.norm(x)
        return out


class Swin(SwinStages):
    """The network for images: ``window`` tokens and ``patch_px`` pixels a side."""

    def __init__(
        self, dim: int, depths: Sequence[int], *, heads: Sequence[int], window: int = 7, patch_px: int = 4
    ) -> None:
        super().__init__(dim, depths, heads=heads, window=(window, window))
        self.patch_embed = PatchEmbed2d(3, dim, patch_px)
        self.patch_norm = nn.LayerNorm(dim, eps=_EPS)

    def forward(self, pixels_bchw: Tensor) -> Tokens:
        """The last map after the final norm; ``vector``: its mean."""
        x = self.through(self.patch_norm(self.patch_embed(pixels_bchw)))
        return Tokens(patches_bthwd=x[:, None], vector=x.mean((1, 2)))
