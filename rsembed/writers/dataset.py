"""GeoParquet parts: their columns, metadata and bytes.

Bytes depend only on the rows and the writer's settings below (``FORMAT_VERSION`` of the plan
pins them), so that a part written twice is the same file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from rsembed.core.embedding import CellGrid
from rsembed.core.patch import Json
from rsembed.writers.vectors import encode_maps, encode_vectors, vector_fields

ROW_GROUP_ROWS = 2048
RESERVED_COLUMNS = (
    "id", "row", "seq", "start", "end", "status", "lon", "lat", "geometry", "footprint", "bbox", "epsg", "n_images",
    "first_date", "last_date", "valid_fraction", "frame_dates", "scene_ids", "embedding", "grid_shape",
    "grid_transform",
)  # fmt: skip
"""Columns of a dataset (the last two of one of maps); the user's own columns follow them."""

_BBOX = pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])


@dataclass(frozen=True)
class PartColumns:
    """The rows of one part, as columns of equal length N.

    ``geometry``: WKB as given; ``footprints``: shapely geometries; ``bbox_n4``: float64 (N, 4)
    xmin, ymin, xmax, ymax of the geometry; ``vectors``: float32 (D,), or (D, h, w) in a dataset of maps, or None a
    row; ``cells``: where each map lies.
    """

    ids: pa.Array
    row: NDArray[np.int64]
    seq: NDArray[np.int64]
    start: NDArray[np.datetime64]
    end: NDArray[np.datetime64]
    status: Sequence[str]
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    geometry: pa.Array
    footprints: NDArray[np.object_]
    bbox_n4: NDArray[np.float64]
    epsg: NDArray[np.int64]
    n_images: Sequence[int]
    first_date: Sequence[object]
    last_date: Sequence[object]
    valid_fraction: Sequence[float | None]
    frame_dates: Sequence[Sequence[object]]
    scene_ids: Sequence[Sequence[str]]
    vectors: Sequence[NDArray[np.float32] | None]
    carried: pa.RecordBatch
    cells: Sequence[CellGrid | None] = ()


def part_schema(
    dim: int, dtype: str, carried: pa.Schema, metadata: Mapping[str, Json], *, maps: bool = False
) -> pa.Schema:
    """Schema of a dataset of ``dim``-long vectors (or of maps of them) stored as ``dtype``, with the user's columns.

    A map is the list of its D * h * w numbers, with its shape ``(D, h, w)`` and the affine transform of its cells in
    the row's ``epsg``.
    """
    fields = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("start", pa.date32(), nullable=False),
        pa.field("end", pa.date32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("lon", pa.float64(), nullable=False),
        pa.field("lat", pa.float64(), nullable=False),
        pa.field("geometry", pa.binary(), nullable=False),
        pa.field("footprint", pa.binary()),
        pa.field("bbox", _BBOX, nullable=False),
        pa.field("epsg", pa.int32()),
        pa.field("n_images", pa.int32()),
        pa.field("first_date", pa.date32()),
        pa.field("last_date", pa.date32()),
        pa.field("valid_fraction", pa.float32()),
        pa.field("frame_dates", pa.list_(pa.date32())),
        pa.field("scene_ids", pa.list_(pa.string())),
        *vector_fields(dim, dtype, maps=maps),
        *carried,
    ]
    text = json.dumps(metadata, sort_keys=True, allow_nan=False, ensure_ascii=False)
    return pa.schema(fields, metadata={"rsembed": text, "geo": json.dumps(_geo_metadata(), sort_keys=True)})


def _geo_metadata() -> dict[str, Json]:
    covering = {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}}
    return {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {"encoding": "WKB", "geometry_types": [], "covering": covering},
            "footprint": {"encoding": "WKB", "geometry_types": []},
        },
    }


def build_part(columns: PartColumns, schema: pa.Schema) -> pa.Table:
    """A table of ``schema`` out of ``columns``."""
    bbox = pa.StructArray.from_arrays([pa.array(columns.bbox_n4[:, i].copy()) for i in range(4)], fields=list(_BBOX))
    arrays: dict[str, pa.Array] = {
        "id": columns.ids,
        "row": pa.array(columns.row),
        "seq": pa.array(columns.seq),
        "start": pa.array(columns.start.astype("datetime64[D]")),
        "end": pa.array(columns.end.astype("datetime64[D]")),
        "status": pa.array(columns.status, pa.string()),
        "lon": pa.array(columns.lon),
        "lat": pa.array(columns.lat),
        "geometry": columns.geometry,
        "footprint": pa.array(shapely.to_wkb(columns.footprints), pa.binary()),
        "bbox": bbox,
        "epsg": pa.array(columns.epsg.astype(np.int32)),
        "n_images": pa.array(columns.n_images, pa.int32()),
        "first_date": pa.array(columns.first_date, pa.date32()),
        "last_date": pa.array(columns.last_date, pa.date32()),
        "valid_fraction": pa.array(columns.valid_fraction, pa.float32()),
        "frame_dates": pa.array(columns.frame_dates, pa.list_(pa.date32())),
        "scene_ids": pa.array(columns.scene_ids, pa.list_(pa.string())),
    }
    if "grid_shape" in schema.names:
        arrays |= encode_maps(columns.vectors, columns.cells, schema)
    else:
        arrays |= encode_vectors(columns.vectors, schema)
    for name in columns.carried.schema.names:
        arrays[name] = columns.carried.column(name)
    return pa.Table.from_arrays([_whole(arrays[field.name], field.type) for field in schema], schema=schema)


def _whole(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array if array.type == kind else array.cast(kind)


def write_tables(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> int:
    """Write ``tables`` as one Parquet file in row groups of ``ROW_GROUP_ROWS``; returns the rows.

    Holds one row group and one table in memory.
    """
    plain = [name for name in schema.names if name != "embedding"]
    rows = 0
    settings = {"compression": "zstd", "compression_level": 3, "version": "2.6"}
    with pq.ParquetWriter(path, schema, use_dictionary=plain, write_statistics=plain, **settings) as writer:
        pending: list[pa.Table] = []
        waiting = 0
        for table in tables:
            pending.append(table.cast(schema) if table.schema != schema else table)
            waiting += table.num_rows
            rows += table.num_rows
            while waiting >= ROW_GROUP_ROWS:
                merged = pa.concat_tables(pending).combine_chunks()
                writer.write_table(merged.slice(0, ROW_GROUP_ROWS), row_group_size=ROW_GROUP_ROWS)
                pending = [merged.slice(ROW_GROUP_ROWS)]
                waiting -= ROW_GROUP_ROWS
        if waiting:
            writer.write_table(pa.concat_tables(pending).combine_chunks(), row_group_size=ROW_GROUP_ROWS)
    return rows
