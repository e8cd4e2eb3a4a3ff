"""Zarr stores (and, of maps, npz) beside a run's datasets, with a provider and a model that cost nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from rsembed.core.errors import ProviderError
from rsembed.core.specs import BBox, OutputSpec
from rsembed.pipelines.targets import DatasetTarget, ExportTarget
from rsembed.testing.null import NullProvider
from tests.builders import CountingProvider, Flaky, at_lon, dataset, files, places, run_export


def opened(store: Path) -> xr.Dataset:
    with xr.open_zarr(store, chunks=None) as found:
        return found.load()


def test_export_when_zarr_is_asked_for_then_it_holds_what_the_dataset_holds(tmp_path: Path) -> None:
    table = places(12, extra={"name": [f"n{i}" for i in range(12)]})
    fault = Flaky(lambda: ProviderError("no such tile"), hits=at_lon(2.03), times=10**9)
    run_export(tmp_path / "out", table, zarr=True, provider=NullProvider(fault=fault))
    found = opened(tmp_path / "out/null.zarr")
    expected = dataset(tmp_path / "out").sort_by("seq")
    for name in ("id", "row", "seq", "status", "name", "n_images", "epsg"):
        assert found[name].values.tolist() == expected[name].to_pylist(), name
    for vector, row in zip(found["embedding"].values, expected["embedding"].to_pylist(), strict=True):
        np.testing.assert_array_equal(vector, np.full(16, np.nan) if row is None else row)
    assert np.isnan(found["embedding"].sel(row=3)).all()
    assert found.attrs["title"]


def test_export_when_zarr_is_asked_later_then_only_that_is_made(tmp_path: Path) -> None:
    provider = CountingProvider()
    run_export(tmp_path / "out")
    assert not (tmp_path / "out/null.zarr").exists()
    run_export(tmp_path / "out", zarr=True, provider=provider)
    run_export(tmp_path / "whole", zarr=True)
    assert provider.asked == []
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_export_when_rows_succeed_later_without_asking_for_zarr_then_it_follows_all_the_same(tmp_path: Path) -> None:
    fault = Flaky(lambda: ProviderError("no such tile"), hits=at_lon(2.03), times=10**9)
    run_export(tmp_path / "out", zarr=True, npz=True, provider=NullProvider(fault=fault))
    run_export(tmp_path / "out")
    run_export(tmp_path / "calm", zarr=True, npz=True)
    assert files(tmp_path / "out") == files(tmp_path / "calm")


def test_export_when_the_dataset_is_in_int8_then_the_store_has_real_numbers_and_says_so(tmp_path: Path) -> None:
    run_export(tmp_path / "exact", zarr=True)
    run_export(tmp_path / "small", zarr=True, dtype="int8")
    exact, small = (opened(tmp_path / name / "null.zarr") for name in ("exact", "small"))
    assert small["embedding"].dtype == np.float32
    assert "int8" in small.attrs["stored_as"]
    assert "quantization" not in small.attrs
    assert float(abs(small["embedding"] - exact["embedding"]).max() / abs(exact["embedding"]).max()) < 0.01


BOXES = [BBox(2.0, 42.0, 2.002, 42.001), BBox(2.05, 42.0, 2.051, 42.003), BBox(2.1, 42.0, 2.101, 42.001)]


def export_maps(out: Path, source: object, **changes: Any) -> None:
    run_export(out, source, "null-map", **({"output": OutputSpec.grid(), "buffer_m": None} | changes))


@pytest.mark.parametrize("npz", [False, True])
def test_export_when_rows_are_maps_then_a_zarr_store_comes_by_itself(tmp_path: Path, npz: bool) -> None:
    export_maps(tmp_path / "out", BOXES, npz=npz)
    found = opened(tmp_path / "out/null-map.zarr")
    assert found["embedding"].dims == ("row", "dim", "y", "x")
    rows = dataset(tmp_path / "out", "null-map").sort_by("seq").to_pylist()
    for i, row in enumerate(rows):
        expected = np.reshape(row["embedding"], row["grid_shape"])
        height, width = expected.shape[1:]
        assert (found["grid_height"][i], found["grid_width"][i]) == (height, width)
        assert found["grid_transform"][i].values.tolist() == row["grid_transform"]
        np.testing.assert_array_equal(found["embedding"].values[i, :, :height, :width], expected)
        assert np.isnan(found["embedding"].values[i, :, height:]).all()
        assert np.isnan(found["embedding"].values[i, :, :, width:]).all()
    assert (tmp_path / "out/null-map.npz").exists() == npz
    if npz:
        with np.load(tmp_path / "out/null-map.npz") as stored:
            in_order = found.sortby("row")
            np.testing.assert_array_equal(stored["embedding"], in_order["embedding"])
            np.testing.assert_array_equal(stored["grid_transform"], in_order["grid_transform"])
            np.testing.assert_array_equal(stored["grid_shape"][:, 1], in_order["grid_height"])
            assert stored["epsg"].tolist() == in_order["epsg"].values.tolist()


def test_export_when_rows_are_maps_and_zarr_is_not_wanted_then_there_is_none(tmp_path: Path) -> None:
    export_maps(tmp_path / "out", BOXES[:1], zarr=False)
    assert not (tmp_path / "out/null-map.zarr").exists()


def test_export_when_the_largest_map_comes_with_a_retry_then_the_store_is_that_of_a_calm_run(tmp_path: Path) -> None:
    fault = Flaky(lambda: ProviderError("no such tile"), hits=lambda request: request.grid.height > 20, times=10**9)
    export_maps(tmp_path / "out", BOXES, npz=True, provider=NullProvider(fault=fault))
    before = opened(tmp_path / "out/null-map.zarr")["embedding"].shape
    export_maps(tmp_path / "out", BOXES, npz=True)
    export_maps(tmp_path / "calm", BOXES, npz=True)
    assert opened(tmp_path / "out/null-map.zarr")["embedding"].shape[2] > before[2]
    assert files(tmp_path / "out") == files(tmp_path / "calm")


def test_export_when_no_row_has_a_map_then_empty_arrays(tmp_path: Path) -> None:
    fault = Flaky(lambda: ProviderError("no such tile"), hits=lambda request: True, times=10**9)
    export_maps(tmp_path / "out", BOXES, npz=True, provider=NullProvider(fault=fault))
    assert opened(tmp_path / "out/null-map.zarr")["embedding"].shape == (3, 0, 0, 0)
    with np.load(tmp_path / "out/null-map.npz") as stored:
        assert stored["embedding"].shape == (3, 0, 0, 0)


@pytest.mark.parametrize("zarr", [None, True, False])
def test_dataset_target_when_made_by_either_name_then_the_same(zarr: bool | None) -> None:
    assert ExportTarget.dataset("x", zarr=zarr) == DatasetTarget("x", False, zarr)
