"""A run of maps on the fleet."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.fleet_parts import Job, Trial, write_places
from tests.builders import files


def test_run_when_maps_are_asked_for_then_its_bytes_are_those_of_a_local_export(trial: Trial, tmp_path: Path) -> None:
    table = write_places(tmp_path / "places.parquet", 40, lon=7.0)
    job = Job(table, ("null-map", "null-map@again"), shard_size=8, options=("--output", "grid", "--buffer", "110"))
    trial.wait(trial.start(job, tmp_path / "out"))
    local = trial.local(job, tmp_path / "local")
    assert {name: data for name, data in files(tmp_path / "out").items() if name in local} == local
    assert any(name.startswith("again/part-") for name in local)
    assert "again.zarr/zarr.json" in local


def test_run_when_stored_as_int8_then_its_steps_come_from_a_local_export_and_its_bytes_are_those_of_one(
    trial: Trial, tmp_path: Path
) -> None:
    table = write_places(tmp_path / "places.parquet", 40, lon=7.5)
    sample = Job(table, options=("--dtype", "int8"))
    trial.local(sample, tmp_path / "sample")
    refused = trial.tell("submit", *sample.words(), "--out", str(tmp_path / "out"), codes=(2,))
    assert "--steps" in refused
    job = Job(table, options=("--dtype", "int8", "--steps", str(tmp_path / "sample" / "quantization.json")))
    trial.wait(trial.start(job, tmp_path / "out"))
    local = trial.local(job, tmp_path / "local")
    assert {name: data for name, data in files(tmp_path / "out").items() if name in local} == local
