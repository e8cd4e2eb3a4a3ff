"""Zarr stores beside a run's datasets, with a provider and a model that cost nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from rsembed.core.errors import ProviderError
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


@pytest.mark.parametrize("zarr", [None, True, False])
def test_dataset_target_when_made_by_either_name_then_the_same(zarr: bool | None) -> None:
    assert ExportTarget.dataset("x", zarr=zarr) == DatasetTarget("x", False, zarr)
