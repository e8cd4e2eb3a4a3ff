"""A whole dataset as a Zarr store, opened by xarray."""

from __future__ import annotations

import datetime as dt
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr

from rsembed.writers.store import FolderStore
from rsembed.writers.zarr_store import write_zarr

UTM = [160.0, 0.0, 500_000.0, 0.0, -80.0, 4_000_000.0]


def table(n: int, first: int = 0, **more: Any) -> pa.Table:
    """``n`` rows of a dataset; every third one has no embedding."""
    seq = np.arange(first, first + n)
    gone = (seq % 3 == 2).tolist()
    day = dt.date(2022, 1, 3)
    plain: dict[str, Any] = {
        "id": [f"p{i}ü" for i in seq], "row": seq[::-1].copy(), "seq": seq,
        "start": pa.array([dt.date(2022, 1, 1)] * n), "end": pa.array([dt.date(2023, 1, 1)] * n),
        "status": ["no_data" if each else "ok" for each in gone], "lon": 2.0 + seq / 100, "lat": np.full(n, 42.0),
        "geometry": pa.array([b"x"] * n), "bbox": pa.array([{"xmin": 1.0}] * n),
        "epsg": pa.array([32631] * n, pa.int32()),
        "n_images": pa.array([0 if each else 2 for each in gone], pa.int32()),
        "first_date": pa.array([None if each else day for each in gone], pa.date32()),
        "last_date": pa.array([None] * n, pa.date32()),
        "valid_fraction": pa.array([None if each else 0.5 for each in gone], pa.float32()),
        "scene_ids": pa.array([["a"]] * n),
    }  # fmt: skip
    return pa.table(plain | more)


def pooled(n: int, first: int = 0, kind: pa.DataType = pa.float32(), **more: Any) -> pa.Table:  # noqa: B008 - frozen
    vectors = [None if i % 3 == 2 else [i, i + 0.5, -1] for i in range(first, first + n)]
    return table(n, first, embedding=pa.array(vectors, pa.list_(kind, 3)), **more)


def maps(shapes: list[tuple[int, int, int] | None]) -> tuple[pa.Table, list[np.ndarray | None]]:
    rng = np.random.default_rng(0)
    values = [None if shape is None else rng.normal(size=shape).astype(np.float32) for shape in shapes]
    more = {
        "embedding": pa.array([None if v is None else v.reshape(-1) for v in values], pa.list_(pa.float32())),
        "grid_shape": pa.array(shapes, pa.list_(pa.int32(), 3)),
        "grid_transform": pa.array([None if v is None else UTM for v in values], pa.list_(pa.float64(), 6)),
    }
    return table(len(shapes), **more), values


def written(folder: Path, *tables: pa.Table, metadata: dict[str, Any] | None = None) -> Path:
    """The Zarr store of a dataset of ``tables``, a part each."""
    store = FolderStore(folder)
    names = []
    for index, each in enumerate(tables):
        names.append(f"part-{index}.parquet")
        folder.mkdir(exist_ok=True)
        facts = {"rsembed": json.dumps(metadata or {"model": {"name": "null"}})}
        pq.write_table(each.replace_schema_metadata(facts), folder / names[-1])
    write_zarr(store, names, lambda name, data: store.put(f"a.zarr/{name}", data))
    return folder / "a.zarr"


def read(path: Path) -> xr.Dataset:
    with xr.open_zarr(path, chunks=None) as opened:
        return opened.load()


def test_store_when_rows_are_vectors_then_xarray_has_them_with_their_columns(tmp_path: Path) -> None:
    found = read(written(tmp_path / "x", pooled(4), pooled(3, first=4)))
    assert found["embedding"].dims == ("row", "dim")
    assert found["embedding"].dtype == np.float32
    expected = np.array([[i, i + 0.5, -1] for i in range(7)], np.float32)
    expected[[2, 5]] = np.nan
    np.testing.assert_array_equal(found["embedding"], expected)
    assert set(found["embedding"].coords) == {
        "row", "seq", "id", "start", "end", "status", "lon", "lat", "epsg", "n_images", "first_date", "last_date",
        "valid_fraction",
    }  # fmt: skip
    assert found["row"].values.tolist() == [3, 2, 1, 0, 6, 5, 4]
    assert found["seq"].values.tolist() == list(range(7))
    assert found["id"].values.tolist() == [f"p{i}ü" for i in range(7)]
    assert found["start"].dtype.kind == "M"
    assert found["first_date"].values.astype("M8[D]").tolist()[:3] == [dt.date(2022, 1, 3)] * 2 + [None]
    assert np.isnat(found["last_date"]).all()
    assert found["n_images"].values.tolist() == [2, 2, 0, 2, 2, 0, 2]
    np.testing.assert_array_equal(found["valid_fraction"][:3], np.array([0.5, 0.5, np.nan], np.float32))


def test_store_when_sorted_by_row_then_the_order_of_the_input_is_back(tmp_path: Path) -> None:
    found = read(written(tmp_path / "x", pooled(5)))
    assert "sortby" in found.attrs["order"]
    assert found.sortby(["row", "seq"])["embedding"][:, 0].values.tolist()[:2] == [4, 3]
    assert found.sel(row=4)["id"].item() == "p0ü"


def test_store_when_the_dataset_says_what_it_is_then_the_store_does(tmp_path: Path) -> None:
    facts = {"model": {"name": "null"}, "licence": "MIT", "title": "Nothing"}
    found = read(written(tmp_path / "x", pooled(2), metadata=facts))
    assert found.attrs["licence"] == "MIT"
    assert json.loads(found.attrs["model"]) == {"name": "null"}


def test_store_when_vectors_are_halves_then_they_stay_so(tmp_path: Path) -> None:
    found = read(written(tmp_path / "x", pooled(3, kind=pa.float16())))
    assert found["embedding"].dtype == np.float16
    assert found["embedding"][1].values.tolist() == [1, 1.5, -1]


def test_store_when_rows_are_maps_of_several_shapes_then_filled_up_to_the_largest(tmp_path: Path) -> None:
    given, values = maps([(4, 3, 5), (4, 6, 2), None, (4, 1, 1)])
    found = read(written(tmp_path / "x", given))
    assert found["embedding"].dims == ("row", "dim", "y", "x")
    assert found["embedding"].shape == (4, 4, 6, 5)
    for i, value in enumerate(values):
        height, width = int(found["grid_height"][i]), int(found["grid_width"][i])
        assert (height, width) == ((0, 0) if value is None else value.shape[1:])
        own = found["embedding"].values[i, :, :height, :width]
        if value is not None:
            np.testing.assert_array_equal(own, value)
            assert found["grid_transform"][i].values.tolist() == UTM
        rest = found["embedding"].values[i].copy()
        rest[:, :height, :width] = np.nan
        assert np.isnan(rest).all()
    assert np.isnan(found["grid_transform"][2]).all()
    assert {"grid_transform", "grid_height", "grid_width", "epsg"} <= set(found.coords)


def test_store_when_no_row_has_a_map_then_an_empty_array(tmp_path: Path) -> None:
    found = read(written(tmp_path / "x", maps([None, None])[0]))
    assert found["embedding"].shape == (2, 0, 0, 0)


def test_store_when_the_user_brought_columns_then_what_is_plain_comes_along(tmp_path: Path) -> None:
    more = {
        "crop": ["wheat", None, "rye"], "height": pa.array([1, None, 3], pa.int64()), "count": [1, 2, 3],
        "good": [True, False, True], "maybe": [True, None, False], "area": [0.5, None, 1.5],
        "seen": pa.array([dt.datetime(2022, 1, 1, 12), None, dt.datetime(1969, 1, 1)], pa.timestamp("us")),  # noqa: DTZ001 - as it comes
        "list": [[1], [2], [3]], "x": [1, 2, 3], "a/b": [1, 2, 3], "two words": [1, 2, 3],
    }  # fmt: skip
    found = read(written(tmp_path / "x", pooled(3, **more)))
    assert found["crop"].values.tolist() == ["wheat", "", "rye"]
    np.testing.assert_array_equal(found["height"], [1, np.nan, 3])
    assert found["count"].dtype == np.int64
    assert found["good"].values.tolist() == [True, False, True]
    np.testing.assert_array_equal(found["maybe"], [1, np.nan, 0])
    np.testing.assert_array_equal(found["area"], [0.5, np.nan, 1.5])
    assert found["seen"].values.astype("M8[s]")[0] == np.datetime64("2022-01-01T12:00:00")
    assert np.isnat(found["seen"][1])
    assert found["two words"].values.tolist() == [1, 2, 3]
    assert list(found.attrs["columns_left_out"]) == ["a/b", "list", "x"]


@pytest.mark.parametrize("kind", ["vectors", "maps"])
def test_store_when_parts_are_cut_elsewhere_then_the_same_bytes(tmp_path: Path, kind: str) -> None:
    whole = pooled(9) if kind == "vectors" else maps([(3, 4, 5), None, (3, 2, 2), (3, 4, 4)])[0]
    stores = [written(tmp_path / "one", whole), written(tmp_path / "two", whole.slice(0, 2), whole.slice(2))]
    one, two = [
        {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("*") if file.is_file()}
        for store in stores
    ]
    assert one == two


def test_store_when_the_dataset_is_large_then_memory_is_not(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(20_000, 768)).astype(np.float32)  # 61 MB
    column = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), 768)
    given = table(20_000, embedding=column)
    (tmp_path / "x").mkdir()
    pq.write_table(given, tmp_path / "x/p.parquet", row_group_size=2048)
    del given, column
    largest = 0

    def put(name: str, data: bytes) -> None:
        nonlocal largest
        largest = max(largest, len(data))

    tracemalloc.start()
    write_zarr(FolderStore(tmp_path / "x"), ["p.parquet"], put)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 << 20
    assert largest < 5 << 20
