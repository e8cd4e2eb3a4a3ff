"""Residual networks of bottleneck blocks (He et al. 2016, arXiv:1512.03385), the stride in the 3 x 3 convolution."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from rsembed.embedders.nets.tokens import Tokens

_EXPANSION = 4


def _convolution(inside: int, outside: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, stride=stride, padding=size // 2, bias=False)


class Bottleneck(nn.Module):
    """1 x 1 down to ``width`` channels, 3 x 3, 1 x 1 up to four times ``width``; added to its input."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = _EXPANSION * width
        self.conv1, self.bn1 = _convolution(channels, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _convolution(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _convolution(width, out, 1), nn.BatchNorm2d(out)
        same = stride == 1 and channels == out
        self.downsample = None if same else nn.Sequential(_convolution(channels, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 4 width, H / stride, W / stride)."""
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        inner = self.bn3(self.conv3(inner))
        return F.relu(inner + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """``depths``: blocks of each of the four stages; (3, 4, 6, 3) is ResNet-50."""

    def __init__(self, depths: Sequence[int], *, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.conv1, self.bn1 = _convolution(channels, width, 7, 2), nn.BatchNorm2d(width)
        inside = width
        for stage, depth in enumerate(depths, 1):
            blocks = []
            for i in range(depth):
                blocks.append(Bottleneck(inside, width, 2 if i == 0 and stage > 1 else 1))
                inside = _EXPANSION * width
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
            width *= 2
        self.stages = len(depths)

    def forward(self, pixels_bchw: Tensor) -> Tokens:
        """The last map; ``vector``: its mean."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(pixels_bchw))), 3, stride=2, padding=1)
        for stage in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        return Tokens(patches_bthwd=x.permute(0, 2, 3, 1)[:, None], vector=x.mean((2, 3)))
