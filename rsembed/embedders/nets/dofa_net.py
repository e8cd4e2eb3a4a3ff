"""The encoder of DOFA (arXiv:2403.15356): a ViT behind a patch embedding made from wavelengths."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.nets.transformer import Blocks, BlockSpec
from rsembed.embedders.nets.wavelength_patch_embed import KernelSpec, WavelengthPatchEmbed


class DofaEncoder(nn.Module):
    """``image_px``: the only input size, that of the checkpoint's table of positions."""

    def __init__(self, dim: int, depth: int, *, heads: int, patch_px: int = 16, image_px: int = 224) -> None:
        super().__init__()
        cells = image_px // patch_px
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, cells * cells + 1, dim))
        self.patch_embed = WavelengthPatchEmbed(
            KernelSpec(
                dim,
                patch_px,
                unit_per_um=1000.0,
                span=64.0,
                activation="relu",
                layout="rows_columns_dim",
                kernel_scale=0.01,
                bias_scale=0.01,
                padding=1,
            )
        )
        self.blocks = Blocks(BlockSpec(dim, heads, eps=1e-6), depth)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, pixels_bchw: Tensor, wavelengths_um: Tensor) -> Tokens:
        """Tokens of the last block, without the final norm; ``wavelengths_um``: (C,), the same for the whole batch."""
        x = self.patch_embed(pixels_bchw, wavelengths_um)
        batch, height, width, _ = x.shape
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)], dim=1) + self.pos_embed
        x = self.blocks(x)
        return Tokens(patches_bthwd=x[:, 1:].unflatten(1, (1, height, width)), cls=x[:, 0])

    def normalise(self, pooled_bd: Tensor, *, learned: bool) -> Tensor:
        """LayerNorm of a pooled vector: with the scale and shift learned for single tokens, or with none."""
        if learned:
            normed: Tensor = self.norm(pooled_bd)
            return normed
        return F.layer_norm(pooled_bd, self.norm.normalized_shape, eps=self.norm.eps)
