"""From the tokens of a batch to one vector per region, or one map of vectors per input.

A cell counts by the share of it that the region covers. Sums run in float32, and a slot that
is all zeros (weights included) gives zeros, never NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Reducer = Literal["mean", "max"]
_TINY = 1e-12


def cell_weights(roi_b4: Tensor, height: int, width: int) -> Tensor:
    """Share of each cell of a ``height`` x ``width`` grid that the roi covers: (B, height, width), 0..1.

    ``roi_b4``: (left, top, right, bottom) as fractions of the input.
    """
    left, top, right, bottom = roi_b4.to(torch.float32).unbind(-1)
    across = _overlap(left * width, right * width, width)
    down = _overlap(top * height, bottom * height, height)
    return down[:, :, None] * across[:, None, :]


def _overlap(low: Tensor, high: Tensor, cells: int) -> Tensor:
    starts = torch.arange(cells, dtype=low.dtype, device=low.device)
    covered = torch.minimum(high[:, None], starts + 1) - torch.maximum(low[:, None], starts)
    return covered.clamp(0.0, 1.0)


def pool_tokens(patches_bthwd: Tensor, roi_b4: Tensor, how: Reducer, weights_bthw: Tensor | None = None) -> Tensor:
    """One vector per input, (B, D): over all frames and the cells of the roi.

    ``mean``: weighted by the covered share (times ``weights_bthw``). ``max``: over the cells
    with at least half of the largest weight.
    """
    patches = patches_bthwd.to(torch.float32)
    _, frames, height, width, _ = patches.shape
    weights = cell_weights(roi_b4, height, width)[:, None].expand(-1, frames, -1, -1)
    if weights_bthw is not None:
        weights = weights * weights_bthw
    return _reduce(patches, weights, how, dims=(1, 2, 3))


def pool_grids(grids_bhwd: Sequence[Tensor], roi_b4: Tensor, how: Reducer) -> Tensor:
    """One vector per input, (B, D), over several grids of the same ground: every token counts alike.

    A finer grid has more tokens and so more weight; otherwise as :func:`pool_tokens`.
    """
    weights = [cell_weights(roi_b4, *grid.shape[1:3]).flatten(1) for grid in grids_bhwd]
    tokens = torch.cat([grid.to(torch.float32).flatten(1, 2) for grid in grids_bhwd], dim=1)
    return _reduce(tokens, torch.cat(weights, dim=1), how, dims=(1,))


def pool_frames(patches_bthwd: Tensor, how: Reducer, weights_bthw: Tensor | None = None) -> Tensor:
    """One map per input, (B, D, h, w): the frames of each cell reduced."""
    patches = patches_bthwd.to(torch.float32)
    if patches.shape[1] == 1:
        reduced = patches[:, 0]
    else:
        weights = torch.ones_like(patches[..., 0]) if weights_bthw is None else weights_bthw
        reduced = _reduce(patches, weights, how, dims=(1,))
    return reduced.permute(0, 3, 1, 2)


def _reduce(patches: Tensor, weights: Tensor, how: Reducer, dims: tuple[int, ...]) -> Tensor:
    if how == "max":
        keep = weights >= weights.amax(dims, keepdim=True) / 2
        return patches.masked_fill(~keep[..., None], -torch.inf).amax(dims)
    total = weights.sum(dims).clamp_min(_TINY)
    return (patches * weights[..., None]).sum(dims) / total[..., None]
