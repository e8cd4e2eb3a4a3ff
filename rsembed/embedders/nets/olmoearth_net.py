"""The encoder of OlmoEarth (arXiv:2511.13655, v1.1 arXiv:2605.20804): a ViT over patches, dates and sets of bands.

Version 1 has one patch kernel for each set of bands and codes of place and date added to the tokens. From 1.1 on
all bands of a sensor make one token, through a layer over single pixels; in 1.2 place and date turn queries and
keys instead (rotary positions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsembed.embedders.nets.patch_embed import PatchEmbed2d, PatchLinear2d
from rsembed.embedders.nets.positions import sincos_1d, sincos_2d
from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.nets.transformer import Blocks, BlockSpec

PATCH_PX = 8
DAYS_PER_STEP = 30.0
_BEFORE_MONTH = (0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334)


class PixelPatchEmbed(PatchLinear2d):
    """A layer over the bands of each pixel, then patches of what it gives."""

    def __init__(self, channels: int, dim: int, patch: int, *, hidden: int) -> None:
        super().__init__(hidden, dim, patch)
        self.pixel_proj = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU())

    def forward(self, pixels_bchw: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, h, w, dim)."""
        return super().forward(self.pixel_proj(pixels_bchw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def days_since_2000(timestamps: Tensor) -> Tensor:
    """Float32 days since 2000-01-01 of (day of the month, month 0..11, year); years of 365.25 days, no leap day.

    As the authors count: at most a day off.
    """
    day, month, year = timestamps.unbind(-1)
    before = torch.tensor(_BEFORE_MONTH, dtype=torch.float32, device=timestamps.device)[month]
    return (year.to(torch.float32) - 2000) * 365.25 + before + (day.to(torch.float32) - 1.0)


class OlmoEarthEncoder(nn.Module):
    """``band_sets``: sensor -> channels of each of its sets of bands.

    ``pixel_hidden``: width of the layer over single pixels; None for version 1. ``rotary``: version 1.2.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        *,
        heads: int,
        band_sets: Mapping[str, Sequence[int]],
        pixel_hidden: int | None = None,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        self.part, self.rotary = dim // 4, rotary
        self.band_sets = band_sets
        self.patch_embeds = nn.ModuleDict(
            {
                f"{sensor}__{i}": PatchEmbed2d(channels, dim, PATCH_PX)
                if pixel_hidden is None
                else PixelPatchEmbed(channels, dim, PATCH_PX, hidden=pixel_hidden)
                for sensor, sets in band_sets.items()
                for i, channels in enumerate(sets)
            }
        )
        self.set_codes = nn.ParameterDict(
            {sensor: nn.Parameter(torch.zeros(len(sets), self.part)) for sensor, sets in band_sets.items()}
        )
        self.month_embed = nn.Embedding(12, self.part)
        self.blocks = Blocks(BlockSpec(dim, heads, eps=1e-5, qkv="split", rotary_axes=3 if rotary else 0), depth)
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def embedded(self, pixels_btchw: Tensor, sensor: str, patch_px: int) -> Tensor:
        """Tokens without their codes, (B, h, w, T, sets, dim); other patch sizes by resizing the image."""
        batch, frames, _, height, width = pixels_btchw.shape
        images = pixels_btchw.flatten(0, 1)
        if patch_px != PATCH_PX:
            size = (height // patch_px * PATCH_PX, width // patch_px * PATCH_PX)
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True)
        sets = torch.split(images, list(self.band_sets[sensor]), dim=1)
        grids = [self.patch_embeds[f"{sensor}__{i}"](bands) for i, bands in enumerate(sets)]
        # (B T, h, w, dim) of each set -> (B, h, w, T, sets, dim)
        return (
            torch.stack(grids, dim=3)
            .reshape(batch, frames, *grids[0].shape[1:3], len(sets), -1)
            .permute(0, 2, 3, 1, 4, 5)
        )

    def codes(self, like: Tensor, sensor: str, months_bt: Tensor, slots_bt: Tensor, step_b: Tensor) -> Tensor:
        """What is added to the tokens: [set of bands | place in the series | month | place in the image]."""
        *cells, _ = like.shape
        shape = (*cells, self.part)
        of_set, of_month = self.set_codes[sensor], self.month_embed(months_bt)[:, None, None, :, None]
        if self.rotary:
            of_slot, place = torch.zeros((), device=like.device), torch.zeros((), device=like.device)
        else:
            of_slot = sincos_1d(slots_bt.to(torch.float32), self.part, span=2 * self.part)[:, None, None, :, None]
            height, width = like.shape[1:3]
            place = sincos_2d(self.part, height, width, step=step_b, span=self.part, dtype=torch.float32)
            place = place[:, :, :, None, None]
        return torch.cat([part.expand(shape) for part in (of_set, of_slot, of_month, place)], dim=-1)

    def positions(self, like: Tensor, timestamps_bt3: Tensor, step_b: Tensor) -> Tensor:
        """(time, row, column) of each token, float32 (B, N, 3): 30 days, and ``step_b`` a cell."""
        batch, height, width, frames, sets, _ = like.shape
        times = days_since_2000(timestamps_bt3) * (1.0 / DAYS_PER_STEP)
        rows = torch.arange(height, dtype=torch.float32, device=like.device) * step_b[:, None]
        columns = torch.arange(width, dtype=torch.float32, device=like.device) * step_b[:, None]
        axes = (times[:, None, None, :, None], rows[:, :, None, None, None], columns[:, None, :, None, None])
        shape = (batch, height, width, frames, sets)
        return torch.stack([axis.expand(shape) for axis in axes], dim=-1).flatten(1, 4)

    def forward(
        self,
        pixels_btchw: Tensor,
        sensor: str,
        *,
        timestamps_bt3: Tensor,
        slots_bt: Tensor,
        step_b: Tensor,
        patch_px: int,
    ) -> Tokens:
        """Tokens after the final norm, every date and set of bands as a frame of its own.

        ``timestamps_bt3``: day of the month, month 0..11, year. ``slots_bt``: place of each frame in the series.
        ``step_b``: ground of a token in units of 10 m.
        """
        x = self.embedded(pixels_btchw, sensor, patch_px)
        cells = x.shape[1:5]
        positions = self.positions(x, timestamps_bt3, step_b) if self.rotary else None
        x = x + self.codes(x, sensor, timestamps_bt3[..., 1], slots_bt, step_b)
        x = self.norm(self.blocks(x.flatten(1, 4), positions_bna=positions))
        return Tokens(patches_bthwd=x.unflatten(1, cells).permute(0, 3, 4, 1, 2, 5).flatten(1, 2))
