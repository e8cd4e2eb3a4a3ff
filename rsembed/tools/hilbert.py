"""Order places along a Hilbert curve, so that neighbours in the order are neighbours on the ground."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BITS = 24
"""Bits an axis: cells of at most 2.4 m x 1.2 m at the equator."""


def hilbert_keys(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Distance of each place along the curve; uint64, shape as ``lon``. Degrees, EPSG:4326.

    The usual bit-by-bit rotation (J. Skilling, "Programming the Hilbert curve", AIP 2004),
    done on whole arrays: ``BITS`` passes whatever the number of places.
    """
    side = np.uint64(1 << BITS)
    x = _cells(lon, -180.0, 360.0)
    y = _cells(lat, -90.0, 180.0)
    keys = np.zeros(x.shape, dtype=np.uint64)
    one, three = np.uint64(1), np.uint64(3)
    for bit in range(BITS - 1, -1, -1):
        shift = np.uint64(bit)
        rx = (x >> shift) & one
        ry = (y >> shift) & one
        keys += ((three * rx) ^ ry) << np.uint64(2 * bit)
        flip = (ry == 0) & (rx == 1)
        x = np.where(flip, side - one - x, x)
        y = np.where(flip, side - one - y, y)
        swap = ry == 0
        x, y = np.where(swap, y, x), np.where(swap, x, y)
    return keys


def _cells(degrees: NDArray[np.float64], low: float, span: float) -> NDArray[np.uint64]:
    scaled = (np.asarray(degrees, dtype=np.float64) - low) / span * (1 << BITS)
    return np.clip(scaled, 0, (1 << BITS) - 1).astype(np.uint64)
