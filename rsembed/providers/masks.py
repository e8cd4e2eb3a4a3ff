"""Which pixels of a scene are clear."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SCL_DROPPED = (0, 1, 3, 8, 9, 10)
"""No data, saturated, cloud shadow, cloud of medium and high probability, thin cirrus.

Classes of Sen2Cor's scene classification: Sentinel-2 Products Specification Document, table
"Scene Classification"; 2 (dark), 4-7 (ground, water, unclassified) and 11 (snow) stay.
"""

_CLEAR = np.ones(256, dtype=np.bool_)
_CLEAR[list(SCL_DROPPED)] = False
_CLEAR[12:] = False  # no such class: damaged


def scl_clear(classes: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Which pixels of a scene classification (any shape, codes 0..255) are neither cloud nor hole."""
    return _CLEAR[classes.astype(np.uint8, copy=False)]
