"""The metadata that makes a Parquet file a GeoParquet file, gathered while its rows are written.

GeoParquet 1.1.0 (geoparquet.org/releases/v1.1.0): every geometry is WKB in OGC:CRS84, its default; each column says
which types occur, the box around all of them, and which column holds the box of each row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from rsembed.core.patch import Json

CORNERS = ("xmin", "ymin", "xmax", "ymax")
BBOX = pa.struct([(name, pa.float64()) for name in CORNERS])
"""Type of a column that covers a geometry."""

_TYPES = ("Point", "LineString", "LinearRing", "Polygon", "MultiPoint", "MultiLineString", "MultiPolygon",
          "GeometryCollection")  # fmt: skip


def bbox_array(bbox_n4: NDArray[np.float64], absent: NDArray[np.bool_] | None = None) -> pa.Array:
    """Boxes float64 (N, 4) as a column of type :data:`BBOX`; null where ``absent``."""
    columns = [pa.array(np.ascontiguousarray(bbox_n4[:, i])) for i in range(4)]
    mask = None if absent is None or not absent.any() else pa.array(absent)
    return pa.StructArray.from_arrays(columns, fields=list(BBOX), mask=mask)


class GeoSummary:
    """What the rows so far come to. ``covering``: geometry column -> the column of its boxes; the first is primary.

    Equal rows in equal order give an equal :meth:`metadata`, however they are cut into tables.
    """

    def __init__(self, covering: Mapping[str, str]) -> None:
        self._covering = dict(covering)
        self._types: dict[str, set[str]] = {name: set() for name in covering}
        self._bounds = {name: np.array([np.inf, np.inf, -np.inf, -np.inf]) for name in covering}

    def add(self, table: pa.Table) -> None:
        """Take in the rows of ``table``, which is not empty."""
        for name, boxes in self._covering.items():
            shapes = shapely.from_wkb(table.column(name).to_numpy())
            there = shapes[~shapely.is_missing(shapes)]
            for kind, has_z in np.unique([shapely.get_type_id(there), shapely.has_z(there)], axis=1).T:
                self._types[name].add(_TYPES[kind] + (" Z" if has_z else ""))
            corners = [table.column(boxes).combine_chunks().field(i) for i in range(4)]
            for i, corner in enumerate(corners):
                values = corner.to_numpy(zero_copy_only=False)
                combine = np.fmin if i < 2 else np.fmax
                self._bounds[name][i] = combine.reduce(values, initial=self._bounds[name][i])

    def metadata(self) -> str:
        """The value of the file's key ``geo``."""
        columns: dict[str, Json] = {}
        for name, boxes in self._covering.items():
            column: dict[str, Json] = {
                "encoding": "WKB",
                "geometry_types": sorted(self._types[name]),
                "covering": {"bbox": {corner: [boxes, corner] for corner in CORNERS}},
            }
            if np.isfinite(self._bounds[name]).all():
                column["bbox"] = self._bounds[name].tolist()
            columns[name] = column
        primary = next(iter(self._covering))
        return json.dumps({"version": "1.1.0", "primary_column": primary, "columns": columns}, sort_keys=True)
