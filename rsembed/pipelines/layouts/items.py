"""The items of an export: its places, one for each window, in the order of the input."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from rsembed.core.errors import SpecError
from rsembed.core.patch import Json
from rsembed.core.serialization import to_json
from rsembed.core.specs import BBox, PointBuffer, Spatial, Window
from rsembed.pipelines.rows.formats import open_table
from rsembed.pipelines.rows.shard import RowShard
from rsembed.pipelines.rows.table import RowOptions
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.pipelines.runner import scratch_rows

_BATCH = 65536
_PLACE = ("start", "end", "geometry", "buffer_m")


@dataclass(frozen=True)
class Items:
    """N items as columns.

    ``id`` (the user's, or the row's number), ``row`` of the input, ``start``, ``end`` (half-open),
    ``geometry`` (WKB, degrees) and ``buffer_m`` (null: the model's own footprint, or a box).
    """

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def spatial(self, index: int) -> Spatial:
        """The place of an item."""
        row = self.table.slice(index, 1).select(["geometry", "buffer_m"]).to_pylist()[0]
        shape = shapely.from_wkb(row["geometry"])
        if shape.geom_type == "Point":
            return PointBuffer(shape.x, shape.y, row["buffer_m"])
        return BBox(*shape.bounds)

    def window(self, index: int) -> Window:
        """The days of an item."""
        row = self.table.slice(index, 1).select(["start", "end"]).to_pylist()[0]
        return Window(row["start"], row["end"])

    def id(self, index: int) -> str:
        """The id of an item."""
        found: str = self.table.column("id")[index].as_py()
        return found

    def ids(self) -> list[str]:
        """The ids of all items."""
        found: list[str] = self.table.column("id").to_pylist()
        return found

    def spatial_json(self, index: int) -> Json:
        """The place of an item, as a manifest has it."""
        return to_json(self.spatial(index))

    def key(self, index: int) -> bytes:
        """Where and when, as bytes that are the same in every process."""
        start, end, shape, buffer_m = (self.table.column(name)[index].as_py() for name in _PLACE)
        window = struct.pack("<iid", start.toordinal(), end.toordinal(), math.nan if buffer_m is None else buffer_m)
        return window + bytes(shape)

    def common_window(self) -> Window | None:
        """The window of all items, where they share one."""
        first = self.window(0)
        starts, ends = (self.table.column(name).unique() for name in ("start", "end"))
        return first if len(starts) == len(ends) == 1 else None

    def digest(self) -> str:
        """Identifies all items and their order."""
        found = hashlib.sha256()
        for index in range(len(self)):
            found.update(self.key(index))
        return found.hexdigest()

    def portions(self, indices: Sequence[int]) -> list[tuple[float | None, pa.Table]]:
        """The items ``indices`` as tables of places, one for each buffer; column ``id`` holds the item's number."""
        chosen = self.table.take(pa.array(list(indices), pa.int64()))
        chosen = chosen.set_column(0, "id", pa.array([str(i) for i in indices], pa.string()))
        buffers = chosen.column("buffer_m").to_pylist()
        found = []
        for buffer_m in dict.fromkeys(buffers):
            members = [i for i, each in enumerate(buffers) if each == buffer_m]
            part = chosen.take(pa.array(members, pa.int64())).select(["id", "start", "end", "geometry"])
            found.append((buffer_m, part.combine_chunks()))
        return found


def read_items(source: object, windows: WindowPolicy, options: RowOptions, buffer_m: float | None) -> Items:
    """The items of ``source`` (whatever :func:`open_table` takes; PointBuffers may differ in their buffers).

    ``buffer_m``: of points that state none. Raises SpecError and RowError as a dataset export does.
    """
    table, stated = _with_buffers(source)
    if stated is not None and buffer_m is not None:
        other = stated[~np.isnan(stated) & (stated != buffer_m)]
        if other.size:
            raise SpecError(f"a place has a buffer of {other[0]:g} m, buffer_m is {buffer_m:g}; give one of the two")
    opened = open_table(table, id_column=options.id_column)
    with scratch_rows(opened, windows, None, options) as rows:
        parts = []
        for first in range(0, rows.n_rows, _BATCH):
            shard = rows.slice(first, min(rows.n_rows, first + _BATCH))
            parts.append(_columns(shard, stated, opened.buffer_m if buffer_m is None else buffer_m))
    whole = pa.concat_tables(parts)
    order = np.lexsort([whole.column(name).to_numpy() for name in ("start", "row")])
    return Items(whole.take(pa.array(order)).combine_chunks())


Buffers = NDArray[np.float64]


def _with_buffers(source: object) -> tuple[object, Buffers | None]:
    """A list of specs as a table of their geometries, and each one's buffer (NaN for none); others as they are."""
    if not isinstance(source, (list, tuple)) or not source:
        return source, None
    if not all(isinstance(spec, (PointBuffer, BBox)) for spec in source):
        return source, None
    shapes = [
        shapely.Point(spec.lon, spec.lat)
        if isinstance(spec, PointBuffer)
        else shapely.box(spec.minlon, spec.minlat, spec.maxlon, spec.maxlat)
        for spec in source
    ]
    buffers = np.array([np.nan if (b := getattr(spec, "buffer_m", None)) is None else b for spec in source])
    return pa.table({"geometry": pa.array(shapely.to_wkb(shapes), pa.binary())}), buffers


def _columns(shard: RowShard, stated: Buffers | None, buffer_m: float | None) -> pa.Table:
    box = shard.kind == 1
    common = np.nan if buffer_m is None else buffer_m
    buffers = np.full(len(shard), common) if stated is None else stated[shard.row]
    buffers = np.where(np.isnan(buffers), common, buffers)
    return pa.table(
        {
            "id": shard.ids,
            "row": pa.array(shard.row),
            "start": pa.array(shard.start.astype("datetime64[D]")),
            "end": pa.array(shard.end.astype("datetime64[D]")),
            "geometry": shard.geometry,
            "buffer_m": pa.array(np.where(box, np.nan, buffers), from_pandas=True),
        }
    )


def window_json(window: Window | None) -> Json:
    """A window with the reference system's field names; None where there is no single one."""
    if window is None:
        return None
    year = window.start.year if _is_year(window) else None
    return {
        "mode": "range" if year is None else "year",
        "year": year,
        "start": window.start.isoformat(),
        "end": window.end.isoformat(),
    }


def _is_year(window: Window) -> bool:
    first, last = window.start, window.end
    return (first.month, first.day, last.month, last.day) == (1, 1, 1, 1) and last.year == first.year + 1
