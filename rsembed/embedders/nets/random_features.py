"""Random convolutional features (Rolf et al. 2021, Nature Communications 12, 4392): fixed filters, no training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsembed.embedders.nets.tokens import Tokens


class RandomFeatures(nn.Module):
    """``relu(h + bias)`` and ``relu(-h + bias)`` of the filter responses h, one feature a channel."""

    filters: Tensor

    def __init__(self, filters: object, *, bias: float = -1.0) -> None:
        """``filters``: float32 (out, in, k, k) with odd k, as an array."""
        super().__init__()
        self.register_buffer("filters", torch.as_tensor(filters, dtype=torch.float32))
        self.bias = bias

    def forward(self, pixels_bchw: Tensor, valid_bhw: Tensor, *, cell_px: int = 1) -> Tokens:
        """One token per ``cell_px`` x ``cell_px`` pixels: the mean over its valid pixels (0 where none is).

        ``valid_bhw``: 1 where a pixel counts, else 0. Tokens have D = 2 x filters; a cell's
        weight is the share of its pixels that count.
        """
        margin = self.filters.shape[-1] // 2
        padded = F.pad(pixels_bchw, (margin,) * 4, mode="replicate")
        response = F.conv2d(padded, self.filters)
        features = torch.cat([F.relu(response + self.bias), F.relu(self.bias - response)], dim=1)
        weights = valid_bhw[:, None]
        if cell_px > 1:
            weights = F.avg_pool2d(valid_bhw[:, None], cell_px)
            features = F.avg_pool2d(features * valid_bhw[:, None], cell_px) / weights.clamp_min(1e-6)
        return Tokens(patches_bthwd=features.permute(0, 2, 3, 1)[:, None], weights_bthw=weights)
