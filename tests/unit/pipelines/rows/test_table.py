"""Rows of a run: validated, ordered, numbered."""

from __future__ import annotations

import dataclasses
import datetime as dt
import tempfile
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import csv, parquet

from rsembed.core.errors import RowError, RSEmbedError, SpecError
from rsembed.core.specs import BBox, PointBuffer, Window
from rsembed.pipelines.rows.formats import open_table
from rsembed.pipelines.rows.order import ScratchRows, find_duplicates, identity_hashes, sorted_positions
from rsembed.pipelines.rows.table import RowOptions, RowTable, build_rows
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.tools.hilbert import hilbert_keys

YEAR = Window(dt.date(2022, 1, 1), dt.date(2023, 1, 1))
NEXT = Window(dt.date(2023, 1, 1), dt.date(2024, 1, 1))
BOX = shapely.box(10, 20, 11, 22)


def build(source: object, folder: Path, *windows: Window, **options: object) -> RowTable:
    return build_rows(
        source,
        windows=WindowPolicy(windows or (YEAR,)),
        scratch_dir=folder / "scratch",
        options=RowOptions(**options),  # type: ignore[arg-type]
    )


def places(n: int = 50, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "id": [f"site {i} é" for i in range(n)],
            "lon": np.round(random.uniform(-180, 180, n), 5),
            "lat": np.round(random.uniform(-90, 90, n), 5),
            "year": 2000 + np.arange(n) % 20,
            "name": pa.array([None if i % 7 == 0 else f"n{i % 5}" for i in range(n)], pa.string()),
            "height": pa.array([None if i % 3 == 0 else i + 0.5 for i in range(n)], pa.float64()),
            "open": [i % 2 == 0 for i in range(n)],
        }
    )


def geo(table: pa.Table) -> geopandas.GeoDataFrame:
    frame = table.drop_columns(["lon", "lat"]).to_pandas()
    lon, lat = table["lon"].to_numpy(), table["lat"].to_numpy()
    return geopandas.GeoDataFrame(frame, geometry=shapely.points(lon, lat), crs="EPSG:4326")


def ids(table: RowTable) -> list[str]:
    found: list[str] = table.slice(0, table.n_rows).ids.to_pylist()
    return found


# -- One table, many forms -----------------------------------------------------------------


@pytest.mark.parametrize("form", ["csv", "wkt.csv", "geojson", "gpkg", "geoparquet", "frame", "geoframe", "arrow"])
def test_rows_when_the_format_differs_then_order_and_digest_do_not(tmp_path: Path, form: str) -> None:
    table = places()
    parquet.write_table(table, tmp_path / "a.parquet")
    source: object = tmp_path / f"b.{form}"
    if form == "csv":
        csv.write_csv(table, source)
    elif form == "wkt.csv":
        geo(table).to_wkt(rounding_precision=-1).to_csv(source, index=False)
    elif form == "geoparquet":
        geo(table).to_parquet(source)
    elif form in ("geojson", "gpkg"):
        geo(table).to_file(source)
    else:
        source = {"frame": table.to_pandas(), "geoframe": geo(table), "arrow": table}[form]
    expected, found = build(tmp_path / "a.parquet", tmp_path / "1"), build(source, tmp_path / "2")
    assert ids(found) == ids(expected)
    assert found.carried == expected.carried
    assert found.digest == expected.digest


def test_digest_when_batches_compression_types_or_dictionaries_differ_then_it_does_not(tmp_path: Path) -> None:
    table = places()
    parquet.write_table(table, tmp_path / "a.parquet")
    changed = table.set_column(4, "name", table["name"].dictionary_encode()).set_column(
        3, "year", table["year"].cast(pa.int16())
    )
    changed = changed.set_column(0, "id", table["id"].cast(pa.large_string()))
    changed = changed.set_column(5, "height", table["height"].cast(pa.float32()))
    parquet.write_table(changed, tmp_path / "b.parquet", row_group_size=7, compression="zstd")
    pieces = pa.concat_tables([table.slice(i, 9) for i in range(0, 50, 9)])
    digests = {build(source, tmp_path).digest for source in (tmp_path / "a.parquet", tmp_path / "b.parquet", pieces)}
    assert len(digests) == 1


@pytest.mark.parametrize("column", ["id", "lon", "year", "name", "height", "open"])
def test_digest_when_one_value_changes_then_it_changes(tmp_path: Path, column: str) -> None:
    table = places()
    values = table[column].to_pylist()
    values[3] = {"id": "x", "name": "y"}.get(column, not values[3] if column == "open" else 1)
    i = table.schema.names.index(column)
    changed = table.set_column(i, column, pa.array(values, table.schema.field(column).type))
    assert build(changed, tmp_path).digest != build(table, tmp_path).digest


def test_digest_when_a_null_becomes_an_empty_text_or_names_swap_then_it_changes(tmp_path: Path) -> None:
    table = places()
    filled = table.set_column(4, "name", table["name"].fill_null(""))
    renamed = table.rename_columns({"name": "title"})
    assert len({build(source, tmp_path).digest for source in (table, filled, renamed)}) == 3


def test_digest_when_nan_and_zero_are_spelled_otherwise_then_it_does_not_change(tmp_path: Path) -> None:
    odd_nan = np.array([0x7FF8000000000001], np.uint64).view(np.float64)[0]
    one = pa.table({"lon": [0.0, 1.0], "lat": [0.0, 1.0], "v": [np.nan, 0.0]})
    two = pa.table({"lon": [-0.0, 1.0], "lat": [0.0, 1.0], "v": [odd_nan, -0.0]})
    assert build(one, tmp_path).digest == build(two, tmp_path).digest


def test_rows_when_the_input_is_shuffled_then_the_order_stays_and_row_numbers_move(tmp_path: Path) -> None:
    table = places()
    shuffle = np.random.default_rng(1).permutation(50)
    first, second = build(table, tmp_path / "1"), build(table.take(pa.array(shuffle)), tmp_path / "2")
    assert ids(first) == ids(second)
    assert np.array_equal(shuffle[second.slice(0, 50).row], first.slice(0, 50).row)
    assert first.digest != second.digest


# -- Order ---------------------------------------------------------------------------------


def test_rows_when_places_tie_then_ids_as_utf8_then_windows_decide(tmp_path: Path) -> None:
    names = ["b", "\U0001f600", "ﬀ", "a", "ab", "é", "Z", "a"]
    years = [2020, 2020, 2020, 2021, 2020, 2020, 2020, 2019]
    table = build(pa.table({"id": names, "lon": [5.0] * 8, "lat": [5.0] * 8, "year": years}), tmp_path)
    shard = table.slice(0, 8)
    found = list(zip(shard.ids.to_pylist(), [day.year for day in shard.start.tolist()], strict=True))
    assert found == sorted(zip(names, years, strict=True), key=lambda each: (each[0].encode(), each[1]))


def test_rows_when_many_tie_across_batches_then_the_order_is_exact(tmp_path: Path) -> None:
    n = 150_000
    random = np.random.default_rng(3)
    spot = np.where(np.arange(n) < 90_000, 0, random.integers(1, 20_000, n))
    lon, lat = spot / 200.0, spot / 400.0
    name = random.permutation(n)
    table = build(pa.table({"id": name, "lon": lon, "lat": lat}), tmp_path)
    text = name.astype(str)
    expected = np.lexsort([text, hilbert_keys(lon, lat)])
    assert np.array_equal(table.slice(0, n).row, expected)
    assert table.shard(0, 256).ids.to_pylist() == text[expected[:256]].tolist()
    across = table.slice(65_500, 65_600)
    assert np.array_equal(across.row, expected[65_500:65_600])


def test_order_when_hashes_collide_then_only_equal_rows_are_duplicates(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("start", pa.date32()), ("end", pa.date32())])
    day, night = dt.date(2020, 1, 1), dt.date(2020, 1, 2)
    batch = pa.record_batch([["b", "a", "b"], [day] * 3, [night] * 3], schema=schema)
    with pa.ipc.new_file(str(tmp_path / "rows"), schema) as writer:
        writer.write_batch(batch)
    np.zeros(3, np.uint64).tofile(tmp_path / "same")
    rows = ScratchRows(tmp_path / "rows")
    assert find_duplicates(tmp_path / "same", rows) == [(2, 0)]
    assert sorted_positions(tmp_path / "same", rows, np.array([2])).tolist() == [1, 0]


def test_hashes_when_ids_are_permuted_or_windows_swap_then_they_differ() -> None:
    names = pa.array(["ab", "ba", "a", "b", "aab", "ab"])
    start = np.array([1, 1, 1, 1, 1, 2])
    assert len(set(identity_hashes(names, start, np.full(6, 9)).tolist())) == 6
    alone = identity_hashes(names.slice(1, 1), start[:1], np.full(1, 9))
    assert alone == identity_hashes(names, start, np.full(6, 9))[1]


# -- Windows and shards ----------------------------------------------------------------------


def test_rows_when_the_run_has_two_windows_then_each_input_row_gives_two(tmp_path: Path) -> None:
    table = build([(1.0, 2.0), (3.0, 4.0)], tmp_path, YEAR, NEXT)
    shard = table.shard(0, 256)
    assert table.n_rows == 4
    assert shard.ids.to_pylist() == ["0", "0", "1", "1"]
    assert shard.row.tolist() == [0, 0, 1, 1]
    assert [shard.window(i) for i in range(4)] == [YEAR, NEXT, YEAR, NEXT]


def test_shard_when_taken_then_columns_and_places_fit(tmp_path: Path) -> None:
    table = build([PointBuffer(1, 2), BBox(10, 20, 11, 22), PointBuffer(3, 4)], tmp_path)
    assert [len(table.shard(i, 2)) for i in range(table.n_shards(2))] == [2, 1]
    assert table.shard(1, 2).index == 1
    shard = table.slice(0, 3)
    by_row = {int(row): i for i, row in enumerate(shard.row)}
    assert shard.spatial(by_row[0], 500) == PointBuffer(1, 2, 500)
    assert shard.spatial(by_row[1], 500) == BBox(10, 20, 11, 22)
    assert (shard.lon[by_row[1]], shard.lat[by_row[1]]) == (10.5, 21.0)
    assert np.isnan(shard.boxes[by_row[0]]).all()
    assert shard.maxlat[by_row[1]] == 22
    assert shard.seq.tolist() == [0, 1, 2]
    assert shard.start.dtype == np.dtype("datetime64[D]")
    shapes = shapely.from_wkb(shard.geometry.to_pylist())
    assert shapes[by_row[0]] == shapely.Point(1, 2)
    assert shapes[by_row[1]].equals(BOX)
    with pytest.raises(dataclasses.FrozenInstanceError):
        shard.lon = shard.lat  # type: ignore[misc]


@pytest.mark.parametrize(("index", "size"), [(-1, 2), (2, 2), (0, 0)])
def test_shard_when_it_is_not_there_then_it_says_so(tmp_path: Path, index: int, size: int) -> None:
    with pytest.raises(SpecError, match="there is no shard"):
        build([(1, 2), (3, 4), (5, 6)], tmp_path).shard(index, size)


def test_slice_when_empty_or_beyond_then_empty_or_an_error(tmp_path: Path) -> None:
    table = build([(1, 2)], tmp_path)
    assert len(table.slice(1, 1)) == 0
    with pytest.raises(SpecError, match="not all there"):
        table.slice(0, 2)


def test_rows_when_built_again_in_the_same_folder_then_the_old_table_stays_readable(tmp_path: Path) -> None:
    first = build([(1, 2)], tmp_path)
    build([(3, 4), (5, 6)], tmp_path)
    assert first.slice(0, 1).lon.tolist() == [1.0]
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["rows.arrow"]
    first.close()
    assert list((tmp_path / "scratch").iterdir()) == []


# -- Bad rows --------------------------------------------------------------------------------

BAD = pa.table(
    {
        "id": ["ok", None, "nan", "far", "north", "late", ""],
        "lon": [1.0, 1.0, float("nan"), 181.0, 3.0, 4.0, 5.0],
        "lat": [1.0, 1.0, 1.0, 1.0, -91.0, 1.0, 1.0],
        "start": ["2020-01-01"] * 5 + ["2021-01-01", "2020-01-01"],
        "end": ["2020-06-01"] * 7,
    }
)
REASONS = {
    1: "the id is missing",
    2: "longitude must lie in -180..180 degrees, got nan",
    3: "longitude must lie in -180..180 degrees, got 181",
    4: "latitude must lie in -90..90 degrees, got -91",
    5: "start 2021-01-01 is not before end 2020-06-01",
    6: "the id is empty",
}


def test_rows_when_some_are_bad_then_the_error_names_them_by_number(tmp_path: Path) -> None:
    with pytest.raises(RowError) as caught:
        build(BAD, tmp_path)
    text = str(caught.value)
    assert "6 rows cannot be used" in text
    assert "row 3 (id 'far'): longitude must lie in -180..180 degrees, got 181" in text
    assert "row 1: the id is missing" in text
    assert "--skip-bad-rows" in text
    assert list((tmp_path / "scratch").iterdir()) == []


def test_rows_when_more_than_ten_are_bad_then_ten_are_named_and_all_counted(tmp_path: Path) -> None:
    with pytest.raises(RowError) as caught:
        build([(999.0, 0.0)] * 25, tmp_path)
    text = str(caught.value)
    assert "25 rows" in text
    assert text.count("longitude must lie") == 10
    assert "and 15 more" in text


def test_rows_when_bad_ones_are_skipped_then_they_are_listed_and_numbers_stay(tmp_path: Path) -> None:
    table = build(pa.concat_tables([BAD, BAD.slice(0, 1).set_column(0, "id", pa.array(["last"]))]), tmp_path,
                  skip_bad_rows=True)  # fmt: skip
    assert sorted(table.slice(0, 2).row.tolist()) == [0, 7]
    table.write_skipped(tmp_path / "skipped.parquet")
    listed = parquet.read_table(tmp_path / "skipped.parquet").to_pylist()
    assert {each["row"]: each["reason"] for each in listed} == REASONS
    assert table.skipped_count == 6


def test_rows_when_all_are_skipped_or_none_is_there_then_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has no rows left"):
        build([(999.0, 0.0)], tmp_path, skip_bad_rows=True)
    with pytest.raises(SpecError, match="has no rows"):
        build([], tmp_path)


def test_rows_when_ids_repeat_then_both_row_numbers_are_named(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "b", "a"], "lon": [1.0, 2.0, 3.0], "lat": [1.0, 2.0, 3.0]})
    with pytest.raises(RowError, match=r"row 2 \(id 'a'\): same id and window \(2022-01-01\.\.2023-01-01\) as row 0"):
        build(table, tmp_path)
    skipped = build(table, tmp_path, YEAR, NEXT, skip_bad_rows=True)
    assert skipped.skipped["row"].to_pylist() == [2]
    assert skipped.n_rows == 4


def test_rows_when_ids_repeat_with_other_windows_then_they_are_fine(tmp_path: Path) -> None:
    table = pa.table({"id": ["a", "a"], "lon": [1.0, 1.0], "lat": [1.0, 1.0], "year": [2020, 2021]})
    assert build(table, tmp_path).n_rows == 2


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (shapely.LineString([(0, 0), (1, 1)]), "only points and axis-aligned boxes are accepted, got a LineString"),
        (shapely.Polygon([(0, 0), (2, 1), (0, 2)]), "got a Polygon that is neither; give its bounds"),
        (shapely.Polygon([(1, 0), (2, 1), (1, 2), (0, 1)]), "got a Polygon"),
        (shapely.box(0, 0, 9, 9).difference(shapely.box(1, 1, 2, 2)), "got a Polygon"),
        (shapely.MultiPoint([(0, 0), (1, 1)]), "got a MultiPoint"),
        (shapely.Point(), "the geometry is empty"),
        (None, "the geometry is missing"),
        (shapely.Polygon([(0, 0), (1, 0), (1, 0), (0, 0)]), "the polygon has no area"),
        (shapely.box(170, 0, 190, 1), "longitude must lie in"),
    ],
)
def test_geometry_when_neither_point_nor_box_then_the_row_says_what_to_do(
    tmp_path: Path, shape: shapely.Geometry | None, reason: str
) -> None:
    wkb = pa.array([None if shape is None else shapely.to_wkb(shape), shapely.to_wkb(BOX)], pa.binary())
    table = build(pa.table({"geometry": wkb}), tmp_path, skip_bad_rows=True)
    assert table.skipped["row"].to_pylist() == [0]
    assert reason in table.skipped["reason"][0].as_py()
    assert table.slice(0, 1).spatial(0, None) == BBox(10, 20, 11, 22)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (shapely.Point(1, 2, 3), PointBuffer(1, 2)),
        (shapely.MultiPoint([(1, 2)]), PointBuffer(1, 2)),
        (shapely.MultiPolygon([BOX]), BBox(10, 20, 11, 22)),
        (shapely.Polygon([(10, 20), (10, 22), (11, 22), (11, 20), (10.5, 20)]), BBox(10, 20, 11, 22)),
    ],
)
def test_geometry_when_spelled_otherwise_then_it_is_the_same_place(
    tmp_path: Path, shape: shapely.Geometry, expected: object
) -> None:
    for encoded in (shapely.to_wkb(shape, byte_order=0), shapely.to_wkt(shape)):
        assert build(pa.table({"geom": [encoded]}), tmp_path).slice(0, 1).spatial(0, None) == expected


def test_geometry_when_unreadable_then_the_row_says_so(tmp_path: Path) -> None:
    table = pa.table({"wkt": ["POINT (1 2)", "PINT (1 2)"]})
    with pytest.raises(RowError, match=r"row 1 .*cannot be read as WKB or WKT"):
        build(table, tmp_path)


def test_geometry_when_in_another_crs_then_it_is_reprojected(tmp_path: Path) -> None:
    point = geopandas.GeoSeries([shapely.Point(13.4, 52.5)], crs=4326)
    for crs, n_rows in (("EPSG:3857", 2), ("EPSG:32633", 1)):
        shapes = [point.to_crs(crs)[0], shapely.box(390_000, 5_810_000, 391_000, 5_811_000)]
        frame = geopandas.GeoDataFrame({"id": ["p", "b"]}, geometry=shapes, crs=crs)
        frame.to_parquet(tmp_path / "a.parquet")
        table = build(tmp_path / "a.parquet", tmp_path, skip_bad_rows=True)
        assert table.n_rows == n_rows
        shard = table.slice(0, n_rows)
        i = shard.ids.to_pylist().index("p")
        assert (shard.lon[i], shard.lat[i]) == pytest.approx((13.4, 52.5), abs=1e-9)
        assert table.skipped_count == 2 - n_rows  # a box in UTM is tilted in degrees


# -- Columns ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_ids", "expected"),
    [
        (pa.array([7, 8], pa.int8()), ["7", "8"]),
        (pa.array([2**63 + 1, 1], pa.uint64()), [str(2**63 + 1), "1"]),
        (pa.array([7.0, 8.0]), ["7", "8"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
    ],
)
def test_ids_when_not_text_then_they_become_text(tmp_path: Path, given_ids: pa.Array, expected: list[str]) -> None:
    table = build(pa.table({"id": given_ids, "lon": [1.0, 2.0], "lat": [1.0, 2.0]}), tmp_path)
    assert sorted(ids(table)) == sorted(expected)


def test_ids_when_of_another_type_or_fraction_then_an_error(tmp_path: Path) -> None:
    where = {"lon": [1.0, 2.0], "lat": [1.0, 2.0]}
    with pytest.raises(RowError, match=r"the id must be text or a whole number, got 1\.5"):
        build(pa.table({"id": [1.5, 2.0], **where}), tmp_path)
    with pytest.raises(SpecError, match="the id column must hold text or whole numbers, it is bool"):
        build(pa.table({"id": [True, False], **where}), tmp_path)


def test_columns_when_the_id_column_is_unknown_then_the_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no id column 'site'; the columns are id, lon, lat"):
        build(places().select(["id", "lon", "lat"]), tmp_path, id_column="site")


def test_columns_when_the_location_is_missing_then_the_names_looked_for_are_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"longitude; looked for .*lon\|longitude\|x .* found id, Latitude"):
        build(pa.table({"id": ["a"], "Latitude": [1.0]}), tmp_path)


@pytest.mark.parametrize("name", ["status", "seq", "row", "embedding", "epsg", "bbox", "scene_ids", "_kind"])
def test_columns_when_one_clashes_with_the_output_then_it_is_refused(tmp_path: Path, name: str) -> None:
    table = places(3).append_column(name, pa.array([1, 2, 3]))
    with pytest.raises(SpecError, match=f"column '{name}' would clash .* rename or drop it"):
        build(table, tmp_path)
    assert build(table, tmp_path, carry=("name",)).carried.names == ["name"]


def test_columns_when_carried_then_canonical_and_without_the_consumed(tmp_path: Path) -> None:
    table = pa.table(
        {
            "site": ["a"], "x": [1], "Y": ["2.5"], "start": ["2020-01-01"], "end": ["2020-02-01"], "year": [3],
            "t": pa.array([1_500], pa.timestamp("ns", "Europe/Berlin")), "n": pa.nulls(1),
            "f": pa.array([1], pa.uint8()),
        }
    )  # fmt: skip
    rows = build(table, tmp_path, id_column="site")
    assert rows.carried == pa.schema(
        [("year", pa.int64()), ("t", pa.timestamp("us", "UTC")), ("n", pa.string()), ("f", pa.int64())]
    )
    assert rows.slice(0, 1).carried.to_pylist()[0]["f"] == 1
    assert (rows.slice(0, 1).lon[0], rows.slice(0, 1).lat[0]) == (1.0, 2.5)


def test_columns_when_nested_then_refused_unless_left_out(tmp_path: Path) -> None:
    table = places(2).append_column("tags", pa.array([[1], [2]]))
    with pytest.raises(SpecError, match=r"column 'tags' is list<.*> *, which is not carried"):
        build(table, tmp_path)
    assert build(table, tmp_path, carry=()).carried.names == []
    with pytest.raises(SpecError, match="no column 'tag' to carry"):
        build(table, tmp_path, carry=("tag",))


def test_columns_when_lon_and_lat_stand_beside_a_geometry_then_the_geometry_counts(tmp_path: Path) -> None:
    table = pa.table({"geometry": ["POINT (1 2)"], "lon": [50.0], "lat": [50.0]})
    rows = build(table, tmp_path)
    assert rows.slice(0, 1).lon[0] == 1.0
    assert rows.carried.names == []


def test_frames_when_pandas_has_gaps_then_rows_are_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"id": [1, None], "lon": [1.0, 2.0], "lat": [1.0, 2.0]})
    with pytest.raises(RowError, match="row 1: the id is missing"):
        build(frame, tmp_path)


# -- Whatever a CSV may hold -------------------------------------------------------------------

CELL = st.one_of(
    st.sampled_from(["", "1", "-91", "nan", "inf", "1e400", "2020", "2020-01-01", "2020-13-01", "POINT (1 2)", '"']),
    st.floats().map(str),
    st.text(max_size=5),
)
HEADER = st.lists(
    st.sampled_from(["id", "lon", "lat", "x", "Y", "geometry", "start", "end", "year", "date", "name", "row", ""]),
    min_size=1, max_size=6,
)  # fmt: skip


@given(header=HEADER, cells=st.lists(st.lists(CELL, min_size=1, max_size=6), max_size=5), around=st.booleans())
@example(header=["lon", "lat"], cells=[["+1", "2"]], around=False)
@example(header=["lon", "lat", "date"], cells=[["1", "2", "9999-12-31"]], around=True)
def test_csv_when_it_holds_anything_then_only_our_own_errors_come_out(
    header: list[str], cells: list[list[str]], around: bool
) -> None:
    text = "\n".join(",".join(line) for line in [header, *cells])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        policy = WindowPolicy((YEAR,), around_days=3 if around else None)
        for skip in (False, True):
            options = RowOptions(skip_bad_rows=skip)
            try:
                table = build_rows(open_table(path), windows=policy, scratch_dir=Path(folder) / "s", options=options)
            except RSEmbedError:
                continue
            shard = table.slice(0, table.n_rows)
            for i in range(len(shard)):
                shard.window(i)
                shard.spatial(i, 100)
