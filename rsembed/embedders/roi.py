"""The part of an input that was asked for, as ``(left, top, right, bottom)`` fractions; numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsembed.tools.tiling import Box


def on_canvas(roi: Box, height: int, width: int, canvas_height: int, canvas_width: int) -> Box:
    """``roi`` of a ``height`` x ``width`` image, as fractions of the canvas the model sees.

    The canvas shares the image's top-left corner; it is larger where the image was padded
    to the right and the bottom, smaller where those sides were cut.
    """
    if (height, width) == (canvas_height, canvas_width):
        return roi
    down, across = height / canvas_height, width / canvas_width
    left, top, right, bottom = roi
    return (min(1.0, left * across), min(1.0, top * down), min(1.0, right * across), min(1.0, bottom * down))


def crop_grid(grid_dhw: NDArray[np.float32], roi: Box) -> NDArray[np.float32]:
    """The cells of ``grid_dhw`` (D, h, w) whose centre lies in ``roi``; at least one row and column.

    Where no centre lies inside, the cell that holds the middle of the roi stands for it.
    """
    _, height, width = grid_dhw.shape
    left, top, right, bottom = roi
    rows, cols = _span(top, bottom, height), _span(left, right, width)
    return np.ascontiguousarray(grid_dhw[:, rows, cols])


def _span(low: float, high: float, cells: int) -> slice:
    centres = (np.arange(cells) + 0.5) / cells
    # A hair of slack: fractions such as 37/128 are not exact.
    inside = np.flatnonzero((centres >= low - 1e-9) & (centres <= high + 1e-9))
    if len(inside):
        return slice(int(inside[0]), int(inside[-1]) + 1)
    nearest = min(cells - 1, max(0, int((low + high) / 2 * cells)))
    return slice(nearest, nearest + 1)
