"""One band of one scene onto a grid: a slice, the nearest pixel, or the area-weighted mean.

Sums run in a fixed order that depends on the pixel alone, so a smaller grid gives exactly the pixels
of a larger one.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import pyproj
from numpy.typing import NDArray
from pyproj.exceptions import CRSError

from rsembed.core.errors import ProviderError
from rsembed.providers.lattice import Lattice, PixelWindow, RasterSource
from rsembed.providers.units import Conversion

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Mask = NDArray[np.bool_]
Method = Literal["nearest", "average"]
Clear = Callable[[Lattice], Mask | None]

COARSER = 1.02
"""A pixel counts as coarser from this ratio on; below it the two scales are the same."""
EDGE = 1e-9
"""Share of a pixel by which a place on an edge belongs to the pixel behind it (as in GDAL)."""


@dataclass(frozen=True)
class NearestPlan:
    """Which source pixel each target pixel shows: indices within ``window``, and where there is one.

    ``rows``, ``cols`` broadcast to (H, W); so does ``inside``. ``is_slice``: the window is the answer.
    """

    window: PixelWindow
    rows: Ints
    cols: Ints
    inside: Mask
    is_slice: bool


@dataclass(frozen=True)
class AxisWeights:
    """Overlaps along one axis: ``index`` (n, m) source pixels within the window, ``weight`` (n, m) metres."""

    start: int
    stop: int
    index: Ints
    weight: Floats


@dataclass(frozen=True)
class SeparablePlan:
    """Overlaps of target and source pixels whose edges are parallel: rows and columns apart."""

    rows: AxisWeights
    cols: AxisWeights

    @property
    def window(self) -> PixelWindow:
        """The source pixels that take part."""
        rows, cols = self.rows, self.cols
        return PixelWindow(rows.start, cols.start, rows.stop - rows.start, cols.stop - cols.start)

    def mean(self, values: Floats, valid: Mask) -> tuple[Floats, Mask]:
        """Weighted mean of the valid ``values`` of the window, and where there is one; (H, W)."""
        total = self._sum(np.where(valid, values, 0.0))
        weight = self._sum(valid.astype(np.float64))
        there = weight > 0
        return np.where(there, total / np.where(there, weight, 1.0), 0.0), there

    def _sum(self, block: Floats) -> Floats:
        rows, cols = self.rows, self.cols
        down = rows.weight[:, 0, None] * block[rows.index[:, 0]]
        for k in range(1, rows.index.shape[1]):
            down += rows.weight[:, k, None] * block[rows.index[:, k]]
        across = cols.weight[None, :, 0] * down[:, cols.index[:, 0]]
        for k in range(1, cols.index.shape[1]):
            across += cols.weight[None, :, k] * down[:, cols.index[:, k]]
        return across


@dataclass(frozen=True)
class BoxPlan:
    """Target pixels as boxes in source pixels: ``top``, ``bottom``, ``left``, ``right``, each (H, W)."""

    window: PixelWindow
    top: Floats
    bottom: Floats
    left: Floats
    right: Floats

    def mean(self, values: Floats, valid: Mask) -> tuple[Floats, Mask]:
        """Weighted mean of the valid ``values`` of the window, and where there is one; (H, W)."""
        filled, there = np.where(valid, values, 0.0), valid.astype(np.float64)
        total, weight = np.zeros(self.top.shape), np.zeros(self.top.shape)
        row0, col0 = np.floor(self.top + EDGE), np.floor(self.left + EDGE)
        for i in range(math.ceil(float((self.bottom - row0).max()) - EDGE)):
            tall = np.clip(np.minimum(self.bottom, row0 + i + 1) - np.maximum(self.top, row0 + i), 0, None)
            rows = np.clip(row0 + i - self.window.row, 0, self.window.height - 1).astype(np.intp)
            for j in range(math.ceil(float((self.right - col0).max()) - EDGE)):
                wide = np.clip(np.minimum(self.right, col0 + j + 1) - np.maximum(self.left, col0 + j), 0, None)
                cols = np.clip(col0 + j - self.window.col, 0, self.window.width - 1).astype(np.intp)
                share = tall * wide
                total += share * filled[rows, cols]
                weight += share * there[rows, cols]
        known = weight > EDGE
        return np.where(known, total / np.where(known, weight, 1.0), 0.0), known


def method_for(source: Lattice, target: Lattice, resampling: Literal["area", "nearest"]) -> Method:
    """``average`` where ``target`` is coarser than ``source`` on the ground and area weighting is wanted."""
    if resampling == "nearest":
        return "nearest"
    return "average" if pixel_ratio(source, target) > COARSER else "nearest"


@lru_cache(maxsize=1024)
def pixel_ratio(source: Lattice, target: Lattice) -> float:
    """Side of a target pixel in source pixels, measured at the target's centre."""
    rows = np.array([target.height / 2, target.height / 2, target.height / 2 + 1])
    cols = np.array([target.width / 2, target.width / 2 + 1, target.width / 2])
    row, col = _source_position(source, target, rows, cols)
    return math.sqrt(abs((row[1] - row[0]) * (col[2] - col[0]) - (row[2] - row[0]) * (col[1] - col[0])))


def read_nearest(raster: RasterSource, index: int, target: Lattice, use: Conversion) -> tuple[Floats, Mask] | None:
    """Band ``index`` on ``target`` by the nearest pixel: values and mask (H, W), or None off the raster."""
    plan = nearest_plan(raster.lattice, target)
    if plan is None:
        return None
    block = raster.read(index, plan.window)
    values, valid = use.working(block if plan.is_slice else block[plan.rows, plan.cols], averaging=False)
    values = use.finished(values, valid, averaging=False)
    if not plan.is_slice:
        valid &= plan.inside
        values = np.where(valid, values, 0.0)
    return values, valid


def read_average(
    raster: RasterSource, index: int, target: Lattice, use: Conversion, clear: Clear
) -> tuple[Floats, Mask] | None:
    """Band ``index`` on ``target`` as the area-weighted mean of its valid, clear pixels; see :func:`read_nearest`.

    ``clear`` gives the mask of clear pixels on the band's own lattice (None: all are).
    """
    source = raster.lattice
    separable = source.crs == target.crs and source.is_upright and target.is_upright
    plan = _overlaps(source, target) if separable else _boxes(source, target)
    if plan is None:
        return None
    window = plan.window
    values, valid = use.working(raster.read(index, window), averaging=True)
    mask = clear(source.part(window))
    if mask is not None:
        valid = valid & mask
    mean, valid = plan.mean(values, valid)
    return np.where(valid, use.finished(mean, valid, averaging=True), 0.0), valid


@lru_cache(maxsize=256)
def nearest_plan(source: Lattice, target: Lattice) -> NearestPlan | None:
    """The pixels of ``source`` nearest to the centres of ``target``'s; None when they do not meet."""
    rows: Floats = np.arange(target.height, dtype=np.float64) + 0.5
    cols: Floats = np.arange(target.width, dtype=np.float64) + 0.5
    if source.crs == target.crs and source.is_upright and target.is_upright:
        row, col = _source_axes(source, target, rows, cols)
        row, col = row[:, None], col[None, :]
    else:
        grid_rows, grid_cols = np.meshgrid(rows, cols, indexing="ij")
        row, col = _source_position(source, target, grid_rows.ravel(), grid_cols.ravel())
        row, col = row.reshape(grid_rows.shape), col.reshape(grid_cols.shape)
    with np.errstate(invalid="ignore"):
        in_row = (row + EDGE >= 0) & (row + EDGE < source.height)
        in_col = (col + EDGE >= 0) & (col + EDGE < source.width)
    inside = in_row & in_col
    if not inside.any():
        return None
    # A separable axis is judged on its own; otherwise only pixels inside on both count.
    used_row = in_row if row.shape != inside.shape else inside
    used_col = in_col if col.shape != inside.shape else inside
    ri = np.floor(np.where(used_row, row, row[used_row][0]) + EDGE).astype(np.int32)
    ci = np.floor(np.where(used_col, col, col[used_col][0]) + EDGE).astype(np.int32)
    window = PixelWindow(int(ri.min()), int(ci.min()), int(ri.max() - ri.min()) + 1, int(ci.max() - ci.min()) + 1)
    whole = (window.height, window.width) == (target.height, target.width)
    one_by_one = bool((np.diff(ri, axis=0) == 1).all() and (np.diff(ci, axis=1) == 1).all())
    is_slice = whole and one_by_one and bool(inside.all())
    return NearestPlan(window, ri - window.row, ci - window.col, inside, is_slice)


def _source_axes(source: Lattice, target: Lattice, rows: Floats, cols: Floats) -> tuple[Floats, Floats]:
    ta, _, tc, _, te, tf = target.transform
    sa, _, sc, _, se, sf = source.transform
    return ((tf + rows * te) - sf) / se, ((tc + cols * ta) - sc) / sa


def _source_position(source: Lattice, target: Lattice, rows: Floats, cols: Floats) -> tuple[Floats, Floats]:
    ta, tb, tc, td, te, tf = target.transform
    x, y = ta * cols + tb * rows + tc, td * cols + te * rows + tf
    if source.crs != target.crs:
        x, y = _transformer(target.crs, source.crs).transform(x, y)
    a, b, c, d, e, f = source.transform
    det = a * e - b * d
    dx, dy = np.asarray(x, float) - c, np.asarray(y, float) - f
    return (a * dy - d * dx) / det, (e * dx - b * dy) / det


_local = threading.local()


def _transformer(source: str, target: str) -> pyproj.Transformer:
    # One a thread: pyproj's transformers must not be shared.
    cache: dict[tuple[str, str], pyproj.Transformer] | None = getattr(_local, "transformers", None)
    if cache is None:
        cache = _local.transformers = {}
    if (source, target) not in cache:
        try:
            cache[source, target] = pyproj.Transformer.from_crs(source, target, always_xy=True)
        except CRSError as exc:
            raise ProviderError(f"coordinates cannot be brought from {source} to {target}: {exc}") from exc
    return cache[source, target]


@lru_cache(maxsize=256)
def _overlaps(source: Lattice, target: Lattice) -> SeparablePlan | None:
    ta, _, tc, _, te, tf = target.transform
    sa, _, sc, _, se, sf = source.transform
    rows = _axis_overlaps(-tf, -te, target.height, (-sf, -se, source.height))
    cols = _axis_overlaps(tc, ta, target.width, (sc, sa, source.width))
    return None if rows is None or cols is None else SeparablePlan(rows, cols)


def _axis_overlaps(first: float, step: float, n: int, source: tuple[float, float, int]) -> AxisWeights | None:
    # Absolute coordinates and absolute source indices: the weights of a pixel do not depend on where
    # the grid or the window begins.
    origin, size, count = source
    edges = first + np.arange(n + 1) * step
    low, high = edges[:-1], edges[1:]
    begin = np.floor((low - origin) / size + EDGE).astype(np.int64)
    terms = math.ceil(step / size - EDGE) + 1
    index = begin[:, None] + np.arange(terms)
    left = origin + index * size
    weight = np.minimum(high[:, None], left + size) - np.maximum(low[:, None], left)
    weight = np.where((index >= 0) & (index < count) & (weight > EDGE * size), weight, 0.0)
    used = index[weight > 0]
    if not used.size:
        return None
    start, stop = int(used.min()), int(used.max()) + 1
    # At a map's far coordinates a weight is exact to nanometres; whole ones become whole again.
    exact: Floats = np.asarray(np.round(weight, 6), dtype=np.float64)
    return AxisWeights(start, stop, np.clip(index - start, 0, stop - start - 1).astype(np.int32), exact)


@lru_cache(maxsize=64)
def _boxes(source: Lattice, target: Lattice) -> BoxPlan | None:
    """Where ``target``'s pixels lie in ``source``: the box between each one's first and last corner.

    Across projections GDAL's average weighs the edges of such boxes a little differently, and not
    the same in a grid and in its crop; here a crop has to be equal to the bit.
    """
    rows, cols = np.meshgrid(np.arange(target.height + 1.0), np.arange(target.width + 1.0), indexing="ij")
    row, col = _source_position(source, target, rows.ravel(), cols.ravel())
    row, col = row.reshape(rows.shape), col.reshape(cols.shape)
    down = _interval(row[:-1, :-1], row[1:, 1:], source.height)
    across = _interval(col[:-1, :-1], col[1:, 1:], source.width)
    meets = (down[1] > down[0]) & (across[1] > across[0])
    if not meets.any():
        return None
    top, bottom = math.floor(down[0][meets].min()), math.ceil(down[1][meets].max())
    left, right = math.floor(across[0][meets].min()), math.ceil(across[1][meets].max())
    return BoxPlan(PixelWindow(top, left, bottom - top, right - left), *down, *across)


def _interval(first: Floats, last: Floats, size: int) -> tuple[Floats, Floats]:
    # Where the projection has no answer (infinite) there is no overlap: an empty interval.
    known = np.isfinite(first) & np.isfinite(last)
    low, high = np.where(known, np.minimum(first, last), 0.0), np.where(known, np.maximum(first, last), 0.0)
    return np.clip(low, 0, size), np.clip(high, 0, size)
