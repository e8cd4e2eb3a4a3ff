"""Parts as GeoParquet, judged by the format's own validator and opened by GeoPandas and DuckDB."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import geopandas
import geoparquet_validator
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from rsembed.core.embedding import CellGrid
from rsembed.core.specs import BBox, OutputSpec
from rsembed.writers.dataset import ROW_GROUP_BYTES, PartColumns, build_part, part_schema, write_tables
from rsembed.writers.geoparquet import GeoSummary, bbox_array
from tests.builders import places, run_export

NOTHING = pa.schema([])


def columns(vectors: list[np.ndarray | None], first: int = 0) -> PartColumns:
    """A row for each of ``vectors``, on a diagonal; every second place is a box."""
    n = len(vectors)
    seq = np.arange(first, first + n)
    lon, lat = 2.0 + seq / 1000, 42.0 + seq / 1000
    shapes = np.where(seq % 2 == 0, shapely.points(lon, lat), shapely.box(lon, lat, lon + 0.01, lat + 0.02))
    day = np.full(n, "2022-01-01", "datetime64[D]")
    cells = [
        None if v is None else CellGrid(32631, (10.0, 0.0, 5e5, 0.0, -10.0, 4e6), *v.shape[1:]) if v.ndim == 3 else None
        for v in vectors
    ]
    return PartColumns(
        ids=pa.array([f"p{i}" for i in seq]), row=seq, seq=seq, start=day, end=day, status=["ok"] * n, lon=lon, lat=lat,
        geometry=pa.array(shapely.to_wkb(shapes), pa.binary()), footprints=shapely.buffer(shapes, 0.001),
        bbox_n4=shapely.bounds(shapes), epsg=np.full(n, 32631), n_images=[1] * n, first_date=[None] * n,
        last_date=[None] * n, valid_fraction=[1.0] * n, frame_dates=[[]] * n, scene_ids=[["a"]] * n, vectors=vectors,
        carried=pa.RecordBatch.from_pylist([{}] * n, schema=NOTHING), cells=cells,
    )  # fmt: skip


def write(path: Path, vectors: list[np.ndarray | None], step: int | None = None) -> Path:
    """A part of ``vectors``, handed over ``step`` rows at a time."""
    maps = any(v is not None and v.ndim == 3 for v in vectors)
    schema = part_schema(next(len(v) for v in vectors if v is not None), "float32", NOTHING, {}, maps=maps)
    starts = range(0, len(vectors), step or len(vectors))
    write_tables(
        (build_part(columns(vectors[i : i + (step or len(vectors))], i), schema) for i in starts), schema, path
    )
    return path


def groups(path: Path) -> list[int]:
    """Rows of each row group."""
    metadata = pq.read_metadata(path)
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def check(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = geoparquet_validator.check(str(path))
    assert [each for each in report["outcomes"] if each["status"] == "fail"] == []
    assert geoparquet_validator.conformant(report, "core")
    assert geoparquet_validator.conformant(report, "covering")
    return {each["id"].removeprefix("/conf/"): each["status"] for each in report["outcomes"]}


def test_part_when_the_validator_sees_it_then_it_conforms_in_every_class(tmp_path: Path) -> None:
    found = check(write(tmp_path / "p.parquet", [np.zeros(4096, np.float32)] * 8200, 512))
    passed = {name for name, status in found.items() if status == "pass"}
    assert {
        "core/wkb", "core/geometry-types", "core/crs-default", "core/bbox-array", "core/bbox-extent",
        "covering/bbox-column-structure", "distribution/geospatial-statistics", "distribution/spatial-order",
    } <= passed  # fmt: skip


def test_map_part_when_the_validator_sees_it_then_it_conforms(tmp_path: Path) -> None:
    maps = [np.zeros((4, 3, 5), np.float32), None, np.zeros((4, 2, 2), np.float32)]
    assert check(write(tmp_path / "p.parquet", maps))["core/bbox-extent"] == "pass"


@pytest.mark.parametrize("output", [OutputSpec(), OutputSpec.grid()])
def test_export_when_the_validator_sees_its_parts_then_they_conform(tmp_path: Path, output: OutputSpec) -> None:
    source = (
        places(12) if output.mode == "pooled" else [BBox(179.99, -16.001, 180.0, -16.0), BBox(2, 42, 2.002, 42.001)]
    )
    run_export(tmp_path / "out", source, "null-map", output=output)
    parts = list((tmp_path / "out/null-map").glob("part-*.parquet"))
    assert parts
    for part in parts:
        check(part)


def test_part_when_geopandas_opens_it_then_crs_geometries_and_a_box_select(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", [np.zeros(4, np.float32)] * 100)
    found = geopandas.read_parquet(path)
    assert (found.crs.to_string(), found.footprint.crs.to_string()) == ("OGC:CRS84", "OGC:CRS84")
    assert set(found.geom_type) == {"Point", "Polygon"}
    near = geopandas.read_parquet(path, bbox=(2.0, 42.0, 2.0105, 42.0105))
    assert near["id"].tolist() == [f"p{i}" for i in range(11)]


def test_part_when_duckdb_opens_it_then_boxes_and_vectors_are_there(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", [np.full(4, i, np.float32) for i in range(10)])
    query = f"select id, embedding[1] from '{path}' where footprint_bbox.xmin > 2.0055 order by id"
    assert duckdb.sql(query).fetchall() == [("p7", 7.0), ("p8", 8.0), ("p9", 9.0)]
    kinds = dict(duckdb.sql(f"select column_name, column_type from (describe select * from '{path}')").fetchall())
    assert (kinds["geometry"], kinds["footprint"]) == ("GEOMETRY('OGC:CRS84')",) * 2
    keys = duckdb.sql(f"select decode(key) from parquet_kv_metadata('{path}')").fetchall()
    assert {key for (key,) in keys} == {"rsembed", "geo", "ARROW:schema"}


def test_part_when_its_schema_is_read_then_the_file_and_arrow_s_copy_say_the_same_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", [np.zeros(4, np.float32)] * 5)
    stored = pq.read_metadata(path).metadata
    copy = pq.read_schema(path).metadata
    assert stored[b"geo"] == copy[b"geo"]
    assert stored[b"rsembed"] == copy[b"rsembed"]
    geo = json.loads(copy[b"geo"])
    assert geo["columns"]["geometry"]["geometry_types"] == ["Point", "Polygon"]
    assert geo["columns"]["geometry"]["bbox"] == pytest.approx([2.0, 42.0, 2.013, 42.023])
    assert geo["columns"]["footprint"]["bbox"] == pytest.approx([1.999, 41.999, 2.014, 42.024])


def test_part_when_rows_are_boxes_then_row_groups_have_statistics_of_them(tmp_path: Path) -> None:
    path = write(tmp_path / "p.parquet", [np.zeros(4096, np.float32)] * 2500, 512)
    rows = ROW_GROUP_BYTES // 4096 // 4
    assert groups(path) == [rows, 2500 - rows]
    second = pq.read_metadata(path).row_group(1)
    leaves = {second.column(i).path_in_schema: second.column(i) for i in range(second.num_columns)}
    assert leaves["bbox.xmin"].statistics.min == pytest.approx(2.0 + rows / 1000)
    assert leaves["footprint_bbox.ymax"].statistics.has_min_max
    assert leaves["bbox.xmin"].has_column_index
    assert leaves["embedding.list.element"].statistics is None


def test_part_when_rows_are_wide_then_row_groups_end_by_bytes_wherever_tables_end(tmp_path: Path) -> None:
    side = 128
    each = 16 * side * side * 4  # 1 MiB
    maps: list[np.ndarray | None] = [np.zeros((16, side, side), np.float32)] * 70
    maps[5] = None
    per_group = ROW_GROUP_BYTES // each
    paths = [write(tmp_path / f"{step}", maps, step) for step in (1, 7, 70)]
    assert groups(paths[0]) == [per_group + 1, per_group, 70 - 2 * per_group - 1]
    assert len({path.read_bytes() for path in paths}) == 1


def test_part_when_one_row_is_larger_than_a_group_then_it_has_one_of_its_own(tmp_path: Path) -> None:
    large = np.zeros((16, 800, 800), np.float32)  # 39 MiB
    assert groups(write(tmp_path / "p", [large, large, np.zeros((16, 1, 1), np.float32)], 1)) == [1, 1, 1]


@given(cuts=st.lists(st.integers(0, 9), max_size=4))
def test_summary_when_rows_come_in_any_pieces_then_the_same(cuts: list[int]) -> None:
    shapes = np.array([shapely.Point(i, -i) for i in range(8)] + [None, shapely.Point(1, 2, 3)], dtype=object)
    boxes = bbox_array(shapely.bounds(shapes), shapely.is_missing(shapes))
    table = pa.table({"g": pa.array(shapely.to_wkb(shapes, flavor="iso"), pa.binary()), "b": boxes})
    whole, pieces = GeoSummary({"g": "b"}), GeoSummary({"g": "b"})
    whole.add(table)
    edges = sorted({0, *cuts, 10})
    for first, end in zip(edges, edges[1:]):
        pieces.add(table.slice(first, end - first))
    assert pieces.metadata() == whole.metadata()
    column = json.loads(whole.metadata())["columns"]["g"]
    assert column["geometry_types"] == ["Point", "Point Z"]
    assert column["bbox"] == [0, -7, 7, 2]
