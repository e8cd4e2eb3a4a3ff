"""Stored rasters with their pyramids, and how they are read onto a grid.

Guide "Scale": each level of a pyramid aggregates blocks of 2 x 2 pixels of the level below; a request is
read from the level with the closest scale less than or equal to its own, then nearest neighbour. REST
reference "PyramidingPolicy": MEAN is weighted by the mask and its mask is the mean of the masks, SAMPLE is
the upper-left pixel with its mask, MODE is weighted by the mask.

What is not documented, and chosen here: whole numbers are rounded half up at each level; of equally frequent
values MODE takes the first in reading order; pixels beyond the raster's edge count as masked; and a raster is
taken for a whole image, so its pyramid starts at its own corner and goes on to a single pixel (the service
stops at 256 x 256, which would leave the small rasters of tests without one).
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import rasterio
from numpy.typing import NDArray

from rsembed.testing.earth_engine.errors import EarthEngineError, NotModelledError
from rsembed.testing.earth_engine.lattices import is_upright, nearest, nominal_scale_m
from rsembed.testing.earth_engine.planes import compact
from rsembed.testing.earth_engine.values import Band, Grid, Masks, PixelCache, PixelType, Plane, Projection

Policy = Literal["mean", "sample", "mode"]
Numbers = NDArray[np.generic]
Level = tuple[Numbers, Masks]
"""Numbers in the band's own dtype and their mask, both (height, width)."""

MAX_KEPT_BYTES = 512 * 2**20


@dataclass(frozen=True, eq=False)
class StoredRaster:
    """One band as it is stored: ``load`` reads all of it, once; ``scene`` is the id of its image."""

    scene: str
    projection: Projection
    type: PixelType
    policy: Policy
    load: Callable[[], Level]


class RasterStore:
    """Pyramid levels that were read or made, the longest unused forgotten first; for many threads."""

    def __init__(self, limit_bytes: int = MAX_KEPT_BYTES) -> None:
        self._levels: OrderedDict[tuple[StoredRaster, int], Level] = OrderedDict()
        self._bytes = 0
        self._limit = limit_bytes
        self._lock = threading.Lock()

    def level(self, raster: StoredRaster, number: int) -> Level:
        """Level ``number`` of ``raster``; 0 is the stored one."""
        key = (raster, number)
        with self._lock:
            if key in self._levels:
                self._levels.move_to_end(key)
                return self._levels[key]
        made = raster.load() if number == 0 else coarser(self.level(raster, number - 1), raster.policy)
        with self._lock:
            if key not in self._levels:
                self._levels[key] = made
                self._bytes += made[0].nbytes + made[1].nbytes
            while self._bytes > self._limit and len(self._levels) > 1:
                _, old = self._levels.popitem(last=False)
                self._bytes -= old[0].nbytes + old[1].nbytes
        return made

    def band(self, raster: StoredRaster) -> Band:
        """``raster`` as a lazy band."""

        def compute(grid: Grid, cache: PixelCache) -> Plane:
            cache.scenes.add(raster.scene)
            number = pyramid_level(grid.projection, raster.projection)
            numbers, mask = self.level(raster, number)
            a, b, c, d, e, f = raster.projection.transform
            step = 2.0**number
            lattice = Projection(raster.projection.crs, (a * step, b * step, c, d * step, e * step, f))
            return sampled(numbers, mask, *nearest(grid, lattice))

        return Band(raster.type, raster.projection, compute)


def sampled(numbers: Numbers, mask: Masks, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> Plane:
    """The pixels at ``rows`` and ``cols`` (which broadcast to the output); masked outside of the raster."""
    height, width = numbers.shape
    top, bottom, left, right = rows.min(), rows.max(), cols.min(), cols.max()
    if top >= 0 and bottom < height and left >= 0 and right < width:
        return Plane(numbers[rows, cols].astype(np.float64), mask[rows, cols])
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    at = np.clip(rows, 0, height - 1), np.clip(cols, 0, width - 1)
    return Plane(numbers[at].astype(np.float64), np.where(inside, mask[at], np.zeros((), mask.dtype)))


def pyramid_level(output: Projection, source: Projection) -> int:
    """The level with the closest scale less than or equal to the output's; between projections by nominal scale."""
    if output.crs == source.crs and is_upright(output) and is_upright(source):
        ratios = [abs(output.transform[i] / source.transform[i]) for i in (0, 4)]
        levels = {max(0, math.floor(math.log2(ratio) + 1e-9)) for ratio in ratios}
        if len(levels) > 1:
            raise NotModelledError(f"pixels of {output.transform} from {source.transform}: a level for each axis")
        return levels.pop()
    return max(0, math.floor(math.log2(nominal_scale_m(output) / nominal_scale_m(source)) + 1e-9))


def coarser(level: Level, policy: Policy) -> Level:
    """The next level of a pyramid."""
    numbers, mask = level
    if policy == "sample":
        return numbers[::2, ::2], mask[::2, ::2]
    odd = ((0, numbers.shape[0] % 2), (0, numbers.shape[1] % 2))
    numbers, valid = np.pad(numbers, odd), np.pad(mask.astype(np.float64), odd)
    # The four pixels of each block in reading order, on the first axis.
    block = np.stack([numbers[r::2, c::2] for r in (0, 1) for c in (0, 1)]).astype(np.float64)
    weight = np.stack([valid[r::2, c::2] for r in (0, 1) for c in (0, 1)])
    total = weight.sum(axis=0)
    if policy == "mean":
        made = np.divide((block * weight).sum(axis=0), total, out=np.zeros_like(total), where=total > 0)
        if np.issubdtype(numbers.dtype, np.integer):
            made = np.floor(made + 0.5)
    else:
        votes = np.stack([((block == one) * weight).sum(axis=0) for one in block])
        votes = np.where(weight > 0, votes, -1.0)
        made = np.take_along_axis(block, votes.argmax(axis=0)[None], axis=0)[0]
    return made.astype(numbers.dtype), compact(total / 4)


def file_reader(
    path: str, index: int, nodata: float | None, convert: Callable[[Numbers], Numbers]
) -> Callable[[], Level]:
    """Reads band ``index`` of the file at ``path`` through ``convert``; masked at ``nodata`` and NaN."""

    def load() -> Level:
        try:
            with rasterio.open(path) as source:
                stored: Numbers = source.read(index)
        except rasterio.errors.RasterioError as exc:
            raise EarthEngineError(f"the local server cannot read {path}: {exc}", 500) from exc
        valid = np.ones(stored.shape, dtype=bool)
        if np.issubdtype(stored.dtype, np.floating):
            valid = np.isfinite(stored)
            stored = np.where(valid, stored, np.zeros_like(stored))
        if nodata is not None and not math.isnan(nodata):
            valid &= stored != nodata
        numbers = convert(stored)
        if np.issubdtype(numbers.dtype, np.floating):
            valid &= np.isfinite(numbers)  # the decibels of nothing
        return numbers, np.asarray(valid)

    return load
