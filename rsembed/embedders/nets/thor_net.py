"""The encoder of THOR (arXiv:2601.16011): every band its own patch kernel, every group of bands its own grid.

Kernels are resized to the patch size in use (FlexiViT). Tokens carry no position table: a code tells
how much ground a token covers, and attention is biased by the distance between tokens on the ground
(ALiBi, Press et al. 2022, arXiv:2108.12409, in two dimensions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsembed.embedders.nets.patch_embed import resize_kernel
from rsembed.embedders.nets.positions import sincos_1d
from rsembed.embedders.nets.transformer import Blocks, BlockSpec

STORED_PATCH_PX = 16
REFERENCE_GROUND_M = 4 * 10.0
"""Ground of the smallest token of the training: 4 pixels of 10 m."""


class Band(Protocol):
    """A band: its name, the name of the group whose grid it shares, the ground size of its pixels in metres."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def gsd_m(self) -> float: ...


class ThorEncoder(nn.Module):
    """``bands``: all that may come in; tokens follow each other by their group's name. ``code_dim``: of a group."""

    slopes: Tensor

    def __init__(self, dim: int, depth: int, *, heads: int, code_dim: int, bands: Sequence[Band]) -> None:
        super().__init__()
        self.ground_dim = dim - code_dim
        size = STORED_PATCH_PX
        self.bands = nn.ModuleDict({band.name: nn.Conv2d(1, dim, size, stride=size) for band in bands})
        groups = sorted({band.group for band in bands})
        self.group_codes = nn.ParameterDict({name: nn.Parameter(torch.zeros(code_dim)) for name in groups})
        self.register_buffer("slopes", torch.zeros(heads))
        self.blocks = Blocks(BlockSpec(dim, heads, eps=1e-6), depth)

    def forward(
        self, pixels_bchw: Tensor, bands: Sequence[Band], *, cover_m: float, stretch_b: Tensor, patch_px: int
    ) -> list[Tensor]:
        """Raw tokens of the last block, one grid (B, n, n, dim) for each group that has a band.

        ``bands``: what the channels are. ``cover_m``: ground that a side of the image stands for;
        groups are resized to their own pixel size over it. ``stretch_b``: how much more ground
        each image really covers, as a factor (B,).
        """
        grids, steps = [], []
        for group in sorted({band.group for band in bands}):
            channels = [i for i, band in enumerate(bands) if band.group == group]
            members = [bands[i] for i in channels]
            gsd_m = members[0].gsd_m
            grid = self._embed(_resized(pixels_bchw[:, channels], round(cover_m / gsd_m)), members, patch_px)
            step_m = patch_px * gsd_m
            ground = sincos_1d(stretch_b.to(torch.float32) * (step_m / REFERENCE_GROUND_M), self.ground_dim)
            code = torch.cat([ground, self.group_codes[group].expand(len(ground), -1)], dim=-1)
            grids.append(grid + code[:, None, None, :])
            steps.append((grid.shape[1], step_m))
        bias = -self.slopes[:, None, None] * _distances(tuple(steps)).to(self.slopes.device)
        x = self.blocks(torch.cat([grid.flatten(1, 2) for grid in grids], dim=1), bias[None])
        parts = x.split([cells * cells for cells, _ in steps], dim=1)
        return [part.reshape(grid.shape) for part, grid in zip(parts, grids, strict=True)]

    def _embed(self, images_bchw: Tensor, bands: Sequence[Band], patch_px: int) -> Tensor:
        """The mean of the bands' patch embeddings, (B, n, n, dim): one convolution with kernels and biases / bands."""
        kernels = [cast("nn.Conv2d", self.bands[band.name]) for band in bands]
        weight = torch.cat([kernel.weight for kernel in kernels], dim=1) / len(bands)
        bias = torch.stack([cast("Tensor", kernel.bias) for kernel in kernels]).mean(0)
        return F.conv2d(images_bchw, resize_kernel(weight, patch_px), bias, stride=patch_px).permute(0, 2, 3, 1)


def merge_grids(grids_bhwd: Sequence[Tensor], how: str) -> Tensor:
    """One grid (B, n, n, D') in the finest resolution: the groups' ``mean``, ``sum`` or ``concat`` of channels."""
    finest = max(grid.shape[1] for grid in grids_bhwd)
    maps = [_resized(grid.permute(0, 3, 1, 2), finest) for grid in grids_bhwd]
    if how == "concat":
        merged = torch.cat(maps, dim=1)
    else:
        stacked = torch.stack(maps)
        merged = stacked.sum(0) if how == "sum" else stacked.mean(0)
    return merged.permute(0, 2, 3, 1)


def alibi_slopes(heads: int) -> Tensor:
    """How steeply each head's bias falls, (heads,): 2^(-8 i / n), i = 1 .. n, for a power of two n.

    Other numbers take the next lower power's slopes, then every second one of twice that power.
    """
    whole = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8 * (i + 1) / whole) for i in range(whole)]
    between = [2.0 ** (-8 * (i + 1) / (2 * whole)) for i in range(0, 2 * whole, 2)]
    return torch.tensor(slopes + between[: heads - whole])


def _resized(images_bchw: Tensor, size: int) -> Tensor:
    if images_bchw.shape[-2:] == (size, size):
        return images_bchw
    return F.interpolate(images_bchw, size=(size, size), mode="bilinear", align_corners=False)


@lru_cache(maxsize=4)
@torch.inference_mode(mode=False)  # what is kept serves other callers, too
def _distances(grids: tuple[tuple[int, float], ...]) -> Tensor:
    """Distance between all tokens (N, N) in units of the largest token; on the CPU, never write to it.

    ``grids``: (cells a side, ground of a cell in metres) of each group.
    """
    unit = max(step_m for _, step_m in grids)
    places = []
    for cells, step_m in grids:
        axis = (torch.arange(cells, dtype=torch.float32) + 0.5) * (step_m / unit)
        places.append(torch.cartesian_prod(axis, axis))
    rows, cols = torch.cat(places).unbind(-1)
    return torch.hypot(rows[:, None] - rows, cols[:, None] - cols)
