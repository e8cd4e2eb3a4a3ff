"""What a run needs is away: the run is blocked with the reason, nothing fails, and it goes on by itself."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.fleet_parts import Job, Trial, eventually, write_places
from tests.builders import files
from workers.ledger.records import RunState

N_ROWS = 300


def check_blocked(trial: Trial, run: int, reason: str) -> None:
    """Blocked for ``reason``, and nothing has failed."""
    trial.wait(run, RunState.BLOCKED)
    assert reason in (trial.ledger.run(run).reason or "")
    assert not trial.status(run).failures


def test_run_when_its_weights_are_gone_then_it_is_blocked_until_they_are_back(trial: Trial, tmp_path: Path) -> None:
    weights = Path(trial.environ["RSEMBED_WEIGHTS_DIR"]) / "test" / "null" / "null.bin"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    job = Job(write_places(tmp_path / "places.parquet", N_ROWS, lon=3.0), ("null-weights@weighed", "null@plain"))
    expected = trial.local(job, tmp_path / "calm")
    run = trial.start(job, tmp_path / "out", "--paused")
    weights.rename(tmp_path / "elsewhere")
    trial.tell("resume", str(run))
    check_blocked(trial, run, "null.bin")
    (tmp_path / "elsewhere").rename(weights)
    trial.wait(run)
    assert files(tmp_path / "out") == expected
    eventually(lambda: not any(worker.degraded for worker in trial.ledger.workers()), "workers that serve all again")


def test_run_when_the_provider_refuses_the_credentials_then_it_is_blocked_until_they_are_taken(
    trial: Trial, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    job = Job(write_places(tmp_path / "places.parquet", N_ROWS, lon=3.5), backend={"locked_file": str(locked)})
    expected = trial.local(job, tmp_path / "calm")
    locked.touch()
    run = trial.start(job, tmp_path / "out")
    check_blocked(trial, run, "credentials have expired")
    locked.unlink()
    trial.wait(run)
    assert files(tmp_path / "out") == expected
