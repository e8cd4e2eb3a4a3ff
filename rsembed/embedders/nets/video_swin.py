"""Video Swin Transformer (arXiv:2106.13230) that halves the frames together with the sides (AgriFM, arXiv:2505.21357).

Positions come from the windows' bias alone, so any number of frames and any size goes in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from rsembed.embedders.nets.patch_embed import PatchEmbed3d
from rsembed.embedders.nets.swin import PatchMerging, SwinStages
from rsembed.embedders.nets.tokens import Tokens
from rsembed.embedders.nets.window_attention import Shape, WindowAttention, relative_index


class FirstOffsets(WindowAttention):
    """A window that was cut reads its offsets off the whole window's first tokens, as the family's code does.

    They are its own where only frames are missing; where a map is smaller than a window they are others.
    """

    def bias(self, window: Shape) -> Tensor:
        """See :meth:`WindowAttention.bias`."""
        tokens = math.prod(window)
        index = relative_index(self.window, self.window)[:tokens, :tokens].to(self.bias_table.device)
        return self.bias_table[index].permute(2, 0, 1)


class FrameMerging(PatchMerging):
    """The mean of two frames, then four neighbours as in an image."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, dim) -> (B, T/2, H/2, W/2, 2 dim); an odd last frame is averaged with zeros."""
        x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, x.shape[1] % 2))
        return super().forward((x[:, 0::2] + x[:, 1::2]) / 2)


class VideoSwin(SwinStages):
    """``patch``, ``window``: along frames, rows and columns."""

    def __init__(
        self, channels: int, dim: int, depths: Sequence[int], *, heads: Sequence[int], window: Shape, patch: Shape
    ) -> None:
        super().__init__(dim, depths, heads=heads, window=window, merging=FrameMerging, attention=FirstOffsets)
        frames, rows, cols = self.patch = patch
        self.patch_embed = PatchEmbed3d(channels, dim, (frames, rows, cols))

    def forward(self, pixels_bcthw: Tensor) -> Tokens:
        """The last maps after the final norm; zeros fill up what is no whole patch."""
        missing = [-size % step for size, step in zip(pixels_bcthw.shape[2:], self.patch, strict=True)]
        pixels = F.pad(pixels_bcthw, [n for more in reversed(missing) for n in (0, more)])
        return Tokens(patches_bthwd=self.through(self.patch_embed(pixels)))
