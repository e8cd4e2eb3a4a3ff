"""Rows that end every process that touches them: found, failed as such, and their mates done."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rsembed.testing.null import request_seed
from tests.acceptance.fleet_parts import Job, Trial, requests_of, rows_of, write_places
from workers.ledger.records import RunState

N_ROWS, SHARD = 1000, 128
MOST_DEATHS = 10


def check(trial: Trial, run: int, out: Path, victim: str, error_class: str) -> None:
    """``victim`` alone has failed, as ``error_class``."""
    assert trial.wait(run, RunState.DONE_WITH_FAILURES, RunState.DONE) is RunState.DONE_WITH_FAILURES
    rows = rows_of(out, "null")
    assert len(rows) == N_ROWS
    assert {name for name, row in rows.items() if row["status"] != "ok"} == {victim}
    assert dict(trial.status(run).failures) == {error_class: 1}
    trial.check(run)


@pytest.mark.parametrize(
    ("model", "error_class", "row"), [("null-crash", "crash", 517), ("null-hog", "out_of_memory", 3)]
)
def test_row_when_it_always_ends_the_embedding_process_then_it_alone_fails(
    trial: Trial, tmp_path: Path, model: str, error_class: str, row: int
) -> None:
    table = write_places(tmp_path / "places.parquet", N_ROWS)
    found = pq.read_table(table)
    lon, lat = found["lon"][row].as_py(), found["lat"][row].as_py()
    job = Job(table, (f"{model}:lon={lon!r},lat={lat!r}@null",), shard_size=SHARD)
    before = trial.fleet.starts("cpu")
    run = trial.start(job, tmp_path / "out")
    check(trial, run, tmp_path / "out", found["id"][row].as_py(), error_class)
    assert 2 <= trial.fleet.starts("cpu") - before <= MOST_DEATHS


def test_row_when_it_always_ends_the_fetching_process_then_it_alone_fails(trial: Trial, tmp_path: Path) -> None:
    table = write_places(tmp_path / "places.parquet", N_ROWS, lon=2.5)
    victim = "p00700"
    job = Job(table, backend={"crash_seed": request_seed(requests_of(table, tmp_path)[victim])}, shard_size=SHARD)
    before = trial.fleet.starts("io")
    run = trial.start(job, tmp_path / "out")
    check(trial, run, tmp_path / "out", victim, "crash")
    assert 2 <= trial.fleet.starts("io") - before <= MOST_DEATHS
