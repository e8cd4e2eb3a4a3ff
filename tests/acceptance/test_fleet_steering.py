"""What operators do to runs and workers, while these work."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from tests.acceptance.fleet_parts import Job, Trial, eventually, lines, write_places
from tests.builders import files
from workers.ledger.records import RunState

N_ROWS = 400
QUIET_S = 2.0
"""So long nothing happens where nothing should."""
IN_HAND = 200
"""Most rows that are fetched and not yet settled at any time."""
PAUSE_S = 5.0
"""Within which a pause takes effect (issue 3)."""


def slow_job(folder: Path, lon: float, n_rows: int = N_ROWS) -> tuple[Job, Path, Path]:
    """A request that lasts some ten seconds, and the traces of its provider requests and of its batches."""
    requests, batches = folder / "requests", folder / "batches"
    backend = {"latency_s": 0.1, "trace_file": str(requests)}
    models = (f"null-slow:latency_s=0.2,trace_file={batches}@slow",)
    return Job(write_places(folder / "places.parquet", n_rows, lon=lon), models, backend), requests, batches


def test_run_when_paused_then_it_rests_within_seconds_and_goes_on_when_resumed(trial: Trial, tmp_path: Path) -> None:
    job, requests, batches = slow_job(tmp_path, 4.0)
    run = trial.start(job, tmp_path / "out")
    eventually(lambda: lines(requests) and lines(batches), "requests and batches")
    trial.ledger.pause(run, "the test wants it", "test")
    paused_at = time.time()
    time.sleep(PAUSE_S + QUIET_S)
    assert max(lines(requests) + lines(batches)) < paused_at + PAUSE_S
    assert trial.state(run) is RunState.PAUSED
    assert sum(stage.open for stage in trial.status(run).stages) > 0
    trial.tell("resume", str(run))
    trial.wait(run)
    assert dict(trial.status(run).failures) == {}
    trial.check(run)
    assert files(tmp_path / "out") == trial.local(replace(job, backend=None), tmp_path / "calm")


def test_run_when_cancelled_then_it_ends_and_can_be_taken_up_again(trial: Trial, tmp_path: Path) -> None:
    job, requests, batches = slow_job(tmp_path, 4.5)
    run = trial.start(job, tmp_path / "out")
    eventually(lambda: lines(requests) and lines(batches), "requests and batches")
    trial.ledger.cancel(run, "test")
    trial.wait(run, RunState.CANCELLED)
    begun = len(lines(requests) + lines(batches))
    time.sleep(QUIET_S)
    assert len(lines(requests) + lines(batches)) == begun
    assert not (tmp_path / "out" / "manifest.json").exists()
    trial.tell("resume", str(run))
    trial.wait(run)
    assert files(tmp_path / "out") == trial.local(replace(job, backend=None), tmp_path / "calm")


def test_worker_when_drained_then_it_takes_nothing_until_it_may_again(trial: Trial, tmp_path: Path) -> None:
    job, requests, _ = slow_job(tmp_path, 5.0, 40)
    _, worker = trial.io_worker()
    trial.tell("drain", worker[:8])
    try:
        run = trial.start(job, tmp_path / "out")
        time.sleep(QUIET_S)
        assert not requests.exists()
    finally:
        trial.tell("drain", worker[:8], "--off")
    trial.wait(run)
    assert len(lines(requests)) == 40


def test_worker_when_told_to_end_then_it_gives_its_work_back_uncounted(trial: Trial, tmp_path: Path) -> None:
    job, requests, batches = slow_job(tmp_path, 5.5)
    run = trial.start(job, tmp_path / "out")
    eventually(lambda: lines(requests) and lines(batches), "requests and batches")
    told = [*trial.fleet.pids("io"), *trial.fleet.pids("cpu")]
    ids = [worker.info.id for worker in trial.ledger.workers() if worker.info.pid in told]
    for pid in told:
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: not set(told) & set(trial.fleet.pids()), "the end of the workers", seconds=20)
    for table in ("fetch_units", "infer_jobs"):
        held = f"SELECT shard FROM {table} WHERE run_id = %s AND state = 'leased' AND worker_id::text = ANY(%s)"
        assert trial.query(held, run, ids) == []
    counted = "SELECT kind FROM events WHERE run_id = %s AND kind IN ('unit_lost', 'shard_lost')"
    assert trial.query(counted, run) == []
    trial.wait(run)
    assert dict(trial.status(run).failures) == {}
    # What was settled before stays settled: the rest alone is fetched.
    assert len(lines(requests)) < N_ROWS + IN_HAND
