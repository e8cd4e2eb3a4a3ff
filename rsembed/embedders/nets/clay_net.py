"""The encoder of Clay v1.5 (github.com/Clay-foundation/model): wavelength kernels, date and place in every token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.nets.transformer import Blocks, BlockSpec
from rsembed.embedders.nets.wavelength_patch_embed import KernelSpec, WavelengthPatchEmbed

_SIDE = 4  # numbers of a date, and of a place


class ClayEncoder(nn.Module):
    """The last eight channels of a token's position are its image's date and place."""

    def __init__(self, dim: int, depth: int, *, heads: int, head_dim: int, hidden: int, patch_px: int = 8) -> None:
        super().__init__()
        self.dim = dim
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.patch_embed = WavelengthPatchEmbed(
            KernelSpec(
                dim,
                patch_px,
                unit_per_um=1.0,
                span=63.0,
                activation="gelu",
                layout="dim_rows_columns",
                kernel_scale=0.02,
                bias_scale=1.0,
            )
        )
        spec = BlockSpec(dim, heads, head_dim=head_dim, hidden=hidden, eps=1e-5, qkv_bias=False, proj_bias=False)
        self.blocks = Blocks(spec, depth)
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def positions(self, height: int, width: int, gsd_b: Tensor) -> Tensor:
        """Codes of the cells, (B, height, width, dim - 8); ``gsd_b``: metres per pixel, float32 (B,).

        Frequencies are gsd / 10000^(2 i / (D (n - 1))) with D = dim - 8, n = D / 4: all within two per
        cent of gsd, as the authors' code has it and the weights were trained. In float32 and in their
        order of operations, because the rounding of angles up to 310 shows in the answer.
        """
        length = self.dim - 2 * _SIDE
        step = torch.arange(length // 4, dtype=torch.float32, device=gsd_b.device) / (length // 4 - 1)
        omega = 1.0 / 10000 ** (2 * step / length) * gsd_b[:, None]

        def code(cells: int) -> Tensor:
            angle = torch.arange(cells, dtype=torch.float32, device=gsd_b.device)[:, None] * omega[:, None]
            return torch.cat([angle.sin(), angle.cos()], dim=-1)

        by_column = code(width)[:, None].expand(-1, height, -1, -1)
        by_row = code(height)[:, :, None].expand(-1, -1, width, -1)
        return torch.cat([by_column, by_row], dim=-1)

    def forward(
        self, pixels_bchw: Tensor, wavelengths_um: Tensor, *, time_b4: Tensor, place_b4: Tensor, gsd_b: Tensor
    ) -> Tokens:
        """Tokens after the final norm. ``wavelengths_um``: (C,), the same for the whole batch.

        ``time_b4``: sine and cosine of the week and of the hour; ``place_b4``: of latitude and longitude.
        """
        x = self.patch_embed(pixels_bchw, wavelengths_um)
        batch, height, width, _ = x.shape
        sides = torch.cat([time_b4, place_b4], dim=-1)[:, None, None].expand(-1, height, width, -1)
        x = x + torch.cat([self.positions(height, width, gsd_b), sides], dim=-1)
        x = torch.cat([self.cls_token.expand(batch, -1, -1), x.flatten(1, 2)], dim=1)
        x = self.norm(self.blocks(x))
        return Tokens(patches_bthwd=x[:, 1:].unflatten(1, (1, height, width)), cls=x[:, 0], vector=x[:, 0])
