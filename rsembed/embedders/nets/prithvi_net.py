"""The encoder of Prithvi-EO-2.0 (arXiv:2412.02732): a ViT over patches of a time series.

Every patch token carries a fixed space-time code, a code of its frame's date and one of the place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsembed.embedders.nets.patch_embed import PatchEmbed3d
from rsembed.embedders.nets.positions import PairEncoding, resize_table, sincos_3d
from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.nets.transformer import Blocks, BlockSpec


class PrithviEncoder(nn.Module):
    """``trained_px``: the image size for which the position table is defined."""

    def __init__(
        self, dim: int, depth: int, *, heads: int, patch_px: int, channels: int = 6, trained_px: int = 224
    ) -> None:
        super().__init__()
        self.dim = dim
        self.trained_cells = trained_px // patch_px
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.patch_embed = PatchEmbed3d(channels, dim, (1, patch_px, patch_px))
        self.temporal_embed_enc = PairEncoding(dim)
        self.location_embed_enc = PairEncoding(dim)
        self.blocks = Blocks(BlockSpec(dim, heads, eps=1e-5), depth)
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def positions(self, frames: int, height: int, width: int) -> Tensor:
        """Space-time codes (frames, height, width, dim) on the CPU, built for this number of frames."""
        table = sincos_3d(self.dim, frames, self.trained_cells, self.trained_cells)
        return resize_table(table, height, width, align_corners=True)

    def forward(self, pixels_bcthw: Tensor, dates_bt2: Tensor, place_b2: Tensor) -> Tokens:
        """``dates_bt2``: (year, day of the year); ``place_b2``: (latitude, longitude) in degrees."""
        x = self.patch_embed(pixels_bcthw)
        batch, frames, height, width, _ = x.shape
        x = x + self.positions(frames, height, width).to(x.device)
        x = x + self.temporal_embed_enc(dates_bt2)[:, :, None, None, :]
        x = x + self.location_embed_enc(place_b2)[:, None, None, None, :]
        # The class token's own position code is zero, and it gets neither date nor place.
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(1, 3)], dim=1)
        x = self.norm(self.blocks(x))
        return Tokens(patches_bthwd=x[:, 1:].unflatten(1, (frames, height, width)), cls=x[:, 0])
