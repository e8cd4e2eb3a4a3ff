"""The image tower of CLIP (Radford et al. 2021, arXiv:2103.00020): a ViT whose class token is projected."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsembed.embedders.nets.patch_embed import PatchEmbed2d
from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.nets.transformer import Blocks, BlockSpec


class ClipVision(nn.Module):
    """Exact GELU, LayerNorm eps 1e-5, patch embedding without bias, fixed ``image_px``."""

    def __init__(
        self, dim: int, depth: int, *, heads: int, patch_px: int, image_px: int = 224, out_dim: int = 512
    ) -> None:
        super().__init__()
        cells = image_px // patch_px
        self.patch_embed = PatchEmbed2d(3, dim, patch_px, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(dim))
        self.positional_embedding = nn.Parameter(torch.zeros(cells * cells + 1, dim))
        self.ln_pre = nn.LayerNorm(dim, eps=1e-5)
        self.blocks = Blocks(BlockSpec(dim, heads, eps=1e-5), depth)
        self.ln_post = nn.LayerNorm(dim, eps=1e-5)
        self.proj = nn.Parameter(torch.zeros(dim, out_dim))

    def forward(self, pixels_bchw: Tensor) -> Tokens:
        """``vector``: projected class token (B, out_dim), not normalised; patches: the last block's raw output."""
        x = self.patch_embed(pixels_bchw)
        batch, height, width, dim = x.shape
        x = torch.cat([self.class_embedding.expand(batch, 1, dim), x.flatten(1, 2)], dim=1)
        x = self.blocks(self.ln_pre(x + self.positional_embedding))
        vector = self.ln_post(x[:, 0]) @ self.proj
        return Tokens(patches_bthwd=x[:, 1:].unflatten(1, (1, height, width)), cls=x[:, 0], vector=vector)
