"""The encoder of TerraFM (arXiv:2506.06281): a ViT with one patch stem for each kind of image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rsembed.embedders.nets.patch_embed import PatchEmbed2d
from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.nets.transformer import Blocks, BlockSpec


class TerraFmEncoder(nn.Module):
    """``stems``: name of a kind of image -> its number of channels; fixed ``image_px``."""

    def __init__(
        self, dim: int, depth: int, *, heads: int, stems: Mapping[str, int], patch_px: int = 16, image_px: int = 224
    ) -> None:
        super().__init__()
        cells, wide = image_px // patch_px, 3 * dim
        self.stems = nn.ModuleDict({name: PatchEmbed2d(channels, wide, patch_px) for name, channels in stems.items()})
        self.kinds = nn.ParameterDict({name: nn.Parameter(torch.zeros(1, wide)) for name in stems})
        self.projection = nn.Sequential(
            OrderedDict(
                proj1=nn.Linear(wide, wide, bias=False),
                norm_input=nn.LayerNorm(wide, eps=1e-5),
                proj2=nn.Linear(wide, wide),
                proj3=nn.Linear(wide, dim),
            )
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, cells * cells + 1, dim))
        self.blocks = Blocks(BlockSpec(dim, heads, eps=1e-6), depth)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, pixels_bchw: Tensor, stem: str) -> Tokens:
        """``vector``: the class token after the final norm; patches after the same norm."""
        x = self.projection(self.stems[stem](pixels_bchw) + self.kinds[stem])
        batch, height, width, _ = x.shape
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)], dim=1) + self.pos_embed
        x = self.norm(self.blocks(x))
        patches = x[:, 1:].reshape(batch, 1, height, width, -1)
        return Tokens(patches_bthwd=patches, cls=x[:, 0], vector=x[:, 0])
