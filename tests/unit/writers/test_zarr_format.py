"""Zarr groups, read back by zarr-python and xarray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from rsembed.core.errors import ExportError
from rsembed.writers.variables import Slices, Variable
from rsembed.writers.zarr_format import ZarrGroup


def write(folder: Path, *variables: Variable, chunk_bytes: int = 4096, **attributes: Any) -> Path:
    def put(name: str, data: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    group = ZarrGroup(put, chunk_bytes=chunk_bytes)
    for variable in variables:
        group.write(variable)
    group.close(attributes)
    return folder


def read(folder: Path, *, consolidated: bool = True) -> xr.Dataset:
    with xr.open_zarr(folder, consolidated=consolidated, chunks=None) as opened:
        return opened.load()


@pytest.mark.parametrize("consolidated", [True, False])
def test_zarr_when_values_of_every_kind_are_written_then_xarray_reads_them(tmp_path: Path, consolidated: bool) -> None:
    days = np.array(["2020-02-29", "NaT", "1969-12-31"], "M8[D]")
    seconds = np.array(["2020-02-29T12:00:01", "NaT", "1969-12-31T00:00:00"], "M8[s]")
    folder = write(
        tmp_path / "a.zarr",
        Variable("id", ("row",), np.array(["a", "ü", ""])),
        Variable("start", ("row",), days),
        Variable("at", ("row",), seconds),
        Variable("ok", ("row",), np.array([True, False, True])),
        Variable("n", ("row",), np.array([1, -2, 3], np.int32)),
        Variable("big", ("row",), np.array([1, 2**62, 3], np.int64)),
        Variable("half", ("row",), np.array([0.1, np.nan, -7], np.float16)),
        Variable("f8", ("row",), np.array([0.1, np.inf, -7])),
        Variable("one", (), np.array(5.5)),
        Variable("text", (), np.array("hallo")),
        title="t",
        deep={"a": [1]},
    )
    found = read(folder, consolidated=consolidated)
    assert found["id"].values.tolist() == ["a", "ü", ""]
    np.testing.assert_array_equal(found["start"].values.astype("M8[D]"), days)
    np.testing.assert_array_equal(found["at"].values.astype("M8[s]"), seconds)
    assert found["ok"].values.tolist() == [True, False, True]
    assert (found["n"].dtype, found["n"].values.tolist()) == (np.int32, [1, -2, 3])
    assert found["big"].values.tolist() == [1, 2**62, 3]
    assert found["half"].dtype == np.float16
    np.testing.assert_array_equal(found["half"], np.array([0.1, np.nan, -7], np.float16))
    np.testing.assert_array_equal(found["f8"], [0.1, np.inf, -7])
    assert (found["one"].item(), found["text"].item()) == (5.5, "hallo")
    assert found.attrs == {"title": "t", "deep": '{"a": [1]}'}


@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=4).map(tuple),
    step=st.integers(1, 5),
    chunk_bytes=st.integers(4, 400),
)
def test_zarr_when_any_array_is_cut_into_chunks_then_it_reads_back(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], step: int, chunk_bytes: int
) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values[values < -0.5] = np.nan
    slices = Slices(shape, "f4", (values[i : i + step] for i in range(0, shape[0], step)))
    dims = tuple(f"d{i}" for i in range(len(shape)))
    folder = write(tmp_path_factory.mktemp("zarr"), Variable("e", dims, slices), chunk_bytes=chunk_bytes)
    array = zarr.open_group(folder, mode="r")["e"]
    assert isinstance(array, zarr.Array)
    np.testing.assert_array_equal(array[...], values)
    assert array.metadata.dimension_names == dims  # type: ignore[union-attr] # version 3


def test_zarr_when_slices_are_of_other_lengths_then_the_same_bytes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32)
    folders = []
    for step in (1, 77, 500):
        slices = Slices(values.shape, "f4", (values[i : i + step] for i in range(0, 500, step)))
        folders.append(write(tmp_path / str(step), Variable("e", ("row", "dim"), slices)))
    first, *others = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in folders
    ]
    assert len(first) == 2 + 32
    assert others == [first, first]


def test_zarr_when_a_chunk_holds_nothing_then_it_takes_the_place_of_one_that_did(tmp_path: Path) -> None:
    values = np.ones((40, 64), np.float32)
    write(tmp_path / "a", Variable("e", ("row", "dim"), values))
    values[:] = np.nan
    folder = write(tmp_path / "a", Variable("e", ("row", "dim"), values))
    np.testing.assert_array_equal(read(folder)["e"], values)


def test_zarr_when_the_group_is_not_closed_then_no_reader_takes_it_for_whole(tmp_path: Path) -> None:
    names: list[str] = []
    group = ZarrGroup(lambda name, _data: names.append(name))
    group.write(Variable("x", ("n",), np.zeros(3)))
    assert names == ["x/c/0", "x/zarr.json"]
    group.close({})
    assert names[-1] == "zarr.json"


def test_zarr_when_a_dimension_has_two_lengths_then_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="dimension n is 2 long, and 3 in b"):
        write(tmp_path, Variable("a", ("n",), np.zeros(2)), Variable("b", ("n",), np.zeros(3)))
