"""Sine-cosine codes of positions, dates and places, and tables resized to another grid.

A code of length d is ``[sin(p * omega) | cos(p * omega)]`` with ``omega_k = 10000^(-k / span)``,
k = 0 .. d/2 - 1 (Vaswani et al. 2017, arXiv:1706.03762). ``span`` is d/2 in most models; the ones
that divide otherwise say so. Tables are computed in float64 and cast; codes of side inputs stay in
float32, because at year 2022 the rounding of the angle (~1e-4) is part of what a model was trained with.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sincos_1d(positions: Tensor, dim: int, *, span: float | None = None, temperature: float = 10000.0) -> Tensor:
    """Codes of ``positions`` (any shape S, floating): shape S + (dim,), in the dtype of ``positions``."""
    if dim % 2:
        raise ValueError(f"a sine-cosine code needs an even length, got {dim}")
    exponent = torch.arange(dim // 2, dtype=positions.dtype, device=positions.device) / (span or dim / 2)
    # The reciprocal of the power, not the power of the negative: in float32 they differ by an ulp.
    angle = positions[..., None] * (1.0 / temperature**exponent)
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)


def sincos_2d(
    dim: int,
    height: int,
    width: int,
    *,
    first: Literal["column", "row"] = "column",
    step: float | Tensor = 1.0,
    span: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Table (height, width, dim) in float32: ``dim / 2`` for one axis, then ``dim / 2`` for the other.

    ``first``: the axis whose code comes first. Coordinates are index * ``step``; a tensor of steps,
    shape S (one per item of a batch, say), gives S + (height, width, dim) on its device.
    ``dtype``: the precision of the computation.
    """
    steps = torch.as_tensor(step, dtype=dtype)[..., None]
    rows = sincos_1d(torch.arange(height, dtype=dtype, device=steps.device) * steps, dim // 2, span=span)
    cols = sincos_1d(torch.arange(width, dtype=dtype, device=steps.device) * steps, dim // 2, span=span)
    by_row = rows[..., :, None, :].expand(*steps.shape[:-1], height, width, -1)
    by_col = cols[..., None, :, :].expand(*steps.shape[:-1], height, width, -1)
    parts = (by_col, by_row) if first == "column" else (by_row, by_col)
    return torch.cat(parts, dim=-1).to(torch.float32)


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)  # what is kept serves other callers, too
def sincos_3d(dim: int, frames: int, height: int, width: int) -> Tensor:
    """Table (frames, height, width, dim) in float32, on the CPU; never write to it.

    With s = dim // 16 the code is [column: 6 s | row: 6 s | frame: 4 s].
    """
    if dim % 16:
        raise ValueError(f"a three-axis code needs a length divisible by 16, got {dim}")
    share = dim // 16
    shape = (frames, height, width)
    cols = sincos_1d(torch.arange(width, dtype=torch.float64), 6 * share)[None, None, :, :].expand(*shape, -1)
    rows = sincos_1d(torch.arange(height, dtype=torch.float64), 6 * share)[None, :, None, :].expand(*shape, -1)
    times = sincos_1d(torch.arange(frames, dtype=torch.float64), 4 * share)[:, None, None, :].expand(*shape, -1)
    return torch.cat([cols, rows, times], dim=-1).to(torch.float32)


def resize_table(
    table_nhwd: Tensor, height: int, width: int, *, mode: str = "bicubic", align_corners: bool = False
) -> Tensor:
    """A table of positions (N, h, w, D) interpolated to (N, height, width, D); as it is when it fits."""
    if table_nhwd.shape[1:3] == (height, width):
        return table_nhwd
    planes = table_nhwd.permute(0, 3, 1, 2)
    resized = F.interpolate(planes, size=(height, width), mode=mode, align_corners=align_corners)
    return resized.permute(0, 2, 3, 1)


class PairEncoding(nn.Module):
    """Two numbers as one code, half of ``dim`` each, times a learned factor.

    Used for (year, day of the year) and for (latitude, longitude), raw values in float32.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, pair: Tensor) -> Tensor:
        """(..., 2) float32 -> (..., dim)."""
        code = sincos_1d(pair.to(torch.float32), self.dim // 2)
        return code.flatten(-2) * self.scale
