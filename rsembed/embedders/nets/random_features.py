"""Random convolutional features (Rolf et al. 2021, Nature Communications 12, 4392): fixed filters, no training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsembed.embedders.nets.tokens import Tokens

_FILTERS_AT_ONCE = 16


class RandomFeatures(nn.Module):
    """``relu(h + bias)`` and ``relu(-h + bias)`` of the filter responses h, one feature a channel."""

    filters: Tensor

    def __init__(self, filters: object, *, bias: float = -1.0) -> None:
        """``filters``: float32 (out, in, k, k) with odd k, as an array."""
        super().__init__()
        self.register_buffer("filters", torch.as_tensor(filters, dtype=torch.float32))
        self.bias = bias

    def forward(
        self, pixels_bchw: Tensor, valid_bhw: Tensor, *, cell_px: int = 1, pool_weights_bhw: Tensor | None = None
    ) -> Tokens:
        """One token per ``cell_px`` x ``cell_px`` pixels: the mean over its valid pixels (0 where none is).

        ``valid_bhw``: 1 where a pixel counts, else 0. Tokens have D = 2 x filters; a cell's
        weight is the share of its pixels that count. With ``pool_weights_bhw`` the answer is one
        vector per image instead: the weighted mean over its pixels.
        """
        if pool_weights_bhw is not None:
            return Tokens(vector=self._pooled_mean(pixels_bchw, pool_weights_bhw))
        response = F.conv2d(self._padded(pixels_bchw), self.filters)
        features = torch.cat([F.relu(response + self.bias), F.relu(self.bias - response)], dim=1)
        weights = valid_bhw[:, None]
        if cell_px > 1:
            weights = F.avg_pool2d(valid_bhw[:, None], cell_px)
            features = F.avg_pool2d(features * valid_bhw[:, None], cell_px) / weights.clamp_min(1e-6)
        return Tokens(patches_bthwd=features.permute(0, 2, 3, 1)[:, None], weights_bthw=weights)

    def _pooled_mean(self, pixels_bchw: Tensor, weights_bhw: Tensor) -> Tensor:
        """The weighted mean of every feature over each image, (B, D), without holding all features at once.

        A few filters of one image at a time stay in the processor's cache: several times faster
        than pooling a token per pixel, and the same sum.
        """
        batch, _, height, width = pixels_bchw.shape
        total = weights_bhw.sum((1, 2)).clamp_min(1e-12)
        weights = weights_bhw.reshape(batch, -1)
        padded = self._padded(pixels_bchw)
        out = pixels_bchw.new_empty((batch, 2, len(self.filters)))
        for first in range(0, len(self.filters), _FILTERS_AT_ONCE):
            some = self.filters[first : first + _FILTERS_AT_ONCE]
            for image in range(batch):
                response = F.conv2d(padded[image : image + 1], some).reshape(len(some), height * width)
                out[image, 0, first : first + len(some)] = F.relu(response + self.bias) @ weights[image]
                out[image, 1, first : first + len(some)] = F.relu(self.bias - response) @ weights[image]
        return out.reshape(batch, -1) / total[:, None]

    def _padded(self, pixels_bchw: Tensor) -> Tensor:
        margin = self.filters.shape[-1] // 2
        return F.pad(pixels_bchw, (margin,) * 4, mode="replicate")
