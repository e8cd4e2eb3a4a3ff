"""From pixels to tokens: a convolution whose stride is its kernel, and kernels resized to another patch."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


class PatchLinear2d(nn.Module):
    """Square patches through a linear layer that takes a patch's pixels row by row, channels fastest."""

    def __init__(self, channels: int, dim: int, patch: int, *, bias: bool = True) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(patch * patch * channels, dim, bias=bias)

    def forward(self, pixels_bchw: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, h, w, dim); H and W are multiples of the patch."""
        batch, channels, height, width = pixels_bchw.shape
        side = self.patch
        cells = pixels_bchw.reshape(batch, channels, height // side, side, width // side, side)
        out: Tensor = self.proj(cells.permute(0, 2, 4, 3, 5, 1).flatten(3))
        return out


def resize_kernel(weight_ochw: Tensor, patch: int) -> Tensor:
    """Patch kernels (O, C, p, p) for patches of another size, (O, C, patch, patch); as they are when they fit.

    The kernel whose answer to an image resized to ``patch`` comes closest to the old kernel's answer
    to the image itself: the pseudo-inverse of the resizing (FlexiViT, Beyer et al. 2023, arXiv:2212.08013).
    """
    size = weight_ochw.shape[-1]
    if patch == size:
        return weight_ochw
    to_new = _kernel_map(size, patch).to(weight_ochw.device, weight_ochw.dtype)
    resized = weight_ochw.flatten(-2) @ to_new.T
    return resized.reshape(*weight_ochw.shape[:2], patch, patch)


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # what is kept serves other callers, too
def _kernel_map(size: int, patch: int) -> Tensor:
    """Matrix (patch^2, size^2) from old kernels to new ones, float64 on the CPU; never write to it."""
    units = torch.eye(size * size, dtype=torch.float64).reshape(-1, 1, size, size)
    resized = F.interpolate(units, size=(patch, patch), mode="bicubic", antialias=True, align_corners=False)
    inverse: Tensor = torch.linalg.pinv(resized.reshape(size * size, patch * patch))
    return inverse
