"""The command as users run it: a process of its own on a synthetic catalogue."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import geopandas as gpd
import geoparquet_validator
import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import xarray as xr

from rsembed import load_export
from rsembed.testing.scene import write_synthetic_catalog

ROOT = Path(__file__).resolve().parents[2]
CHEAP = ("--year", "2022", "--buffer", "80", "--context", "none", "--shard-size", "8")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_catalog(tmp_path_factory.mktemp("scene"), size_px=256, dates=("2022-06-13", "2022-07-08"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty places on the scene and one off it."""
    path = tmp_path_factory.mktemp("table") / "places.csv"
    lines = [f"p{i:02d},{2.7600 + 0.0009 * i:.4f},{42.4330 + 0.0005 * (i * 7 % 20):.4f},{i % 3}" for i in range(20)]
    path.write_text("\n".join(["name,lon,lat,crop", *lines, "off,10.0,50.0,9"]) + "\n")
    return path


def command(table: Path, catalog: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "rsembed", "export", str(table), "--model", "mosaiks", "--catalog", str(catalog), "--out",
        str(out), "--id-column", "name", *CHEAP, *more,
    ]  # fmt: skip


def run(table: Path, catalog: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(table, catalog, out, *more), cwd=ROOT, capture_output=True, text=True, check=False)


def digests(out: Path) -> dict[str, str]:
    """File -> sha256 of everything that has to be byte-stable."""
    files = [*out.glob("*/part-*.parquet"), *(out / f"{n}" for n in ("manifest.json", "parts.parquet"))]
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def done(table: Path, catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("done") / "out"
    result = run(table, catalog, out, "--npz", "--zarr")
    assert result.returncode == 0, result.stderr
    assert "20 ok" in result.stdout
    assert "1 no_data" in result.stdout
    assert "embed: 21/21 rows (100%)" in result.stderr
    return out


def test_dataset_when_read_by_four_readers_then_each_sees_every_row(done: Path, table: Path) -> None:
    folder = done / "mosaiks"
    names = set(pd.read_csv(table)["name"])
    by_duckdb = duckdb.sql(f"select id, status from '{folder}/*.parquet'").fetchall()
    assert {row[0] for row in by_duckdb} == names
    assert set(pd.read_parquet(folder)["id"]) == names
    assert set(ds.dataset(folder).to_table(columns=["id"]).column("id").to_pylist()) == names
    frame = gpd.read_parquet(next(folder.glob("part-*.parquet")))
    assert set(frame["id"]) == names
    assert frame.crs == "OGC:CRS84"
    assert len(by_duckdb) == 21


def test_dataset_when_read_then_rows_carry_their_columns_and_vectors(done: Path, table: Path) -> None:
    given = pd.read_csv(table)
    found = load_export(done).table("mosaiks").to_pandas()
    assert list(found["id"]) == list(given["name"])
    assert list(found["crop"]) == list(given["crop"])
    np.testing.assert_allclose(found["lon"], given["lon"])
    assert list(found["status"]) == ["ok"] * 20 + ["no_data"]
    assert found["embedding"].notna().sum() == 20


def test_npz_when_asked_for_then_rows_are_in_input_order(done: Path, table: Path) -> None:
    with np.load(done / "mosaiks.npz") as arrays:
        assert list(arrays["id"]) == list(pd.read_csv(table)["name"])
        np.testing.assert_array_equal(arrays["embedding"], load_export(done).embedding("mosaiks"))


def test_zarr_when_asked_for_then_xarray_sees_rows_dates_and_the_users_columns(done: Path, table: Path) -> None:
    given = pd.read_csv(table)
    with xr.open_zarr(done / "mosaiks.zarr", chunks=None) as opened:
        found = opened.sortby(["row", "seq"]).load()
    assert found["id"].values.tolist() == list(given["name"])
    assert found["crop"].values.tolist() == list(given["crop"])
    assert found["first_date"].dtype.kind == "M"
    assert "Copernicus" in json.loads((done / "manifest.json").read_text())["attribution"][0]
    np.testing.assert_array_equal(found["embedding"], load_export(done).embedding("mosaiks"))


def test_parts_when_the_validator_sees_them_then_they_conform(done: Path) -> None:
    for part in (done / "mosaiks").glob("part-*.parquet"):
        report = geoparquet_validator.check(str(part))
        assert [each for each in report["outcomes"] if each["status"] == "fail"] == []


def test_export_when_run_again_then_nothing_is_done_twice(done: Path, table: Path, catalog: Path) -> None:
    before = digests(done)
    result = run(table, catalog, done, "--npz", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["resumed_rows"] == 21
    assert digests(done) == before


def test_export_when_the_request_changed_then_refused_naming_the_difference(
    done: Path, table: Path, catalog: Path
) -> None:
    result = run(table, catalog, done, "--buffer", "160")
    assert result.returncode == 2
    assert "buffer_m: 80 -> 160" in result.stderr
    assert result.stderr.startswith("error: ")


def test_export_when_rows_are_bad_then_refused_and_with_skip_listed(tmp_path: Path, catalog: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("name,lon,lat\na,2.765,42.435\nb,abc,42.435\na,2.765,42.435\nd,2.766,95\n")
    refused = run(bad, catalog, tmp_path / "out")
    assert refused.returncode == 2
    for row in ("row 1", "row 3"):
        assert row in refused.stderr
    assert "--skip-bad-rows" in refused.stderr
    assert not (tmp_path / "out").exists()
    skipped = run(bad, catalog, tmp_path / "out", "--skip-bad-rows")
    assert skipped.returncode == 0, skipped.stderr
    assert set(pq.read_table(tmp_path / "out" / "skipped.parquet").column("row").to_pylist()) == {1, 2, 3}


def test_export_when_the_catalogue_lacks_a_band_then_refused_before_any_work(
    table: Path, catalog: Path, tmp_path: Path
) -> None:
    result = run(table, catalog, tmp_path / "out", "--collection", "COPERNICUS/S2_SR_HARMONIZED", "--bands", "B1,B3,B2")
    assert result.returncode == 2
    assert "B1" in result.stderr


def test_export_when_files_are_unreadable_then_exit_code_3_and_a_second_run_mends_it(
    table: Path, tmp_path: Path
) -> None:
    catalog = write_synthetic_catalog(tmp_path / "scene", size_px=256, dates=("2022-06-13",))
    band = next(catalog.parent.rglob("B04.tif"))
    whole = band.read_bytes()
    # The header stays readable, pixels in the middle do not.
    band.write_bytes(whole[:6000] + bytes(len(whole) - 6000))
    broken = run(table, catalog, tmp_path / "out")
    assert broken.returncode == 3, broken.stdout + broken.stderr
    assert "failures.parquet" in broken.stdout
    failures = pq.read_table(tmp_path / "out" / "failures.parquet")
    assert failures.num_rows > 0
    band.write_bytes(whole)
    mended = run(table, catalog, tmp_path / "out")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert pq.read_table(tmp_path / "out" / "failures.parquet").num_rows == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_export_when_stopped_then_resumed_then_the_bytes_are_those_of_one_run(
    number: signal.Signals, tmp_path: Path, catalog: Path
) -> None:
    places = tmp_path / "many.csv"
    rows = [f"p{i:03d},{2.7600 + 0.00015 * i:.5f},{42.4330 + 0.0005 * (i * 7 % 20):.4f}" for i in range(120)]
    places.write_text("\n".join(["name,lon,lat", *rows]) + "\n")
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert run(places, catalog, whole).returncode == 0
    process = subprocess.Popen(
        command(places, catalog, parted), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A test run in the background of a shell would hand down an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no threads yet
    )  # fmt: skip
    journal = parted / "_state" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if journal.exists() and journal.stat().st_size:
            break
        time.sleep(0.005)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "stopped; run the same command again to go on" in stderr
    assert "Traceback" not in stderr
    assert not (parted / "manifest.json").exists()
    resumed = run(places, catalog, parted)
    assert resumed.returncode == 0, resumed.stderr
    assert "stayed as they were" in resumed.stdout
    assert digests(parted) == digests(whole)
