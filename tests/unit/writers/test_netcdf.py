"""NetCDF files, read back by xarray."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from rsembed.core.errors import ExportError
from rsembed.writers.netcdf import HDF5_LOCK, Slices, Variable, write_netcdf


def write(path: Path, *variables: Variable, **attributes: object) -> Path:
    write_netcdf(path, variables, attributes=attributes)  # type: ignore[arg-type] # JSON
    return path


def read(path: Path) -> xr.Dataset:
    with xr.open_dataset(path, engine="h5netcdf") as opened:
        return opened.load()


def test_netcdf_when_values_of_every_kind_are_written_then_xarray_reads_them(tmp_path: Path) -> None:
    days = np.array(["2020-02-29", "NaT", "1969-12-31"], "M8[D]")
    seconds = np.array(["2020-02-29T12:00:01", "NaT", "1969-12-31T00:00:00"], "M8[s]")
    found = read(
        write(
            tmp_path / "a.nc",
            Variable("id", ("row",), np.array(["a", "ü", ""])),
            Variable("start", ("row",), days),
            Variable("at", ("row",), seconds),
            Variable("ok", ("row",), np.array([True, False, True])),
            Variable("n", ("row",), np.array([1, -2, 3], np.int32)),
            Variable("half", ("row",), np.array([0.1, np.nan, -7], np.float16)),
            Variable("one", (), np.array(5.5)),
        )
    )
    assert found["id"].values.tolist() == ["a", "ü", ""]
    np.testing.assert_array_equal(found["start"].values.astype("M8[D]"), days)
    np.testing.assert_array_equal(found["at"].values.astype("M8[s]"), seconds)
    assert found["ok"].dtype == bool
    assert found["ok"].values.tolist() == [True, False, True]
    assert (found["n"].dtype, found["n"].values.tolist()) == (np.int32, [1, -2, 3])
    assert found["half"].dtype == np.float32
    np.testing.assert_array_equal(found["half"], np.array([0.1, np.nan, -7], np.float16).astype(np.float32))
    assert found["one"].item() == 5.5


def test_netcdf_when_attributes_are_json_then_text_numbers_and_lists_stay_and_the_rest_is_text(tmp_path: Path) -> None:
    variable = Variable("x", ("n",), np.zeros(2), {"units": "m", "list": ["a", "b"], "numbers": [1, 2.5], "none": None})
    found = read(write(tmp_path / "a.nc", variable, title="t", flag=True, deep={"a": [1]}, empty=[]))
    assert found.attrs == {"title": "t", "flag": "true", "deep": '{"a": [1]}', "empty": "[]"}
    assert found["x"].attrs.keys() == {"units", "list", "numbers"}
    assert found["x"].attrs["list"] == ["a", "b"]
    assert found["x"].attrs["numbers"].tolist() == [1, 2.5]


def test_netcdf_when_slices_are_of_other_lengths_then_the_same_bytes(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(700, 768)).astype(np.float32)

    def sliced(step: int) -> Variable:
        pieces = (values[i : i + step] for i in range(0, 700, step))
        return Variable("e", ("row", "dim"), Slices(values.shape, "f4", pieces))

    files = [write(tmp_path / f"{step}.nc", sliced(step)) for step in (1, 256, 700)]
    files.append(write(tmp_path / "whole.nc", Variable("e", ("row", "dim"), values)))
    assert len({file.read_bytes() for file in files}) == 1
    np.testing.assert_array_equal(read(files[0])["e"], values)


def test_netcdf_when_rows_are_larger_than_a_chunk_then_they_are_cut(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(2, 40, 128, 128)).astype(np.float32)
    write_netcdf(tmp_path / "a.nc", [Variable("e", ("row", "dim", "y", "x"), values)], attributes={}, compress=False)
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as opened:
        assert opened["e"].encoding["chunksizes"] == (1, 16, 128, 128)
        np.testing.assert_array_equal(opened["e"], values)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ([Variable("a", ("n",), np.zeros(2)), Variable("b", ("n",), np.zeros(3))], "dimension n is 2 long, and 3 in b"),
        ([Variable("a", ("n",), np.zeros((2, 2)))], "values of shape"),
        ([Variable("a", ("n",), Slices((3,), "f4", [np.zeros(2)]))], "3 rows were to come, got 2"),
        ([Variable("a", ("n",), np.zeros(2, complex))], "complex128"),
    ],
)
def test_netcdf_when_it_cannot_be_written_then_said_and_nothing_is_left(
    tmp_path: Path, variables: list[Variable], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        write(tmp_path / "a.nc", *variables)
    assert list(tmp_path.iterdir()) == []


def test_netcdf_when_there_are_no_rows_then_an_empty_axis(tmp_path: Path) -> None:
    found = read(write(tmp_path / "a.nc", Variable("e", ("row", "dim"), np.zeros((0, 4), np.float32))))
    assert found["e"].shape == (0, 4)


def test_netcdf_when_another_thread_is_inside_hdf5_then_it_waits(tmp_path: Path) -> None:
    thread = threading.Thread(target=write, args=(tmp_path / "a.nc", Variable("x", ("n",), np.zeros(2))))
    with HDF5_LOCK:
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(30)
    assert read(tmp_path / "a.nc")["x"].shape == (2,)
