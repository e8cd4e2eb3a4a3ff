"""Some consecutive rows of a run as columns."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsembed.core.specs import BBox, PointBuffer, Window
from rsembed.pipelines.rows.places import BOX, Places, places_wkb

Dates = NDArray[np.datetime64]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RowShard:
    """Consecutive rows as columns, N of them.

    ``seq``, ``row`` (input row, 0-based): int64. ``start``, ``end``: datetime64[D], half-open.
    ``kind``: int8, 0 point, 1 box. ``lon``, ``lat``: centre, degrees. ``boxes``: (N, 4) minlon,
    minlat, maxlon, maxlat in degrees, NaN for points. ``ids``: pa.string. ``carried``: the
    user's columns. ``index``: number among the run's shards (0 for a free slice).
    """

    seq: Ints
    row: Ints
    start: Dates
    end: Dates
    kind: NDArray[np.int8]
    lon: Floats
    lat: Floats
    boxes: Floats
    ids: pa.Array
    carried: pa.RecordBatch
    index: int = 0

    def __len__(self) -> int:
        return len(self.seq)

    @property
    def minlon(self) -> Floats:
        """West edges of the boxes, degrees."""
        return self.boxes[:, 0]

    @property
    def minlat(self) -> Floats:
        """South edges of the boxes, degrees."""
        return self.boxes[:, 1]

    @property
    def maxlon(self) -> Floats:
        """East edges of the boxes, degrees."""
        return self.boxes[:, 2]

    @property
    def maxlat(self) -> Floats:
        """North edges of the boxes, degrees."""
        return self.boxes[:, 3]

    @property
    def geometry(self) -> pa.Array:
        """Places as given, WKB (pa.binary), OGC:CRS84; made from the coordinates."""
        return places_wkb(Places(self.kind, self.lon, self.lat, self.boxes))

    def spatial(self, i: int, buffer_m: float | None) -> PointBuffer | BBox:
        """The place of the ``i``-th row; ``buffer_m`` metres around it if it is a point."""
        if self.kind[i] == BOX:
            return BBox(*self.boxes[i].tolist())
        return PointBuffer(float(self.lon[i]), float(self.lat[i]), buffer_m)

    def window(self, i: int) -> Window:
        """The window of the ``i``-th row."""
        found: Window = self._windows[i]
        return found

    @cached_property
    def _windows(self) -> list[Window]:
        # Many rows share few windows, and rows ask for theirs more than once.
        made: dict[tuple[dt.date, dt.date], Window] = {}
        bounds = zip(self.start.tolist(), self.end.tolist(), strict=True)
        return [made.get(pair) or made.setdefault(pair, Window(*pair)) for pair in bounds]
