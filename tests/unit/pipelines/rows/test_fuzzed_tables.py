"""Whatever a file of places holds, it is read or refused with a named error that says where; never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsembed.cli.main import cli
from rsembed.core.errors import RowError, RSEmbedError, SpecError
from rsembed.testing.scene import write_synthetic_catalog
from tests.builders import row_table

ONE_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40
)
WORDS = st.sampled_from(
    ["1", "2.5", "", "nan", "inf", "-inf", "1e400", "9" * 400, "null", "None", "abc", "2022", "2022-06-01",
     "9999-12-31", "0001-01-01", "99999", "-5", "é", "\x00", "\ufeff", "'", '"a\nb"', "POINT (1 2)", "POINT EMPTY",
     "POINT (1e400 2)", "POLYGON ((0 0,1 0,1 1,0 1,0 0))", "MULTIPOINT (1 2,3 4)", "180.0000001", "-90.1", "True",
     "0x10", "1_000", "١٢",
     "2022-13-01", "2022-06-01T25:00", "10000-01-01"]
)  # fmt: skip
NAMES = st.sampled_from(
    ["id", "lon", "lat", "longitude", "Latitude", "x", "y", "start", "end", "date", "year", "geometry", "wkt", "wkb",
     "status", "embedding", "name", "LON", "", "row", "a b", "ünï", "bbox", "footprint"]
)  # fmt: skip
PLAIN = {
    "lon": "2", "lat": "42", "year": "2020", "start": "2020-01-01", "end": "2020-02-01", "date": "2020-01-01",
    "geometry": "POINT (1 2)",
}  # fmt: skip
HEADS = st.sampled_from(
    [("lon", "lat"), ("id", "lon", "lat"), ("lon", "lat", "year"), ("id", "geometry"), ("lon", "lat", "start", "end")]
)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_catalog(tmp_path_factory.mktemp("scene"), size_px=64, dates=("2022-06-13",))


def outcome(path: Path, **options: Any) -> str:
    """``read``, or ``refused`` by an error of ours that has words and names the file or a row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GDAL's own, of geometries it does not know
        try:
            row_table(path, path.parent, **options).close()
        except RSEmbedError as exc:
            said = str(exc)
        else:
            return "read"
    assert len(said) > 10
    return "refused"


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@st.composite
def damaged(draw: st.DrawFn, data: st.SearchStrategy[bytes]) -> bytes:
    """Bytes of which some are cut off, changed or put in between."""
    found = bytearray(draw(data))
    for _ in range(draw(st.integers(0, 3))):
        if not found:
            break
        at = draw(st.integers(0, len(found) - 1))
        change = draw(st.sampled_from(["cut", "set", "insert", "delete"]))
        if change == "cut":
            del found[at:]
        elif change == "set":
            found[at] = draw(st.integers(0, 255))
        elif change == "insert":
            found[at:at] = draw(st.binary(max_size=8))
        else:
            del found[at : at + 10]
    return bytes(found)


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    names = [*draw(HEADS), *draw(st.lists(NAMES, max_size=2))]
    odd = draw(st.integers(0, 4))
    lines = [",".join(names)]
    lines += [
        ",".join(draw(WORDS) if (i + j) % 5 < odd else PLAIN.get(name, str(i)) for j, name in enumerate(names))
        for i in range(draw(st.integers(0, 5)))
    ]
    return "\n".join(lines).encode(draw(st.sampled_from(["utf-8", "utf-16", "latin-1", "utf-8-sig"])), "replace")


@ONE_FOLDER
@given(damaged(csv_files()), st.sampled_from([".csv", ".tsv"]), st.booleans())
def test_csv_when_it_holds_anything_then_read_or_refused(tmp_path: Path, data: bytes, suffix: str, skip: bool) -> None:
    outcome(written(tmp_path, f"places{suffix}", data), skip_bad_rows=skip)


@ONE_FOLDER
@given(
    st.binary(max_size=300),
    st.sampled_from([".csv", ".tsv", ".parquet", ".pq", ".geojson", ".json", ".gpkg", ".txt", ""]),
)
def test_file_when_it_is_noise_then_refused_or_read(tmp_path: Path, data: bytes, suffix: str) -> None:
    outcome(written(tmp_path, f"noise{suffix}", data))


COORDINATES: st.SearchStrategy[Any] = st.sampled_from(
    [[2, 42], [2], [], [None, 1], ["a", "b"], [200, 1], [2, 42, 7], [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]],
     [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]], [[[0, 0], [1, 0], [0, 1], [0, 0]]], None, 5, {}]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FEATURES = st.fixed_dictionaries(
    {
        "type": st.just("Feature"),
        "properties": st.none() | st.dictionaries(NAMES, JSON, max_size=3),
        "geometry": st.none()
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["Point", "Polygon", "MultiPoint", "Foo", None, 5]), "coordinates": COORDINATES}
        ),
    },
    optional={"id": JSON},
)
COLLECTIONS = st.fixed_dictionaries(
    {"type": st.just("FeatureCollection"), "features": st.lists(FEATURES | JSON, max_size=3) | JSON},
    optional={"crs": JSON | st.just({"type": "name", "properties": {"name": "EPSG:3857"}})},
)


@ONE_FOLDER
@given(damaged((COLLECTIONS | FEATURES | JSON).map(lambda value: json.dumps(value).encode())))
def test_geojson_when_it_holds_anything_then_read_or_refused(tmp_path: Path, data: bytes) -> None:
    outcome(written(tmp_path, "places.geojson", data))


def _wkb_point(n: int) -> pa.Array:
    return pa.array([b"\x01\x01\x00\x00\x00" + np.array([1.0, 2.0]).tobytes()] * n, pa.binary())


COLUMNS: dict[str, Callable[[int], pa.Array]] = {
    "floats": lambda n: pa.array([1.5, None, float("nan"), float("inf"), -1e300][:n], pa.float64()),
    "halves": lambda n: pa.array(np.full(n, 1.5, np.float16)),
    "numbers": lambda n: pa.array([1, None, 2022, -5, 2**62][:n], pa.int64()),
    "large": lambda n: pa.array([2**64 - 1] * n, pa.uint64()),
    "words": lambda n: pa.array(["abc", None, "", "2022-06-01", "POINT (1 2)"][:n]),
    "views": lambda n: pa.array(["POINT (1 2)", None, "", "x", "3"][:n]).cast(pa.string_view()),
    "bytes": lambda n: pa.array([b"", None, b"\x01", b"\xff" * 21, b"\x01\x01\x00\x00\x00"][:n], pa.binary()),
    "points": _wkb_point,
    "byte views": lambda n: _wkb_point(n).cast(pa.binary_view()),
    "flags": lambda n: pa.array([True] * n),
    "days": lambda n: pa.array([0, None, -719_162, 2_932_896, 2**31 - 1][:n], pa.int32()).cast(pa.date32()),
    "times": lambda n: pa.array([0, None, 2**62, -(2**62), 1][:n], pa.int64()).cast(
        pa.timestamp("us", "Europe/Berlin")
    ),
    "nanoseconds": lambda n: pa.array([0, None, 2**62, -(2**62), 1][:n], pa.int64()).cast(pa.timestamp("ns")),
    "lists": lambda n: pa.array([[1]] * n),
    "records": lambda n: pa.array([{"a": 1}] * n),
    "maps": lambda n: pa.array([[("a", 1)]] * n, pa.map_(pa.string(), pa.int64())),
    "codes": lambda n: pa.array(["a", None, "b", "a", ""][:n]).dictionary_encode(),
    "nothing": pa.nulls,
    "spans": lambda n: pa.array([1] * n, pa.int64()).cast(pa.duration("s")),
}
GEO = st.sampled_from(
    [b"{}", b"[]", b"not json", b"\xff\xfe", b"5", b"null", b'{"primary_column":5,"columns":[]}']
    + [
        json.dumps({"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"} | more}}).encode()
        for more in ({"crs": 5}, {"crs": "EPSG:99999"}, {"crs": {}}, {"crs": [1]}, {"covering": 5}, {"encoding": "x"},
                     {"covering": {"bbox": {"xmin": []}}}, {"covering": {"bbox": {"xmin": 5}}})
    ]
)  # fmt: skip


@st.composite
def parquet_tables(draw: st.DrawFn) -> pa.Table:
    n = draw(st.integers(0, 5))
    plain = {"lon": pa.array([2.0] * n), "lat": pa.array([42.0] * n)}
    names = [*draw(HEADS), *draw(st.lists(NAMES, max_size=2))]
    arrays = []
    for name in names:
        own = name in plain and draw(st.integers(0, 3)) > 0
        arrays.append(plain[name] if own else COLUMNS[draw(st.sampled_from(sorted(COLUMNS)))](n))
    table = pa.table(arrays, names=names)
    return table.replace_schema_metadata({b"geo": draw(GEO)}) if draw(st.integers(0, 4)) == 0 else table


@ONE_FOLDER
@given(parquet_tables(), st.booleans(), st.data())
def test_parquet_when_columns_are_odd_then_read_or_refused(
    tmp_path: Path, table: pa.Table, skip: bool, data: st.DataObject
) -> None:
    path = tmp_path / "places.parquet"
    pq.write_table(table, path)
    outcome(path, skip_bad_rows=skip)
    if data.draw(st.integers(0, 3)) == 0:
        path.write_bytes(data.draw(damaged(st.just(path.read_bytes()))))
        outcome(path)


# What the fuzzing found


def test_geojson_when_a_property_is_an_object_then_it_is_carried_as_text(tmp_path: Path) -> None:
    feature = {
        "type": "Feature", "properties": {"about": {"a": [1, 2]}},
        "geometry": {"type": "Point", "coordinates": [2, 42]},
    }  # fmt: skip
    path = written(tmp_path, "a.geojson", json.dumps({"type": "FeatureCollection", "features": [feature]}).encode())
    table = row_table(path, tmp_path)
    assert json.loads(table.shard(0, 1).carried.column("about")[0].as_py()) == {"a": [1, 2]}


@pytest.mark.parametrize("kind", [pa.string_view(), pa.large_string(), pa.string()])
def test_parquet_when_geometries_are_text_of_any_kind_then_read(tmp_path: Path, kind: pa.DataType) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"wkt": pa.array(["POINT (2 42)", "POINT (3 43)"]).cast(kind)}), path)
    assert row_table(path, tmp_path).n_rows == 2


def test_parquet_when_its_covering_is_damaged_then_refused_by_name(tmp_path: Path) -> None:
    geo = {
        "primary_column": "geometry",
        "columns": {"geometry": {"encoding": "WKB", "covering": {"bbox": {"xmin": []}}}},
    }
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"geometry": _wkb_point(1)}).replace_schema_metadata({b"geo": json.dumps(geo)}), path)
    with pytest.raises(SpecError, match=r"a.parquet: the GeoParquet metadata is damaged"):
        row_table(path, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,lon,lat\na,2,42\nb,nan,42\n", "row 1 (id 'b'): lon"),
        ("id,lon,lat\na,2,42\nb,2,95\n", "row 1 (id 'b'): latitude must lie in -90..90 degrees, got 95"),
        ("id,lon,lat\na,2,42\nb,1e400,4\n", "row 1 (id 'b'): longitude must lie in"),
        ("id,lon,lat,year\na,2,42,20222\n", "row 0 (id 'a'): year must be a whole number from 1 to 9998"),
        ("id,lon,lat,start,end\na,2,42,2022-01-02,2022-01-01\n", "row 0 (id 'a'): start 2022-01-02 is not before end"),
        ("id,lon,lat\na,2,42\n,2,42\n", "row 1: the id is missing"),
        ("id,lon,lat\na,2,42\na,2,42\n", "same id and window"),
        ("id,longitud,lat\na,2,42\n", "longitud"),
        ("id,lon,lat\n", "has no rows"),
        ("", "cannot read"),
    ],
)
def test_command_when_a_table_is_wrong_then_exit_2_with_row_or_column_named(
    tmp_path: Path, catalog: Path, text: str, said: str
) -> None:
    path = written(tmp_path, "places.csv", text.encode())
    arguments = ["export", str(path), "--model", "mosaiks", "--out", str(tmp_path / "out"), "--catalog", str(catalog)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.parquet", b"PAR1 and then nothing"), ("a.gpkg", b"SQLite format 3\x00 no"),
        ("a.csv", "lon,lat\n2,é\n".encode("latin-1")),
    ],
)  # fmt: skip
def test_program_when_a_file_is_broken_then_one_line_and_exit_2(tmp_path: Path, name: str, data: bytes) -> None:
    path = written(tmp_path, name, data)
    done = subprocess.run(
        [sys.executable, "-m", "rsembed", "export", str(path), "--model", "mosaiks", "--out", str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert name in done.stderr


def test_rows_when_many_are_bad_then_the_first_are_named_and_all_counted(tmp_path: Path) -> None:
    lines = ["id,lon,lat", *(f"p{i},{i},42" for i in range(170, 260))]
    path = written(tmp_path, "a.csv", "\n".join(lines).encode())
    with pytest.raises(RowError, match=r"(?s)79 .*row 11 \(id 'p181'\)") as caught:
        row_table(path, tmp_path)
    assert len(str(caught.value)) < 5000
