from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from rsembed.core.errors import ExportError
from rsembed.writers.dataset import (
    RESERVED_COLUMNS,
    ROW_GROUP_ROWS,
    PartColumns,
    build_part,
    part_schema,
    write_shard_rows,
    write_tables,
)

CARRIED = pa.schema([("name", pa.string()), ("height", pa.float64())])


def schema(dim: int = 4, dtype: str = "float32", metadata: Mapping[str, Any] | None = None) -> pa.Schema:
    return part_schema(dim, dtype, CARRIED, metadata or {"model": "null"})


def columns(n: int = 5, first: int = 0, dim: int = 4) -> PartColumns:
    """``n`` rows; every third one has no embedding."""
    seq = np.arange(first, first + n)
    lon, lat = 2.0 + 0.001 * seq, np.full(n, 42.0)
    points = shapely.points(lon, lat)
    gone = seq % 3 == 2
    return PartColumns(
        ids=pa.array([f"p{i}" for i in seq]), row=seq[::-1].copy(), seq=seq,
        start=np.full(n, "2022-01-01", "datetime64[D]"), end=np.full(n, "2023-01-01", "datetime64[D]"),
        status=["no_data" if each else "ok" for each in gone], lon=lon, lat=lat,
        geometry=pa.array(shapely.to_wkb(points), pa.binary()), footprints=shapely.buffer(points, 0.001),
        bbox_n4=np.stack([lon, lat, lon, lat], axis=1), epsg=np.full(n, 32631),
        n_images=[0 if each else 2 for each in gone],
        first_date=[None if each else dt.date(2022, 1, 3) for each in gone], last_date=[None] * n,
        valid_fraction=[0.5] * n, frame_dates=[[None, dt.date(2022, 6, 1)]] * n, scene_ids=[["a", "b"]] * n,
        vectors=[None if each else np.full(dim, i + 0.1, np.float32) for i, each in zip(seq, gone, strict=True)],
        carried=pa.RecordBatch.from_pylist([{"name": f"n{i}", "height": None} for i in seq], schema=CARRIED),
    )  # fmt: skip


def test_part_when_built_then_reserved_columns_come_first_and_the_users_follow() -> None:
    assert tuple(schema().names) == (*RESERVED_COLUMNS[:-2], "name", "height")


def test_part_when_it_holds_maps_then_all_reserved_columns_come_first() -> None:
    assert tuple(part_schema(4, "float32", CARRIED, {}, maps=True).names) == (*RESERVED_COLUMNS, "name", "height")


def test_part_when_a_row_has_no_vector_then_it_is_null_and_the_others_are_exact(tmp_path: Path) -> None:
    write_tables([build_part(columns(), schema())], schema(), tmp_path / "p.parquet")
    found = pq.read_table(tmp_path / "p.parquet")
    vectors = found["embedding"].to_pylist()
    assert [each is None for each in vectors] == [False, False, True, False, False]
    assert np.array(vectors[3], np.float32).tolist() == [np.float32(3.1)] * 4
    assert found["embedding"].type == pa.list_(pa.float32(), 4)
    assert found["name"].to_pylist() == ["n0", "n1", "n2", "n3", "n4"]
    assert found["frame_dates"][0].as_py() == [None, dt.date(2022, 6, 1)]
    assert found["bbox"][0].as_py() == {"xmin": 2.0, "ymin": 42.0, "xmax": 2.0, "ymax": 42.0}


def test_part_when_float16_then_vectors_are_halves() -> None:
    found = build_part(columns(), schema(dtype="float16"))
    assert found["embedding"].type == pa.list_(pa.float16(), 4)
    assert found["embedding"][3].as_py()[0] == pytest.approx(3.1, rel=1e-3)


def test_part_when_float16_cannot_hold_a_number_then_it_says_so() -> None:
    given = columns()
    given.vectors[0][:] = 1e6  # type: ignore[index]  # row 0 has a vector
    with pytest.raises(ExportError, match="more than float16 can"):
        build_part(given, schema(dtype="float16"))


def test_part_when_written_then_geo_metadata_describes_both_geometries(tmp_path: Path) -> None:
    write_tables(
        [build_part(columns(), schema(metadata={"model": "é"}))], schema(metadata={"model": "é"}), tmp_path / "p"
    )
    metadata = pq.read_schema(tmp_path / "p").metadata
    geo = json.loads(metadata[b"geo"])
    assert geo["primary_column"] == "geometry"
    assert set(geo["columns"]) == {"geometry", "footprint"}
    assert geo["columns"]["geometry"]["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    assert json.loads(metadata[b"rsembed"]) == {"model": "é"}


def test_write_when_tables_are_cut_otherwise_then_bytes_and_row_groups_are_the_same(tmp_path: Path) -> None:
    n = ROW_GROUP_ROWS + 300
    whole = build_part(columns(n), schema())
    cut = [build_part(columns(size, first), schema()) for first, size in ((0, 7), (7, 1000), (1007, n - 1007))]
    for i, (first, size) in enumerate(((0, 7), (7, 1000), (1007, n - 1007))):
        cut[i] = cut[i].set_column(1, whole.schema.field("row"), whole["row"].slice(first, size).combine_chunks())
    assert write_tables([whole], schema(), tmp_path / "a") == n
    assert write_tables(cut, schema(), tmp_path / "b") == n
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    metadata = pq.read_metadata(tmp_path / "a")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [ROW_GROUP_ROWS, 300]


def test_write_when_there_are_no_rows_then_an_empty_file_of_the_schema(tmp_path: Path) -> None:
    assert write_tables([], schema(), tmp_path / "p") == 0
    assert pq.read_table(tmp_path / "p").schema.names == schema().names


def test_shard_rows_when_read_back_then_nothing_of_them_is_lost(tmp_path: Path) -> None:
    table = build_part(columns(), schema(metadata={"model": "é"}))
    write_shard_rows(table, tmp_path / "shard")
    found = pq.read_table(tmp_path / "shard")
    assert found.equals(table, check_metadata=False)
    assert found.schema.metadata == table.schema.metadata
