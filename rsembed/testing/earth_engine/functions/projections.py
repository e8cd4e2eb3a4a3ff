"""Projections of images: reading, setting, forcing, and combining pixels on the way to coarser ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rsembed.testing.earth_engine.errors import EarthEngineError, NotModelledError
from rsembed.testing.earth_engine.functions.arithmetic import each
from rsembed.testing.earth_engine.lattices import crs_name, nearest, nominal_scale_m, overlap, shifted
from rsembed.testing.earth_engine.planes import compact
from rsembed.testing.earth_engine.rasters import sampled
from rsembed.testing.earth_engine.signatures import function
from rsembed.testing.earth_engine.values import (
    COMPOSITE,
    DOUBLE,
    Band,
    Floats,
    Grid,
    Image,
    PixelCache,
    Plane,
    Projection,
    Reducer,
    Transform,
)


@function("Projection")
def _projection(crs: str, transform: list[float] | None = None) -> Projection:
    return Projection(crs_name(crs), COMPOSITE.transform if transform is None else _affine(transform))


def _affine(numbers: list[float]) -> Transform:
    if len(numbers) != 6:
        raise EarthEngineError(f"A CRS transform must have 6 numbers, got {len(numbers)}.")
    a, b, c, d, e, f = (float(number) for number in numbers)
    return a, b, c, d, e, f


@function("Image.projection")
def _projection_of(image: Image) -> Projection:
    found = {band.projection for band in image.bands.values()}
    if len(found) != 1:
        raise EarthEngineError(
            "Image.projection: The bands of the specified image contains different projections. "
            "Use Image.select to pick a single band."
        )
    return found.pop()


@function("Projection.nominalScale")
def _nominal(proj: Projection) -> float:
    return nominal_scale_m(proj)


@function("Projection.crs")
def _crs(projection: Projection) -> str:
    return projection.crs


def _target(crs: Projection, transform: list[float] | None) -> Projection:
    return crs if transform is None else Projection(crs.crs, _affine(transform))


@function("Image.setDefaultProjection")
def _defaulted(image: Image, crs: Projection, crsTransform: list[float] | None = None) -> Image:  # noqa: N803
    """Description of Image.setDefaultProjection: pixels stay what they are, only the default changes."""
    target = _target(crs, crsTransform)
    return each(image, lambda band: Band(band.type, target, band.compute), keep=True)


@function("Image.reproject")
def _reprojected(image: Image, crs: Projection, crsTransform: list[float] | None = None) -> Image:  # noqa: N803
    """Description of Image.reproject: computed in that projection and resolution; then nearest onto the output."""
    target = _target(crs, crsTransform)

    def made(band: Band) -> Band:
        def compute(grid: Grid, cache: PixelCache) -> Plane:
            rows, cols = nearest(grid, target)
            top, left = int(rows.min()), int(cols.min())
            inner = Grid(shifted(target, top, left), int(rows.max()) - top + 1, int(cols.max()) - left + 1)
            if inner == grid:
                return cache.plane(band, grid)
            plane = cache.plane(band, inner)
            return sampled(plane.values, plane.mask, rows - top, cols - left)

        return Band(band.type, target, compute)

    return each(image, made, keep=True)


@function("Image.reduceResolution")
def _coarsened(
    image: Image,
    reducer: Reducer,
    bestEffort: bool = False,  # noqa: N803
    maxPixels: int = 64,  # noqa: N803
) -> Image:
    """Description of Image.reduceResolution: all input pixels of each output pixel, on the input's own pixels.

    Each input weighs its mask times the fraction of the output pixel that it covers. The mask of the result is
    not described; here it is the sum of the weights, as a pyramid's mask is the mean of its masks (REST
    reference "PyramidingPolicy").
    """
    if reducer.name != "mean":
        raise NotModelledError(f"Image.reduceResolution with Reducer.{reducer.name}; only the mean")
    return each(image, lambda band: _mean_over(band, int(maxPixels), best_effort=bestEffort), keep=True)


def _mean_over(band: Band, most: int, *, best_effort: bool) -> Band:
    if band.projection == COMPOSITE:
        raise NotModelledError(
            "Image.reduceResolution of a composite or constant, whose own pixels are one degree wide; "
            "set its projection with setDefaultProjection first"
        )
    # Means of whole numbers are fractions; that the type then is double is how results of mean() print.
    return Band(DOUBLE, band.projection, _weighting(band, most, best_effort=best_effort))


def _weighting(band: Band, most: int, *, best_effort: bool) -> Callable[[Grid, PixelCache], Plane]:
    def compute(grid: Grid, cache: PixelCache) -> Plane:
        shares = overlap(grid, band.projection)
        if shares.most > most:
            if best_effort:
                raise NotModelledError("Image.reduceResolution that starts from a pyramid level (bestEffort)")
            raise EarthEngineError(
                f"Image.reduceResolution: Too many input pixels per output pixel. Need {shares.most}, but 'maxPixels' "
                f"allows {most}."
            )
        plane = cache.plane(band, shares.grid)
        weight = plane.mask.astype(np.float64)
        total = shares.weighted_sum(weight)
        valid = total > 1e-12
        weighted: Floats = shares.weighted_sum(np.where(plane.mask > 0, plane.values, 0.0) * weight)
        values = np.divide(weighted, total, out=np.zeros_like(total), where=valid)
        # What is full but for rounding is full.
        mask = np.where(total > 1 - 1e-9, 1.0, np.where(valid, total, 0.0))
        return Plane(values, compact(mask))

    return compute
