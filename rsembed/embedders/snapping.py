"""From a tile to an input of its own pixels: the central square that holds whole tokens of every grid.

For networks that take images of any size, as long as tokens of several sizes fill them. numpy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rsembed.tools.tiling import Box

Pixels = TypeVar("Pixels", NDArray[np.float32], NDArray[np.bool_])


@dataclass(frozen=True)
class Snapping:
    """Which tiles go in at their own pixel size, and how many pixels of them.

    ``scale_m``: metres a pixel. ``tokens_m``: sizes of the tokens, metres a side. A tile counts as
    square when its sides differ by at most ``square_within_px``.
    """

    scale_m: float
    tokens_m: frozenset[float]
    max_px: int
    max_tokens: int = 3000
    square_within_px: int = 8

    @property
    def unit_px(self) -> int:
        """The least number of pixels that is a whole number of tokens of each size."""
        scale = Fraction(self.scale_m).limit_denominator(1000)
        return math.lcm(*((scale / Fraction(token_m)).denominator for token_m in self.tokens_m))

    def side_px(self, height: int, width: int) -> int | None:
        """The multiple of the unit nearest to the shorter side (the smaller of two that are equally near).

        None for what is no square or would be too large: it has to be resized.
        """
        units, rest = divmod(min(height, width), self.unit_px)
        side = self.unit_px * max(1, units + (rest > self.unit_px / 2))
        tokens = sum((side * self.scale_m / token_m) ** 2 for token_m in self.tokens_m)
        square = abs(height - width) <= self.square_within_px
        return side if square and side <= self.max_px and tokens <= self.max_tokens else None


def first_pixel(height: int, width: int, side: int) -> tuple[int, int]:
    """``(row, col)`` in the image where its central ``side`` x ``side`` square begins; negative where it is padded.

    Cut in two steps, to the image's own square and from there to ``side``, each rounded towards the first pixel.
    """
    square = min(height, width)
    inner = (square - side) // 2 if side <= square else -((side - square) // 2)
    return (height - square) // 2 + inner, (width - square) // 2 + inner


def central_square(values: Pixels, side: int) -> Pixels:
    """``values`` (..., H, W) cut or padded with zeros around the centre to (..., side, side)."""
    height, width = values.shape[-2:]
    top, left = first_pixel(height, width, side)
    inside = values[..., max(0, top) : top + side, max(0, left) : left + side]
    above, before = max(0, -top), max(0, -left)
    beyond = [(above, side - above - inside.shape[-2]), (before, side - before - inside.shape[-1])]
    return np.pad(inside, [(0, 0)] * (values.ndim - 2) + beyond) if any(map(any, beyond)) else inside


def roi_in_square(roi: Box, height: int, width: int, side: int) -> Box:
    """``roi`` of a ``height`` x ``width`` image as fractions of its central square, cut at the square's edges."""
    top, left = first_pixel(height, width, side)
    x0, x1 = (min(1.0, max(0.0, (x * width - left) / side)) for x in (roi[0], roi[2]))
    y0, y1 = (min(1.0, max(0.0, (y * height - top) / side)) for y in (roi[1], roi[3]))
    return (x0, y0, x1, y1)
