"""From pixels to tokens: a convolution whose stride is its kernel."""

from __future__ import annotations

from torch import Tensor, nn


class PatchEmbed2d(nn.Module):
    """Square patches of one image; pixels beyond the last whole patch are left out."""

    def __init__(self, channels: int, dim: int, patch: int, *, bias: bool = True, padding: int = 0) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch, padding=padding, bias=bias)

    def forward(self, pixels_bchw: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, h, w, dim)."""
        out: Tensor = self.proj(pixels_bchw)
        return out.permute(0, 2, 3, 1)


class PatchEmbed3d(nn.Module):
    """Patches of ``(frames, rows, columns)`` pixels of a time series."""

    def __init__(self, channels: int, dim: int, patch: tuple[int, int, int], *, bias: bool = True) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, dim, patch, stride=patch, bias=bias)

    def forward(self, pixels_bcthw: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, t, h, w, dim)."""
        out: Tensor = self.proj(pixels_bcthw)
        return out.permute(0, 2, 3, 4, 1)
