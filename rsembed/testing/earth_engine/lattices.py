"""Geometry of pixel lattices: which source pixel lies under which output pixel, and by how much.

Coordinates are pulled from the output: the centre of every output pixel is transformed into the source's
reference system (guide "Projections": inputs are requested in the output projection; guide "Resampling and
Reducing Resolution": nearest neighbour unless told otherwise).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import CRSError
from shapely.geometry.base import BaseGeometry

from rsembed.testing.earth_engine.errors import EarthEngineError, NotModelledError
from rsembed.testing.earth_engine.values import COMPOSITE, Grid, PerThread, Projection

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]

EDGE = 1e-6
"""Pixels: a centre nearer than this to a source pixel's edge lies on it."""

_transformers = PerThread()


@functools.lru_cache(256)
def crs_name(crs: str) -> str:
    """``EPSG:n`` where the CRS has a code, else its WKT. Raises EarthEngineError for what is no CRS."""
    try:
        found = pyproj.CRS.from_user_input(crs)
    except CRSError as exc:
        raise EarthEngineError(f"The CRS '{crs[:80]}' could not be parsed.") from exc
    code = found.to_epsg()
    return f"EPSG:{code}" if code else found.to_wkt()


def transformer(source: str, target: str) -> pyproj.Transformer:
    """From ``source`` to ``target``, x before y; one a thread, as PROJ wants it."""
    key = (source, target)
    found = _transformers.table.get(key)
    if not isinstance(found, pyproj.Transformer):
        found = pyproj.Transformer.from_crs(source, target, always_xy=True)
        _transformers.table[key] = found
    return found


def nominal_scale_m(projection: Projection) -> float:
    """Metres a pixel at the point of true scale (description of Projection.nominalScale)."""
    crs = pyproj.CRS.from_user_input(projection.crs)
    a, b, _, d, e, _ = projection.transform
    side = abs(a * e - b * d) ** 0.5
    if crs.is_geographic:
        semi_major_m = 6378137.0 if crs.ellipsoid is None else crs.ellipsoid.semi_major_metre
        return float(side * np.pi / 180 * semi_major_m)
    return float(side * crs.axis_info[0].unit_conversion_factor)


def is_upright(projection: Projection) -> bool:
    """Whether rows run along one axis of the CRS and columns along the other."""
    return projection.transform[1] == 0 and projection.transform[3] == 0


def shifted(projection: Projection, row: int, col: int) -> Projection:
    """The same lattice with its origin at pixel (``row``, ``col``)."""
    a, b, c, d, e, f = projection.transform
    return Projection(projection.crs, (a, b, c + col * a + row * b, d, e, f + col * d + row * e))


def to_pixels(projection: Projection, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Column and row (fractions) of the CRS coordinates ``x``, ``y`` on the lattice of ``projection``."""
    a, b, c, d, e, f = projection.transform
    size = a * e - b * d
    return (e * (x - c) - b * (y - f)) / size, (a * (y - f) - d * (x - c)) / size


def positions(grid: Grid, source: Projection, at: float) -> tuple[Floats, Floats]:
    """Column and row on ``source`` of a point of every output pixel, both (H, W) plus what ``at`` adds.

    ``at`` 0.5: the centres, (H, W). ``at`` 0: the corners, (H + 1, W + 1).
    """
    extra = 0 if at else 1
    a, b, c, d, e, f = grid.projection.transform
    cols = (np.arange(grid.width + extra) + at)[None, :]
    rows = (np.arange(grid.height + extra) + at)[:, None]
    x, y = a * cols + b * rows + c, d * cols + e * rows + f
    if grid.projection.crs != source.crs:
        x, y = transformer(grid.projection.crs, source.crs).transform(x, y)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise NotModelledError(f"pixels that have no place in {source.crs[:60]}")
    return to_pixels(source, x, y)


@functools.lru_cache(512)
def nearest(grid: Grid, source: Projection) -> tuple[Indices, Indices]:
    """Row and column on ``source`` under each output pixel's centre; they broadcast to (H, W).

    Raises NotModelledError where a centre lies on the edge of two source pixels: which of them the
    service takes is not documented.
    """
    if grid.projection.crs == source.crs and is_upright(grid.projection) and is_upright(source):
        a, _, c, _, e, f = grid.projection.transform
        x = a * (np.arange(grid.width) + 0.5) + c
        y = e * (np.arange(grid.height) + 0.5) + f
        sa, _, sc, _, se, sf = source.transform
        cols, rows = ((x - sc) / sa)[None, :], ((y - sf) / se)[:, None]
        for line in (cols, rows):
            if np.any(np.abs(line - np.rint(line)) < EDGE):
                raise NotModelledError(
                    f"nearest neighbour with output centres on the edges of source pixels (output {grid.projection}, "
                    f"source {source}): which neighbour is taken is not documented"
                )
    else:
        cols, rows = positions(grid, source, 0.5)
    return np.floor(rows).astype(np.int64), np.floor(cols).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Overlap:
    """How much of each output pixel every source pixel covers.

    ``grid``: the part of the source lattice that is needed; ``shape``: (H, W) of the output.
    Either ``along_rows`` (H, h) and
    ``along_cols`` (W, w), whose products are the fractions, or ``index`` and ``fraction`` (H * W, k):
    flat positions in that part and their fractions. ``most``: the largest number of source pixels that
    one output pixel touches.
    """

    grid: Grid
    most: int
    shape: tuple[int, int]
    along_rows: Floats | None = None
    along_cols: Floats | None = None
    index: Indices | None = None
    fraction: Floats | None = None

    def weighted_sum(self, array: Floats) -> Floats:
        """For each output pixel the sum of ``array`` (h, w) times its fraction, shape (H, W)."""
        if self.along_rows is not None and self.along_cols is not None:
            return np.asarray(self.along_rows @ array @ self.along_cols.T)
        assert self.index is not None
        assert self.fraction is not None
        return np.asarray((array.ravel()[self.index] * self.fraction).sum(axis=1).reshape(self.shape))


@functools.lru_cache(128)
def overlap(grid: Grid, source: Projection) -> Overlap:
    """The fractions of every pixel of ``grid`` that pixels of ``source`` cover."""
    if grid.projection.crs == source.crs and is_upright(grid.projection) and is_upright(source):
        a, _, c, _, e, f = grid.projection.transform
        sa, _, sc, _, se, sf = source.transform
        first_row, rows = _along(grid.height, (f - sf) / se, e / se)
        first_col, cols = _along(grid.width, (c - sc) / sa, a / sa)
        part = Grid(shifted(source, first_row, first_col), rows.shape[1], cols.shape[1])
        most = int((rows > 0).sum(axis=1).max()) * int((cols > 0).sum(axis=1).max())
        return Overlap(part, most, (grid.height, grid.width), rows, cols)
    return _across(grid, source)


def _along(size: int, start: float, step: float) -> tuple[int, Floats]:
    """First source pixel and fractions (output, source) along one axis; ``start``, ``step`` in source pixels."""
    edges = start + step * np.arange(size + 1)
    # An edge that misses a source edge by rounding alone lies on it.
    edges = np.where(np.abs(edges - np.rint(edges)) < EDGE, np.rint(edges), edges)
    low, high = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
    first, last = int(np.floor(low.min())), int(np.ceil(high.max()))
    cells = np.arange(first, last)[None, :]
    shared = np.minimum(high[:, None], cells + 1) - np.maximum(low[:, None], cells)
    return first, np.clip(shared, 0, None) / abs(step)


def _across(grid: Grid, source: Projection) -> Overlap:
    """Between projections: the output pixel is the quadrilateral of its four transformed corners."""
    cols, rows = positions(grid, source, 0.0)
    corners = np.stack([cols, rows], axis=-1)
    ring = np.stack([corners[:-1, :-1], corners[:-1, 1:], corners[1:, 1:], corners[1:, :-1]], axis=2).reshape(-1, 4, 2)
    quads = shapely.polygons(np.concatenate([ring, ring[:, :1]], axis=1))
    low, high = np.floor(ring.min(axis=1)).astype(np.int64), np.ceil(ring.max(axis=1)).astype(np.int64)
    reach = (high - low).max(axis=0)
    first, last = low.min(axis=0), (low + reach).max(axis=0)
    steps_col, steps_row = np.meshgrid(np.arange(reach[0]), np.arange(reach[1]))
    at_col = low[:, :1] + steps_col.reshape(1, -1)
    at_row = low[:, 1:] + steps_row.reshape(1, -1)
    cells = shapely.box(at_col, at_row, at_col + 1, at_row + 1)
    shared = shapely.area(shapely.intersection(quads[:, None], cells))
    part = Grid(shifted(source, int(first[1]), int(first[0])), int(last[1] - first[1]), int(last[0] - first[0]))
    index = (at_row - first[1]) * part.width + (at_col - first[0])
    fraction = shared / shapely.area(quads)[:, None]
    most = int((shared > EDGE).sum(axis=1).max())
    return Overlap(part, most, (grid.height, grid.width), index=index, fraction=fraction)


def outline_in_degrees(outline: BaseGeometry, crs: str) -> BaseGeometry:
    """``outline`` in EPSG:4326; one that crosses the antimeridian goes on beyond 180."""
    if crs == COMPOSITE.crs:
        return outline
    # Straight edges of the CRS bend in degrees: more points keep them where they are.
    length = max(outline.bounds[2] - outline.bounds[0], outline.bounds[3] - outline.bounds[1])
    dense = outline.segmentize(length / 16) if length > 0 else outline
    to_degrees = transformer(crs, COMPOSITE.crs)
    degrees = shapely.transform(dense, lambda xy: np.column_stack(to_degrees.transform(xy[:, 0], xy[:, 1])))
    west, _, east, _ = degrees.bounds
    if east - west <= 180:
        return degrees
    return shapely.transform(degrees, lambda xy: np.where(xy < (0.0, -1e9), np.add(xy, (360.0, 0.0)), xy))


def outlines_meet(one: BaseGeometry, other: BaseGeometry) -> bool:
    """Whether two outlines in degrees share a point, on whichever side of the antimeridian they are written."""
    for turn in (0.0, -360.0, 360.0):
        low, high = one.bounds[0] + turn, one.bounds[2] + turn
        if low <= other.bounds[2] and high >= other.bounds[0]:
            turned = shapely.transform(one, lambda xy, turn=turn: np.add(xy, (turn, 0.0))) if turn else one
            if turned.intersects(other):
                return True
    return False
