"""The encoder of Galileo (arXiv:2502.09356): a ViT whose tokens are groups of bands, one per patch and date.

A token's code has four parts of equal length: its group, its place in the series, its month, its place in the
image. Kernels are resized to the patch size in use (FlexiViT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsembed.embedders.nets.patch_embed import resize_kernel
from rsembed.embedders.nets.positions import sincos_2d
from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.nets.transformer import Blocks, BlockSpec

STORED_PATCH_PX = 8
STORED_GROUPS = 7


class GalileoEncoder(nn.Module):
    """``groups``: name of a group of bands -> its channels, in the order of the stored group codes.

    ``frames``: the longest series; ``month_embed`` and ``pos_embed`` are stored tables.
    """

    def __init__(self, dim: int, depth: int, *, heads: int, groups: Mapping[str, int], frames: int = 24) -> None:
        super().__init__()
        part, size = dim // 4, STORED_PATCH_PX
        self.part = part
        self.order = tuple(groups)
        self.kernels = nn.ModuleDict({name: nn.Conv2d(n, dim, size, stride=size) for name, n in groups.items()})
        self.group_codes = nn.Parameter(torch.zeros(STORED_GROUPS, part))
        self.pos_embed = nn.Parameter(torch.zeros(frames, part))
        self.month_embed = nn.Embedding(12, part)
        self.blocks = Blocks(BlockSpec(dim, heads, eps=1e-5, qkv="split"), depth)
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def codes(self, groups: Sequence[str], months_bt: Tensor, slots_bt: Tensor, place_bhwd: Tensor) -> Tensor:
        """What is added to the tokens, (B, h, w, T, groups, dim)."""
        batch, height, width, _ = place_bhwd.shape
        shape = (batch, height, width, months_bt.shape[1], len(groups), self.part)
        of_group = self.group_codes[[self.order.index(name) for name in groups]]
        parts = (
            of_group,
            self.pos_embed[slots_bt][:, None, None, :, None],
            self.month_embed(months_bt)[:, None, None, :, None],
            place_bhwd[:, :, :, None, None],
        )
        return torch.cat([part.expand(shape) for part in parts], dim=-1)

    def forward(
        self,
        pixels_btchw: Tensor,
        groups: Sequence[str],
        *,
        months_bt: Tensor,
        slots_bt: Tensor,
        step_b: Tensor,
        patch_px: int,
        normed: bool = True,
    ) -> Tokens:
        """One vector per ground cell: the mean of its tokens of all dates and ``groups``.

        The channels are those of ``groups``, one after the other. ``months_bt``: 0..11; ``slots_bt``: place of each
        frame in the series; ``step_b``: ground of a token in units of 10 m. ``normed``: with the final norm.
        """
        batch, frames = pixels_btchw.shape[:2]
        images, grids, first = pixels_btchw.flatten(0, 1), [], 0
        for name in groups:
            kernel = cast("nn.Conv2d", self.kernels[name])
            channels = images[:, first : first + kernel.in_channels]
            first += kernel.in_channels
            grids.append(F.conv2d(channels, resize_kernel(kernel.weight, patch_px), kernel.bias, stride=patch_px))
        # (B T, dim, h, w) of each group -> (B, h, w, T, groups, dim)
        height, width = grids[0].shape[-2:]
        x = torch.stack(grids, dim=1).reshape(batch, frames, len(groups), -1, height, width).permute(0, 4, 5, 1, 2, 3)
        place = sincos_2d(self.part, height, width, step=step_b, span=self.part, dtype=torch.float32)
        x = x + self.codes(groups, months_bt, slots_bt, place)
        cells = x.shape[1:5]
        x = self.blocks(x.flatten(1, 4))
        if normed:
            x = self.norm(x)
        cell_means = x.to(torch.float32).unflatten(1, cells).mean(dim=(3, 4))
        return Tokens(patches_bthwd=cell_means[:, None])
