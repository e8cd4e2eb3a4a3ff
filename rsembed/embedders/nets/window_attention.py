"""Attention inside windows of a grid of any number of axes, shifted or not (Swin, arXiv:2103.14030).

Grids are (B, *grid, D) with one or more axes: rows and columns of an image, or frames, rows and columns of a video.
A window that is at least as long as an axis is cut to it and not shifted along it, as in all members of the family.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsembed.embedders.nets.transformer import Attention, BlockSpec

Shape = tuple[int, ...]
_APART = -100.0  # added to the logit of two tokens that only the shift brought together


def fit_window(grid: Shape, window: Shape, shift: Shape) -> tuple[Shape, Shape]:
    """``window`` and ``shift`` as they apply to ``grid``."""
    fitted = tuple(min(g, w) for g, w in zip(grid, window, strict=True))
    return fitted, tuple(0 if g <= w else s for g, w, s in zip(grid, window, shift, strict=True))


def partition(x: Tensor, window: Shape) -> Tensor:
    """(B, *grid, D) -> (B * n, N, D): n windows an item in raster order, N tokens each in raster order.

    Every axis of the grid must be a multiple of the window's.
    """
    axes = len(window)
    counts = [size // w for size, w in zip(x.shape[1:-1], window, strict=True)]
    split = x.reshape(len(x), *(part for pair in zip(counts, window, strict=True) for part in pair), x.shape[-1])
    order = [0, *range(1, 2 * axes, 2), *range(2, 2 * axes + 1, 2), 2 * axes + 1]
    return split.permute(order).reshape(-1, math.prod(window), x.shape[-1])


def merge(windows: Tensor, grid: Shape, window: Shape) -> Tensor:
    """The inverse of :func:`partition`: (B * n, N, D) -> (B, *grid, D)."""
    axes = len(window)
    counts = [size // w for size, w in zip(grid, window, strict=True)]
    split = windows.reshape(-1, *counts, *window, windows.shape[-1])
    order = [0, *(axis for i in range(1, axes + 1) for axis in (i, i + axes)), 2 * axes + 1]
    return split.permute(order).reshape(-1, *grid, windows.shape[-1])


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # what is kept serves other callers, too
def shift_mask(grid: Shape, window: Shape, shift: Shape) -> Tensor | None:
    """What to add to the logits of a shifted grid: float32 (n, N, N) on the CPU, None without a shift; read only.

    Rolling brings the far end of an axis next to its near end; tokens of different parts do not see each other.
    """
    if not any(shift):
        return None
    part = torch.zeros((), dtype=torch.int64, device="cpu")
    for size, w, s in zip(grid, window, shift, strict=True):
        along = torch.zeros(size, dtype=torch.int64, device="cpu")
        if s:
            along[size - w : size - s] = 1
            along[size - s :] = 2
        part = 3 * part[..., None] + along
    parts = partition(part[None, ..., None], window)[..., 0]
    return (parts[:, :, None] != parts[:, None, :]) * torch.tensor(_APART, device="cpu")


def attend_in_windows(
    x: Tensor, window: Shape, shift: Shape, attend: Callable[[Tensor, Tensor | None], Tensor]
) -> Tensor:
    """(B, *grid, D) -> (B, *grid, D): ``attend(windows, mask)`` within windows that are shifted by ``shift``.

    ``attend`` gets (B * n, N, D) and the mask (n, N, N) or None. Grids are filled up with zeros to
    whole windows; these are seen like other tokens and then cut off. Give the window and shift of
    :func:`fit_window`.
    """
    grid = tuple(x.shape[1:-1])
    missing = [-size % w for size, w in zip(grid, window, strict=True)]
    if any(missing):
        x = F.pad(x, [0, 0, *(n for more in reversed(missing) for n in (0, more))])
    padded = tuple(x.shape[1:-1])
    axes = tuple(range(1, len(window) + 1))
    if any(shift):
        x = torch.roll(x, tuple(-s for s in shift), axes)
    mask = shift_mask(padded, window, shift)
    x = merge(attend(partition(x, window), None if mask is None else mask.to(x.device)), padded, window)
    if any(shift):
        x = torch.roll(x, shift, axes)
    return x[(slice(None), *(slice(size) for size in grid))] if any(missing) else x


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # what is kept serves other callers, too
def relative_index(window: Shape, table_window: Shape) -> Tensor:
    """(N, N) int64 on the CPU: where the offset of each pair of tokens stands in a table; read only.

    The table has an entry per offset within ``table_window``, the last axis fastest.
    """
    ranges = [torch.arange(w, device="cpu") for w in window]
    coordinates = torch.stack(torch.meshgrid(*ranges, indexing="ij")).flatten(1)
    offsets = coordinates[:, :, None] - coordinates[:, None, :]
    index = torch.zeros(offsets.shape[1:], dtype=torch.int64, device="cpu")
    for along, w in zip(offsets, table_window, strict=True):
        index = index * (2 * w - 1) + along + w - 1
    return index


class WindowAttention(Attention):
    """Self-attention with a learned bias per head and offset; a member with another bias overrides :meth:`bias`."""

    def __init__(self, spec: BlockSpec, window: Shape) -> None:
        super().__init__(spec)
        self.window = window
        self.bias_table = nn.Parameter(torch.zeros(math.prod(2 * w - 1 for w in window), spec.heads))

    def bias(self, window: Shape) -> Tensor:
        """What is added to the logits: (heads, N, N)."""
        index = relative_index(window, self.window).to(self.bias_table.device)
        return self.bias_table[index].permute(2, 0, 1)

    def over_grid(self, x: Tensor, shift: Shape) -> Tensor:
        """(B, *grid, dim) -> (B, *grid, dim), windows shifted by ``shift``."""
        window, shift = fit_window(tuple(x.shape[1:-1]), self.window, shift)
        bias = self.bias(window)

        def attend(windows: Tensor, mask: Tensor | None) -> Tensor:
            both = bias[None] if mask is None else bias + mask[:, None]
            # The windows of an item lie next to each other, so the masks repeat item by item.
            return self.forward(windows, both if mask is None else both.repeat(len(windows) // len(mask), 1, 1, 1))

        return attend_in_windows(x, window, shift, attend)
