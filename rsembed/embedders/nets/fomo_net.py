"""The encoder of FoMo-Net (arXiv:2312.10114): every band is an image of its own, and all their patches one sequence."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.nets.transformer import Blocks, BlockSpec
from rsembed.embedders.nets.window_attention import partition

_EPS = 1e-5


class FomoEncoder(nn.Module):
    """``bands``: rows of the table of band codes, one of which each channel names; fixed ``image_px``."""

    def __init__(
        self, dim: int, depth: int, *, heads: int, hidden: int, bands: int, patch_px: int = 16, image_px: int = 64
    ) -> None:
        super().__init__()
        self.patch_px = patch_px
        pixels = patch_px * patch_px
        self.patch_embed = nn.Sequential(
            nn.LayerNorm(pixels, eps=_EPS), nn.Linear(pixels, dim), nn.LayerNorm(dim, eps=_EPS)
        )
        self.band_embed = nn.Parameter(torch.zeros(1, bands, dim))
        # The first row belongs to a class token that the encoder never had.
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (image_px // patch_px) ** 2, dim))
        self.blocks = Blocks(BlockSpec(dim, heads, hidden=hidden, eps=_EPS, qkv_bias=False), depth)
        self.norm = nn.LayerNorm(dim, eps=_EPS)

    def forward(self, pixels_bchw: Tensor, keys_bc: Tensor) -> Tokens:
        """Tokens after the final norm, (B, C, h, w, dim): the bands take the place of frames.

        ``keys_bc``: int64, which band each channel is.
        """
        batch, channels, height, width = pixels_bchw.shape
        side = self.patch_px
        patches = partition(pixels_bchw.reshape(batch * channels, height, width, 1), (side, side))
        x = self.patch_embed(patches[..., 0].reshape(batch, channels, -1, side * side))
        x = x + self.band_embed[0][keys_bc][:, :, None] + self.pos_embed[:, None, 1:]
        x = self.norm(self.blocks(x.flatten(1, 2)))
        return Tokens(patches_bthwd=x.reshape(batch, channels, height // side, width // side, -1))
