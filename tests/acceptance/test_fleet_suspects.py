"""Rows that end every process that touches them: found, failed as such, and their mates done."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

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


def test_rows_when_they_always_end_their_process_then_they_alone_fail(trial: Trial, tmp_path: Path) -> None:
    table, others = (write_places(tmp_path / f"{lon}.parquet", N_ROWS, lon=lon) for lon in (2.0, 2.5))
    found = {row["id"]: row for row in pq.read_table(table).to_pylist()}
    crashing, hogging, fetching = "p00517", "p00003", "p00700"

    def victim(model: str, name: str) -> str:
        return f"{model}:lon={found[name]['lon']!r},lat={found[name]['lat']!r}@null"

    backend = {"crash_seed": request_seed(requests_of(others, tmp_path)[fetching])}
    jobs = [
        (fetching, "crash", Job(others, backend=backend, shard_size=SHARD)),
        (crashing, "crash", Job(table, (victim("null-crash", crashing),), shard_size=SHARD)),
        (hogging, "out_of_memory", Job(table, (victim("null-hog", hogging),), shard_size=SHARD)),
    ]
    before = trial.fleet.starts("cpu"), trial.fleet.starts("io")
    runs = [(trial.start(job, tmp_path / name), name, error_class) for name, error_class, job in jobs]
    for run, name, error_class in runs:
        check(trial, run, tmp_path / name, name, error_class)
    assert 2 * 2 <= trial.fleet.starts("cpu") - before[0] <= 2 * MOST_DEATHS
    assert 2 <= trial.fleet.starts("io") - before[1] <= MOST_DEATHS
