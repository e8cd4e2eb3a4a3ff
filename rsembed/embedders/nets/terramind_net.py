"""The encoder of TerraMind (arXiv:2504.11171) for one image modality: a plain ViT without class token."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor, nn

from rsembed.embedders.nets.patch_embed import PatchLinear2d
from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.nets.transformer import Blocks, BlockSpec


class TerraMindEncoder(nn.Module):
    """``gated``: the larger sizes, with SwiGLU and without biases; else GELU with biases.

    The position table is fixed and comes with the file; every token also carries its modality's code.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        heads: int,
        gated: bool,
        channels: int = 12,
        patch_px: int = 16,
        image_px: int = 224,
    ) -> None:
        super().__init__()
        cells = image_px // patch_px
        self.patch_embed = PatchLinear2d(channels, dim, patch_px, bias=False)
        self.pos_emb = nn.Parameter(torch.zeros(1, cells * cells, dim))
        self.mod_emb = nn.Parameter(torch.zeros(1, 1, dim))
        spec = BlockSpec(
            dim,
            heads,
            # Two thirds of the usual width, cut to a whole number, make up for the third matrix.
            hidden=int(2 * 4 * dim / 3) if gated else 4 * dim,
            eps=1e-6,
            qkv_bias=not gated,
            proj_bias=not gated,
            mlp="swiglu" if gated else "gelu",
            mlp_bias=not gated,
        )
        self.blocks = Blocks(spec, depth)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, pixels_bchw: Tensor, layer: int) -> Tokens:
        """Patch tokens after block ``layer`` (0 is the first); only the last block's pass the final norm."""
        x = self.patch_embed(pixels_bchw)
        height, width = x.shape[1:3]
        x = x.flatten(1, 2) + (self.pos_emb + self.mod_emb)
        for block in islice(self.blocks, layer + 1):
            x = block(x)
        if layer == len(self.blocks) - 1:
            x = self.norm(x)
        return Tokens(patches_bthwd=x.reshape(len(x), 1, height, width, -1))
