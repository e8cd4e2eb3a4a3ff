"""Tables that are in memory already: data frames, Arrow tables, lists of places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import shapely

from rsembed.core.errors import SpecError
from rsembed.core.specs import BBox, PointBuffer
from rsembed.pipelines.rows.source import BATCH_ROWS, TableSource, reading, source_crs


def arrow_source(table: pa.Table, *, name: str = "the table", **known: object) -> TableSource:
    """A pyarrow Table; ``known`` are further fields of :class:`TableSource`."""

    def read(columns: Sequence[str]) -> Iterable[pa.RecordBatch]:
        batches: list[pa.RecordBatch] = table.select(list(columns)).to_batches(max_chunksize=BATCH_ROWS)
        return batches

    return TableSource(name, table.schema, read, table.num_rows, **known)  # type: ignore[arg-type]  # checked by callers


def is_data_frame(source: object) -> bool:
    """Whether ``source`` is a pandas or geopandas frame, told without importing either."""
    return any(
        kind.__name__ in ("DataFrame", "GeoDataFrame") and kind.__module__.split(".")[0] in ("pandas", "geopandas")
        for kind in type(source).__mro__
    )


def frame_source(frame: object) -> TableSource:
    """A pandas DataFrame or a GeoDataFrame (its active geometry, in its CRS). The index is not read."""
    geometry = _active_geometry(frame)
    name = "the GeoDataFrame" if geometry else "the DataFrame"
    plain = frame
    if geometry is not None:
        # Only now: reaching here means that the caller has imported pandas.
        import pandas as pd

        plain = pd.DataFrame(frame).drop(columns=geometry)  # type: ignore[call-overload]  # duck-typed frame
    # A column of mixed objects raises pa.ArrowInvalid or ArrowTypeError, an odd one TypeError.
    with reading(name, TypeError):
        table = pa.Table.from_pandas(plain, preserve_index=False)
    if geometry is None:
        return arrow_source(table, name=name)
    shapes = np.empty(table.num_rows, dtype=object)
    shapes[:] = list(frame[geometry])  # type: ignore[index]  # duck-typed frame
    table = table.append_column(geometry, pa.array(shapely.to_wkb(shapes, output_dimension=2), pa.binary()))
    crs = source_crs(name, getattr(frame, "crs", None))
    return arrow_source(table, name=name, geometry=geometry, crs=crs)


def _active_geometry(frame: object) -> str | None:
    name = getattr(frame, "active_geometry_name", None)
    return None if name is None else str(name)


def place_source(places: Sequence[object]) -> TableSource:
    """A list of ``(lon, lat)`` pairs, or of PointBuffers (all with one buffer) and BBoxes.

    Raises SpecError naming the first entry that is neither.
    """
    if places and isinstance(places[0], (PointBuffer, BBox)):
        return _spec_source(places)
    lon, lat = np.empty(len(places)), np.empty(len(places))
    for i, pair in enumerate(places):
        try:
            lon[i], lat[i] = pair  # type: ignore[misc]  # anything that unpacks into two numbers
        except (TypeError, ValueError) as exc:
            raise SpecError(f"place {i} must be a pair (lon, lat) in degrees, got {pair!r}") from exc
    return arrow_source(pa.table({"lon": lon, "lat": lat}), name="the list of places")


def _spec_source(specs: Sequence[object]) -> TableSource:
    shapes = np.empty(len(specs), dtype=object)
    buffers: set[float | None] = set()
    for i, spec in enumerate(specs):
        if isinstance(spec, PointBuffer):
            buffers.add(spec.buffer_m)
            shapes[i] = shapely.Point(spec.lon, spec.lat)
        elif isinstance(spec, BBox):
            shapes[i] = shapely.box(spec.minlon, spec.minlat, spec.maxlon, spec.maxlat)
        else:
            raise SpecError(f"place {i} must be a PointBuffer or BBox like the first one, got {spec!r}")
    if len(buffers) > 1:
        found = ", ".join(sorted(map(str, buffers)))
        raise SpecError(f"all PointBuffers of a run need one buffer_m, got {found}; make one run for each")
    table = pa.table({"geometry": pa.array(shapely.to_wkb(shapes), pa.binary())})
    buffer_m = next(iter(buffers), None)
    return arrow_source(table, name="the list of places", geometry="geometry", buffer_m=buffer_m)
