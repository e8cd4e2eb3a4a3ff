"""A lightweight temporal attention encoder (L-TAE, Garnot and Landrieu 2020, arXiv:2007.00586) for every pixel alone.

As AnySat (arXiv:2412.14123) has it: layers normalised by groups of features, and values that are the inputs themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LAYER_GROUPS = 4
_PERIOD = 367.0  # days; the base of the frequencies


class Layer(nn.Module):
    """Linear, normalised within four groups of its features, ReLU."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width_in, width_out)
        self.norm = nn.GroupNorm(_LAYER_GROUPS, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width_in) -> (N, width_out)."""
        return F.relu(self.norm(self.fc(x)))


class LearnedQuery(nn.Module):
    """Attention of one learned query a head over the frames."""

    def __init__(self, dim: int, heads: int, key_dim: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(heads, key_dim))
        self.key = nn.Linear(dim, heads * key_dim)

    def forward(self, x_ntd: Tensor) -> Tensor:
        """(N, T, dim) -> (N, dim): each head weighs its own share of the channels."""
        heads, key_dim = self.query.shape
        series, frames, dim = x_ntd.shape
        keys = self.key(x_ntd).reshape(series, frames, heads, key_dim)
        weights = ((keys * self.query).sum(-1) / math.sqrt(key_dim)).softmax(dim=1)
        values = x_ntd.reshape(series, frames, heads, dim // heads)
        mixed: Tensor = (weights[..., None] * values).sum(1)
        return mixed.flatten(1)


class PixelSeries(nn.Module):
    """Series of pixels to one vector a pixel. ``widths``: of the layers before the attention, channels not among them.

    ``pad``: what stands for a missing value, after normalisation; learned.
    """

    def __init__(self, channels: int, widths: Sequence[int], *, heads: int = 16, key_dim: int = 8) -> None:
        super().__init__()
        dim = widths[-1]
        self.pad = nn.Parameter(torch.zeros(()))
        self.layers = nn.Sequential(*(Layer(i, o) for i, o in pairwise([channels, *widths])))
        self.in_norm = nn.GroupNorm(heads, dim)
        self.attention = LearnedQuery(dim, heads, key_dim)
        self.out_layer = Layer(dim, dim)
        self.out_norm = nn.GroupNorm(heads, dim)
        self.heads = heads

    def forward(self, pixels_btchw: Tensor, days_bt: Tensor, valid_btchw: Tensor | None = None) -> Tensor:
        """(B, T, C, H, W) -> (B, H, W, dim). ``days_bt``: days since 1 January."""
        if valid_btchw is not None:
            pixels_btchw = torch.where(valid_btchw, pixels_btchw, self.pad)
        batch, frames, _, height, width = pixels_btchw.shape
        series = pixels_btchw.permute(0, 3, 4, 1, 2).flatten(0, 2)
        x = self.layers(series.flatten(0, 1)).unflatten(0, (-1, frames))
        # Normalised over the frames as well, so these are the last axis.
        x = self.in_norm(x.transpose(1, 2)).transpose(1, 2)
        code = day_codes(days_bt, x.shape[-1] // self.heads).repeat(1, 1, self.heads)
        x = x + code.repeat_interleave(height * width, dim=0)
        out: Tensor = self.out_norm(self.out_layer(self.attention(x)))
        return out.reshape(batch, height, width, -1)


def day_codes(days_bt: Tensor, dim: int) -> Tensor:
    """(B, T) days -> (B, T, dim) float32: sines at even channels, cosines at odd ones, in pairs of one frequency."""
    pairs = torch.arange(dim, dtype=torch.float32, device=days_bt.device) // 2
    angle = days_bt[..., None].to(torch.float32) / _PERIOD ** (2 * pairs / dim)
    even = torch.arange(dim, device=days_bt.device) % 2 == 0
    return torch.where(even, angle.sin(), angle.cos())
