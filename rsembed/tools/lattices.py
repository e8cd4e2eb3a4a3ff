"""Grids of a product's own pixels: all those that a place touches, nothing resampled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsembed.core.fetching import PixelLattice
from rsembed.tools.spatial import GridArray, from_lonlat, grid_epsg

METRES_A_DEGREE = 111_320.0
"""Of latitude, as the reference system turns a buffer into a box."""
_STEEPEST = 0.01
"""Least cosine of a latitude: nearer to a pole a buffer's box would run around the globe."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def buffer_boxes(lon: Floats, lat: Floats, buffer_m: float) -> Floats:
    """Boxes (N, 4) in degrees (minlon, minlat, maxlon, maxlat) that reach ``buffer_m`` metres from each place.

    Longitudes may lie beyond 180 degrees; latitudes end at the poles.
    """
    high = buffer_m / METRES_A_DEGREE
    wide = high / np.maximum(np.cos(np.radians(lat)), _STEEPEST)
    return np.stack([lon - wide, np.maximum(lat - high, -90.0), lon + wide, np.minimum(lat + high, 90.0)], axis=1)


def touched_grids(lon: Floats, lat: Floats, boxes_n4: Floats, lattice: PixelLattice, grid: str) -> GridArray:
    """For each place the pixels of ``lattice`` that its box touches, at least one a side.

    ``lon``, ``lat``: centres, degrees, shape (N,), which decide the zone of a UTM ``grid``. ``boxes_n4``: degrees;
    their south-west and north-east corners count, as in the reference system.
    """
    epsg = grid_epsg(lon, lat, grid)
    x, y = np.empty((len(lon), 2)), np.empty((len(lon), 2))
    for code in np.unique(epsg):
        rows = epsg == code
        x[rows], y[rows] = from_lonlat(int(code), boxes_n4[rows][:, [0, 2]], boxes_n4[rows][:, [1, 3]])
    step = lattice.step
    col, width = _span(x.min(axis=1) - lattice.x_origin, x.max(axis=1) - lattice.x_origin, step)
    row, height = _span(lattice.y_origin - y.max(axis=1), lattice.y_origin - y.min(axis=1), step)
    x_min: Floats = np.asarray(lattice.x_origin + col * step, np.float64)
    y_max: Floats = np.asarray(lattice.y_origin - row * step, np.float64)
    return GridArray(epsg, x_min, y_max, height, width, step)


def _span(low: Floats, high: Floats, step: float) -> tuple[Ints, Ints]:
    first = np.floor(low / step).astype(np.int64)
    return first, np.maximum(np.ceil(high / step).astype(np.int64) - first, 1)
