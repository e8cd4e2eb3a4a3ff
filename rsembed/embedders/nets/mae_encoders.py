"""Encoders of masked autoencoders after He et al. 2022 (arXiv:2111.06377), given every patch: none is masked.

The three differ in what tells a token where it is: a table of the checkpoint, that table plus a code of the
band group, or a code of the distance on the ground. Tokens stay in raster order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rsembed.embedders.nets.patch_embed import PatchEmbed2d
from rsembed.embedders.nets.positions import sincos_2d
from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.nets.transformer import Blocks, BlockSpec


class TableEncoder(nn.Module):
    """A ViT with a class token and a position for each of the cells of a fixed ``image_px``."""

    def __init__(
        self, dim: int, depth: int, *, heads: int, patch_px: int, image_px: int, eps: float, channels: int = 3
    ) -> None:
        super().__init__()
        cells = image_px // patch_px
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, cells * cells + 1, dim))
        self.patch_embed = PatchEmbed2d(channels, dim, patch_px)
        self.blocks = Blocks(BlockSpec(dim, heads, eps=eps), depth)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, pixels_bchw: Tensor) -> Tokens:
        """Class token and patches (B, 1, h, w, dim) after the final norm."""
        x = self.patch_embed(pixels_bchw)
        batch, height, width, _ = x.shape
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)], dim=1) + self.pos_embed
        x = self.norm(self.blocks(x))
        return Tokens(patches_bthwd=x[:, 1:].unflatten(1, (1, height, width)), cls=x[:, 0])


class GroupEncoder(nn.Module):
    """Bands in groups, each with its own tokens (SatMAE, arXiv:2207.08051, section 4.2).

    ``groups``: indices of the bands of each group. The last ``group_dim`` channels of a token's
    position are its group's code, the others its cell's.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        heads: int,
        patch_px: int,
        image_px: int,
        groups: Sequence[Sequence[int]],
        group_dim: int,
        eps: float,
    ) -> None:
        super().__init__()
        self.groups = tuple(tuple(group) for group in groups)
        cells = image_px // patch_px
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, cells * cells + 1, dim - group_dim))
        self.channel_embed = nn.Parameter(torch.zeros(1, len(self.groups), group_dim))
        self.patch_embed = nn.ModuleList(PatchEmbed2d(len(group), dim, patch_px) for group in self.groups)
        self.blocks = Blocks(BlockSpec(dim, heads, eps=eps), depth)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, pixels_bchw: Tensor) -> Tokens:
        """Patches (B, groups, h, w, dim) after the final norm: a group stands where others have a frame."""
        parts = [embed(pixels_bchw[:, list(group)]) for embed, group in zip(self.patch_embed, self.groups, strict=True)]
        x = torch.stack(parts, dim=1)
        batch, groups, height, width, _ = x.shape
        cell_code = self.pos_embed[:, None, 1:].expand(-1, groups, -1, -1)
        group_code = self.channel_embed[:, :, None].expand(-1, -1, height * width, -1)
        x = x.flatten(2, 3) + torch.cat([cell_code, group_code], dim=-1)
        # The class token has no position here, unlike in the authors' fine-tuning network.
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)], dim=1)
        x = self.norm(self.blocks(x))
        return Tokens(patches_bthwd=x[:, 1:].unflatten(1, (groups, height, width)), cls=x[:, 0])


class ScaleEncoder(nn.Module):
    """Positions are distances: cell index times the resolution of each input (Scale-MAE, arXiv:2212.14532, eq. 2)."""

    def __init__(self, dim: int, depth: int, *, heads: int, patch_px: int, eps: float, channels: int = 3) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.patch_embed = PatchEmbed2d(channels, dim, patch_px)
        self.blocks = Blocks(BlockSpec(dim, heads, eps=eps), depth)
        self.norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, pixels_bchw: Tensor, resolution_b: Tensor, *, final_norm: bool) -> Tokens:
        """``resolution_b``: size of a pixel, float32 (B,). Without ``final_norm``: the last block's raw output."""
        x = self.patch_embed(pixels_bchw)
        batch, height, width, dim = x.shape
        x = x + sincos_2d(dim, height, width, step=resolution_b, dtype=torch.float32)
        # The class token's own code is zero.
        x = self.blocks(torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)], dim=1))
        if final_norm:
            x = self.norm(x)
        return Tokens(patches_bthwd=x[:, 1:].unflatten(1, (1, height, width)), cls=x[:, 0])
