"""Where places are read from."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shapely
from pyarrow import parquet

from rsembed.core.errors import SpecError
from rsembed.core.specs import BBox, PointBuffer
from rsembed.pipelines.rows.formats import open_table
from rsembed.pipelines.rows.source import TableSource

PLACES = pa.table({"id": ["a", "b", "c"], "lon": [1.0, 2.0, 3.0], "lat": [4.0, 5.0, 6.0]})


def read(source: TableSource) -> pa.Table:
    return pa.Table.from_batches(list(source.batches(source.columns)))


def csv(folder: Path, text: str, name: str = "places.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def frame(crs: object = "EPSG:4326") -> geopandas.GeoDataFrame:
    return geopandas.GeoDataFrame({"id": ["a", "b"]}, geometry=[shapely.Point(1, 2), shapely.Point(3, 4)], crs=crs)


def test_open_table_when_the_extension_is_unknown_then_the_known_ones_are_listed(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"unknown extension '\.xlsx'.*\.parquet.*\.csv.*\.geojson.*\.gpkg"):
        open_table(csv(tmp_path, "", "places.xlsx"))


def test_open_table_when_the_file_is_missing_then_it_says_so() -> None:
    with pytest.raises(SpecError, match="there is no file or folder 'nowhere"):
        open_table("nowhere.csv")


@pytest.mark.parametrize("name", ["a.parquet", "a.gpkg", "a.geojson"])
def test_open_table_when_the_file_is_damaged_then_the_error_names_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match=f"cannot read {name}"):
        open_table(csv(tmp_path, "not what it says", name))


def test_open_table_when_given_a_number_then_it_says_what_is_accepted() -> None:
    with pytest.raises(SpecError, match=r"a list of \(lon, lat\), PointBuffer or BBox; got int"):
        open_table(3)


def test_parquet_when_a_folder_then_files_are_read_by_name_and_hidden_ones_left(tmp_path: Path) -> None:
    parquet.write_table(PLACES.slice(2), tmp_path / "b.parquet")
    parquet.write_table(PLACES.slice(0, 2), tmp_path / "a.parquet")
    parquet.write_table(PLACES, tmp_path / "_c.parquet")
    source = open_table(tmp_path)
    assert source.n_rows == 3
    assert read(source).equals(PLACES)


def test_parquet_when_files_differ_in_columns_then_the_odd_column_is_named(tmp_path: Path) -> None:
    parquet.write_table(PLACES, tmp_path / "a.parquet")
    parquet.write_table(PLACES.rename_columns(["id", "lon", "latitude"]), tmp_path / "b.parquet")
    with pytest.raises(SpecError, match=r"different columns \(lat, latitude\)"):
        open_table(tmp_path)


def test_parquet_when_a_folder_is_empty_then_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no Parquet file"):
        open_table(tmp_path)


def test_parquet_when_the_file_is_large_then_memory_is_not(tmp_path: Path) -> None:
    lon, lat = np.random.default_rng(0).random((2, 1_500_000))  # 24 MB
    parquet.write_table(pa.table({"lon": lon, "lat": lat}), tmp_path / "a.parquet", row_group_size=100_000)
    source = open_table(tmp_path / "a.parquet")
    before, most = pa.total_allocated_bytes(), 0
    for _ in source.read(["lon", "lat"]):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 10 << 20


def test_geoparquet_when_written_by_geopandas_then_geometry_crs_and_covering_are_known(tmp_path: Path) -> None:
    frame("EPSG:32631").to_parquet(tmp_path / "a.parquet", write_covering_bbox=True)
    source = open_table(tmp_path / "a.parquet")
    assert source.geometry == "geometry"
    assert source.crs is not None
    assert source.crs.to_epsg() == 32631
    assert source.columns == ("id", "geometry")


def test_geoparquet_when_in_degrees_then_nothing_is_reprojected(tmp_path: Path) -> None:
    frame().to_parquet(tmp_path / "a.parquet")
    assert open_table(tmp_path / "a.parquet").crs is None


def test_geoparquet_when_the_encoding_is_not_wkb_then_it_says_what_to_do(tmp_path: Path) -> None:
    frame().to_parquet(tmp_path / "a.parquet", geometry_encoding="geoarrow", schema_version="1.1.0")
    with pytest.raises(SpecError, match="encoding 'point' is not read; write the file with encoding WKB"):
        open_table(tmp_path / "a.parquet")


def test_geoparquet_when_the_metadata_is_damaged_then_it_says_so(tmp_path: Path) -> None:
    parquet.write_table(PLACES.replace_schema_metadata({"geo": "{}"}), tmp_path / "a.parquet")
    with pytest.raises(SpecError, match="GeoParquet metadata is damaged"):
        open_table(tmp_path / "a.parquet")


def test_csv_when_ids_look_like_numbers_then_they_stay_text(tmp_path: Path) -> None:
    table = read(open_table(csv(tmp_path, "id,site,lon,lat\n007,08,1,2\n")))
    assert table.to_pylist() == [{"id": "007", "site": 8, "lon": 1, "lat": 2}]
    table = read(open_table(csv(tmp_path, "id,site,lon,lat\n007,08,1,2\n"), id_column="site"))
    assert table["site"].to_pylist() == ["08"]


def test_csv_when_a_later_block_does_not_fit_then_the_type_holds_for_the_whole_file(tmp_path: Path) -> None:
    filler = "".join(f"{i},,1,2,{'x' * 4000}\n" for i in range(2500))
    path = csv(tmp_path, f"n,late,lon,lat,pad\n{filler}2.5,2020-01-01,1,2,\n")
    schema = open_table(path).schema
    assert schema.field("n").type == pa.float64()
    assert schema.field("late").type == pa.date32()


def test_csv_when_text_looks_like_a_null_then_only_empty_fields_are_null(tmp_path: Path) -> None:
    table = read(open_table(csv(tmp_path, 'id,land,lon,lat\na,NA,1,2\nb,,1,2\nc,"",1,2\n')))
    assert table["land"].to_pylist() == ["NA", None, ""]


def test_csv_when_a_row_has_too_many_fields_then_the_error_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"cannot read places\.csv: .*Expected 2 columns, got 3"):
        open_table(csv(tmp_path, "lon,lat\n1,2\n1,2,3\n"))


def test_csv_when_not_utf8_then_the_error_names_the_column(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,name,lon,lat\na,\xff,1,2\n")
    with pytest.raises(SpecError, match="column 'name' is not UTF-8 text"):
        open_table(path)


def test_csv_when_a_column_appears_twice_then_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="column 'lon' appears twice"):
        open_table(csv(tmp_path, "lon,lon,lat\n1,1,2\n"))


def test_tsv_when_opened_then_fields_are_split_at_tabs(tmp_path: Path) -> None:
    assert open_table(csv(tmp_path, "id\tlon\tlat\na\t1\t2\n", "a.tsv")).columns == ("id", "lon", "lat")


def test_geojson_when_features_are_numbered_then_the_number_is_the_fallback_id(tmp_path: Path) -> None:
    feature = {"type": "Feature", "properties": {}, "id": 41, "geometry": {"type": "Point", "coordinates": [1, 2]}}
    path = csv(tmp_path, json.dumps({"type": "FeatureCollection", "features": [feature]}), "a.geojson")
    source = open_table(path)
    assert source.fallback_id is not None
    batch = next(source.batches([source.fallback_id, str(source.geometry)]))
    assert batch[source.fallback_id].to_pylist() == [41]
    assert source.fallback_id not in source.columns


def test_geopackage_when_it_has_layers_then_one_has_to_be_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    for layer in ("north", "south"):
        frame("EPSG:3857").to_file(path, layer=layer)
    with pytest.raises(SpecError, match="2 layers; name one of north, south"):
        open_table(path)
    with pytest.raises(SpecError, match="no layer 'east'; it has north, south"):
        open_table(path, layer="east")
    source = open_table(path, layer="south")
    assert source.n_rows == 2
    assert source.crs is not None
    assert source.columns == ("id", source.geometry)


def test_open_table_when_a_layer_is_given_for_a_csv_then_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="only a GeoPackage has layers"):
        open_table(csv(tmp_path, "lon,lat\n1,2\n"), layer="one")


def test_frames_when_given_then_they_are_told_apart() -> None:
    plain = open_table(pd.DataFrame({"lon": [1.0], "lat": [2.0]}))
    assert plain.geometry is None
    geo = open_table(frame("EPSG:3857"))
    assert geo.geometry == "geometry"
    assert geo.crs is not None
    assert shapely.from_wkb(read(geo)["geometry"].to_pylist()).tolist() == [shapely.Point(1, 2), shapely.Point(3, 4)]


def test_frames_when_a_column_mixes_types_then_a_spec_error_names_the_frame() -> None:
    with pytest.raises(SpecError, match="cannot read the DataFrame"):
        open_table(pd.DataFrame({"lon": [1.0, 2.0], "odd": [1, "x"]}))


def test_lists_when_pairs_then_lon_and_lat() -> None:
    assert read(open_table([(1, 2), np.array([3.0, 4.0])])).to_pylist() == [
        {"lon": 1.0, "lat": 2.0}, {"lon": 3.0, "lat": 4.0},
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [(1,), "xy", None, (1, 2, 3)])
def test_lists_when_an_entry_is_no_pair_then_it_is_named(bad: object) -> None:
    with pytest.raises(SpecError, match="place 1 must be a pair"):
        open_table([(1, 2), bad])


def test_lists_when_specs_then_the_buffer_is_kept() -> None:
    source = open_table([PointBuffer(1, 2, 500), BBox(0, 0, 1, 1)])
    assert source.buffer_m == 500
    assert source.n_rows == 2


def test_lists_when_buffers_differ_or_kinds_mix_then_it_is_refused() -> None:
    with pytest.raises(SpecError, match="need one buffer_m"):
        open_table([PointBuffer(1, 2, 500), PointBuffer(1, 2, 600)])
    with pytest.raises(SpecError, match="place 1 must be a PointBuffer or BBox"):
        open_table([PointBuffer(1, 2), (1, 2)])


def test_batches_when_the_table_is_one_piece_then_they_are_cut() -> None:
    source = open_table(pa.table({"lon": np.zeros(70_000), "lat": np.zeros(70_000)}))
    assert [batch.num_rows for batch in source.batches(["lon"])] == [16_384] * 4 + [4_464]


def test_crs_when_unknown_to_proj_then_it_says_so(tmp_path: Path) -> None:
    geo = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB", "crs": {"type": "nonsense"}}}}
    table = pa.table({"geometry": shapely.to_wkb([shapely.Point(1, 2)])})
    parquet.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), tmp_path / "a.parquet")
    with pytest.raises(SpecError, match="PROJ does not know"):
        open_table(tmp_path / "a.parquet")
