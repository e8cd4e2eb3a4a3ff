"""GeoParquet parts: their columns, metadata and bytes.

Bytes depend only on the rows and the writer's settings below (``FORMAT_VERSION`` of the plan
pins them), so that a part written twice is the same file.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from rsembed.core.embedding import CellGrid
from rsembed.core.patch import Json
from rsembed.writers.geoparquet import BBOX, CORNERS, GeoSummary, bbox_array
from rsembed.writers.vectors import encode_maps, encode_vectors, vector_fields

ROW_GROUP_ROWS = 16_384
ROW_GROUP_BYTES = 32 << 20
"""Of embeddings in a row group: what a reader far away takes at once."""
RESERVED_COLUMNS = (
    "id", "row", "seq", "start", "end", "status", "lon", "lat", "geometry", "footprint", "bbox", "footprint_bbox",
    "epsg", "n_images", "first_date", "last_date", "valid_fraction", "frame_dates", "scene_ids", "embedding",
    "grid_shape", "grid_transform",
)  # fmt: skip
"""Columns of a dataset (the last two of one of maps); the user's own columns follow them."""

_COVERING = {"geometry": "bbox", "footprint": "footprint_bbox"}


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
        pa.field("bbox", BBOX, nullable=False),
        pa.field("footprint_bbox", BBOX),
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
    return pa.schema(fields, metadata={"rsembed": text})


def build_part(columns: PartColumns, schema: pa.Schema) -> pa.Table:
    """A table of ``schema`` out of ``columns``."""
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
        "bbox": bbox_array(columns.bbox_n4),
        "footprint_bbox": bbox_array(shapely.bounds(columns.footprints), shapely.is_missing(columns.footprints)),
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


def write_shard_rows(table: pa.Table, path: Path) -> None:
    """Write the rows of a shard, which are read once and become rows of a part: nothing is packed or summed up.

    A part's settings would take four times as long over so few rows.
    """
    pq.write_table(table, path, compression="none", use_dictionary=False, write_statistics=False)


def write_tables(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> int:
    """Write ``tables`` as one GeoParquet file; returns the rows.

    A row group has at most ``ROW_GROUP_ROWS`` rows and ``ROW_GROUP_BYTES`` of embeddings (or one row); where it ends
    depends on the rows alone. Holds one row group and one table in memory.
    """
    plain = [leaf for name in schema.names if name != "embedding" for leaf in _leaves(schema.field(name))]
    settings = {
        "compression": "zstd", "compression_level": 3, "version": "2.6", "write_page_index": True, "store_schema": False
    }  # fmt: skip
    rows = 0
    summary = GeoSummary(_COVERING)
    with pq.ParquetWriter(path, schema, use_dictionary=plain, write_statistics=plain, **settings) as writer:
        for group in _row_groups(tables, schema):
            summary.add(group)
            writer.write_table(group, row_group_size=len(group))
            rows += len(group)
        writer.add_key_value_metadata(_end_metadata(schema, summary.metadata()))
    return rows


def _end_metadata(schema: pa.Schema, geo: str) -> dict[str, str]:
    """What is known of a file once all its rows are: ``geo``, and Arrow's own copy of the schema, which holds it, too.

    pyarrow would write that copy before the first row, and whoever reads it would find no ``geo`` in it.
    """
    facts = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()} | {"geo": geo}
    return facts | {"ARROW:schema": base64.b64encode(schema.with_metadata(facts).serialize()).decode()}


def _leaves(field: pa.Field) -> list[str]:
    """The paths of the columns that Parquet makes of ``field``."""
    if field.type == BBOX:
        return [f"{field.name}.{corner}" for corner in CORNERS]
    lists = (pa.types.is_list, pa.types.is_fixed_size_list)
    return [f"{field.name}.list.element" if any(test(field.type) for test in lists) else field.name]


def _row_groups(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """``tables`` joined and cut into row groups."""
    pending = schema.empty_table()
    for table in tables:
        if not len(table):
            continue
        pending = pa.concat_tables([pending, table.cast(schema) if table.schema != schema else table])
        first = 0
        for end in _group_ends(pending):
            yield pending.slice(first, end - first).combine_chunks()
            first = end
        pending = pending.slice(first)
    if len(pending):
        yield pending.combine_chunks()


def _group_ends(table: pa.Table) -> list[int]:
    """Where the row groups end that are full with these rows, whatever follows."""
    bytes_n = np.concatenate([_embedding_bytes(chunk) for chunk in table.column("embedding").chunks])
    upto = np.concatenate([[0], np.cumsum(bytes_n)])
    ends: list[int] = []
    first = 0
    while True:
        end = int(np.searchsorted(upto, upto[first] + ROW_GROUP_BYTES, side="right")) - 1
        end = max(first + 1, min(end, first + ROW_GROUP_ROWS))
        if end > len(bytes_n) or (end == len(bytes_n) and end - first < ROW_GROUP_ROWS):
            return ends
        ends.append(end)
        first = end


def _embedding_bytes(chunk: pa.Array) -> NDArray[np.int64]:
    """Bytes of each embedding of ``chunk``; a vector that is not there counts as one that is."""
    size = chunk.type.value_type.bit_width // 8
    if pa.types.is_fixed_size_list(chunk.type):
        return np.full(len(chunk), chunk.type.list_size * size, dtype=np.int64)
    lengths: NDArray[np.int64] = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
    return np.asarray(lengths * size, dtype=np.int64)
