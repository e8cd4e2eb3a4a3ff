"""Where the cells of a map of vectors lie, and which input each of them comes from.

Networks answer with a grid of tokens an input. A region that took several inputs gets one regular
lattice of cells, of the size that a token has on the ground; each cell takes the token in which its
centre lies, of the input that owns that ground. Everything is in pixels of the fetched image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsembed.core.embedding import CellGrid
from rsembed.core.fetching import Grid

_SLACK = 1e-6
"""Pixels: fractions such as 37/128 are not exact."""


@dataclass(frozen=True)
class Span:
    """One input along one axis: its ``cells`` cover ``[low, high)``, of which it owns ``[own_low, own_high)``."""

    own_low: float
    own_high: float
    low: float
    high: float
    cells: int

    @property
    def cell(self) -> float:
        """Length of a cell."""
        return (self.high - self.low) / self.cells


@dataclass(frozen=True)
class Axis:
    """Cells along one axis: the first begins at ``low``, each is ``cell`` long.

    ``span[k]`` and ``index[k]``: from which input the k-th cell comes, and which of its cells it is.
    """

    low: float
    cell: float
    span: NDArray[np.int64]
    index: NDArray[np.int64]


@dataclass(frozen=True)
class CellLattice:
    """The cells of a map: top-left corner and size of a cell, pixels of the fetched image."""

    left: float
    top: float
    width: float
    height: float

    def on(self, grid: Grid, shape: tuple[int, int]) -> CellGrid:
        """The same cells on the ground: ``grid`` is the fetched image's, ``shape`` the map's ``(h, w)``."""
        scale = grid.scale_m
        left, top = grid.x_min + self.left * scale, grid.y_max - self.top * scale
        return CellGrid(grid.epsg, (self.width * scale, 0.0, left, 0.0, -self.height * scale, top), *shape)


def axis_cells(spans: Sequence[Span]) -> Axis:
    """The cells whose centres lie on ground that the inputs ``spans`` own; at least one.

    ``spans`` in order along the axis. Where no centre lies inside, the cell that holds the middle stands for it.
    """
    cell = sum(span.cell for span in spans) / len(spans)
    origin, end = spans[0].low, spans[-1].high
    low, high = max(spans[0].own_low, origin), min(spans[-1].own_high, end)
    first = math.ceil((low - origin - _SLACK) / cell - 0.5)
    last = math.floor((high - origin + _SLACK) / cell - 0.5)
    # A centre on the image's very end would stand for ground of which half was never seen.
    most = max(0, math.ceil((end - origin - _SLACK) / cell - 0.5) - 1)
    if last < first:
        first = last = math.floor(((low + high) / 2 - origin) / cell)
    first, last = min(max(0, first), most), min(max(0, last), most)
    centres = origin + (np.arange(first, last + 1) + 0.5) * cell
    borders = np.array([span.own_low for span in spans[1:]])
    owner = np.searchsorted(borders, centres, side="right").astype(np.int64)
    lows, cells = (np.array([getattr(span, name) for span in spans]) for name in ("low", "cell"))
    index = np.floor((centres - lows[owner]) / cells[owner]).astype(np.int64)
    counts = np.array([span.cells for span in spans])
    return Axis(origin + first * cell, cell, owner, np.clip(index, 0, counts[owner] - 1))
