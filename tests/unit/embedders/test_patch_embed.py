"""Patches through a linear layer, and kernels resized to another patch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rsembed.embedders.nets.patch_embed import PatchLinear2d, resize_kernel


def test_patch_linear_when_written_as_a_convolution_then_the_same_tokens() -> None:
    torch.manual_seed(0)
    layer = PatchLinear2d(3, 5, 4, bias=False)
    pixels = torch.randn(2, 3, 8, 12)
    kernel = layer.proj.weight.reshape(5, 4, 4, 3).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(pixels), F.conv2d(pixels, kernel, stride=4).permute(0, 2, 3, 1))


def test_resize_kernel_when_the_size_fits_then_the_same_kernel() -> None:
    kernel = torch.randn(2, 3, 4, 4)
    assert resize_kernel(kernel, 4) is kernel


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_resize_kernel_when_the_image_is_flat_then_its_token_hardly_changes(patch: int) -> None:
    torch.manual_seed(0)
    kernel = torch.randn(3, 2, 8, 8) + 1
    before = kernel.sum((1, 2, 3))
    torch.testing.assert_close(resize_kernel(kernel, patch).sum((1, 2, 3)), before, rtol=0.05, atol=0.5)


def test_resize_kernel_when_larger_then_images_resized_alike_give_the_same_tokens() -> None:
    torch.manual_seed(0)
    kernel, image = torch.randn(3, 2, 4, 4), torch.randn(1, 2, 4, 4)
    larger = F.interpolate(image, size=(8, 8), mode="bicubic", antialias=True, align_corners=False)
    made = F.conv2d(larger, resize_kernel(kernel, 8))
    torch.testing.assert_close(made, F.conv2d(image, kernel), rtol=1e-4, atol=1e-4)
