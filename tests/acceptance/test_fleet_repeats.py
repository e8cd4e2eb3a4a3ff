"""The same run again: submitted twice, retried, its inputs shared or lost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rsembed.testing.fleet import fate
from rsembed.testing.null import NullProvider
from tests.acceptance.fleet_parts import Job, Trial, eventually, requests_of, rows_of, write_places
from tests.builders import files
from workers.ledger.records import RunState

N_ROWS = 300


def identity(trial: Trial, run: int) -> list[tuple[Any, ...]]:
    """Every version of the run's records: any write to one of them shows."""
    found: list[tuple[Any, ...]] = []
    for table, key in (("runs", "id"), ("rows", "run_id"), ("fetch_units", "run_id"), ("infer_jobs", "run_id")):
        found += trial.query(f"SELECT '{table}', ctid::text, xmin::text FROM {table} WHERE {key} = %s ORDER BY 2", run)
    return found


def fetched(trial: Trial, run: int) -> dict[int, tuple[str, str]]:
    """Row -> state and version of its fetch."""
    found = trial.query("SELECT seq, state, xmin::text FROM fetch_jobs WHERE run_id = %s", run)
    return {seq: (state, version) for seq, state, version in found}


def segments(trial: Trial, since: float) -> list[Path]:
    """Files of inputs that were written after the time ``since``."""
    found = Path(trial.environ["RSEMBED_INPUTS"]).rglob("*.pack")
    return sorted(path for path in found if path.stat().st_mtime > since)


def test_submit_when_repeated_then_it_is_the_same_run_and_nothing_changes(trial: Trial, tmp_path: Path) -> None:
    job, out = Job(write_places(tmp_path / "places.parquet", N_ROWS, lon=6.0)), tmp_path / "out"
    first = trial.submit(job, out)
    trial.wait(first["run"])
    before, written = identity(trial, first["run"]), files(out)
    again = trial.submit(job, out)
    assert (again["run"], again["created"]) == (first["run"], False)
    assert identity(trial, first["run"]) == before
    assert files(out) == written


def test_submit_when_new_is_asked_for_then_the_run_is_done_again(trial: Trial, tmp_path: Path) -> None:
    job, out = Job(write_places(tmp_path / "places.parquet", 40, lon=6.5)), tmp_path / "out"
    first = trial.start(job, out)
    trial.wait(first)
    written = files(out)
    anew = trial.submit(job, out, "--new")
    assert anew["created"]
    assert anew["run"] != first
    trial.wait(anew["run"])
    assert files(out) == written


def test_retry_when_one_class_is_asked_for_then_only_its_rows_are_touched(trial: Trial, tmp_path: Path) -> None:
    heal = tmp_path / "heal"
    backend = {"permanent_share": 0.05, "heal_file": str(heal)}
    table = write_places(tmp_path / "places.parquet", N_ROWS, lon=7.0)
    healthy = next(each for each in requests_of(table, tmp_path).values() if fate(each) < 0.9)
    poison = round(float(NullProvider().fetch(healthy).values_tchw[0, 0, 0, 0]))
    job, out = Job(table, (f"null:poison={poison}@picky",), backend), tmp_path / "out"
    run = trial.start(job, out)
    trial.wait(run, RunState.DONE_WITH_FAILURES)
    failed = dict(trial.status(run).failures)
    assert failed["provider"] > 0
    assert failed["internal"] > 0
    before, rows = fetched(trial, run), rows_of(out, "picky")
    heal.touch()
    told = json.loads(trial.tell("retry", str(run), "--error-class", "provider", "--json"))
    assert told["rows"] == failed["provider"]
    eventually(lambda: trial.state(run) is RunState.DONE_WITH_FAILURES, "the end of the retry")
    after = fetched(trial, run)
    touched = {seq for seq in after if after[seq] != before[seq]}
    assert touched == {seq for seq, (state, _) in before.items() if state == "failed"}
    assert dict(trial.status(run).failures) == {"internal": failed["internal"]}
    again = rows_of(out, "picky")
    changed = {name for name in again if again[name] != rows[name]}
    assert changed == {name for name, row in rows.items() if row["seq"] in touched}
    assert trial.ledger.run(run).generation == 1
    trial.check(run)
    assert files(out) == trial.local(job, tmp_path / "calm", code=3)


def test_inputs_when_lost_or_damaged_before_inference_then_their_rows_are_fetched_again(
    trial: Trial, tmp_path: Path
) -> None:
    job, out = Job(write_places(tmp_path / "places.parquet", N_ROWS, lon=7.5)), tmp_path / "out"
    trial.tell("drain", "gpu.null")
    try:
        began = time.time()
        run = trial.start(job, out)
        eventually(lambda: trial.status(run).stages[0].open == 0, "all inputs")
        trial.tell("pause", str(run))
        found = segments(trial, began)
        assert len(found) >= 10
        found[0].unlink()
        found[1].write_bytes(b"\0" * found[1].stat().st_size)
    finally:
        trial.tell("drain", "gpu.null", "--off")
    trial.tell("resume", str(run))
    trial.wait(run)
    assert trial.query("SELECT count(*) FROM events WHERE run_id = %s AND kind = 'inputs_lost'", run)[0][0] >= 2
    assert dict(trial.status(run).failures) == {}
    trial.check(run)
    assert files(out) == trial.local(job, tmp_path / "calm")


def test_inputs_when_another_run_has_fetched_more_bands_of_them_then_nothing_is_fetched(
    trial: Trial, tmp_path: Path
) -> None:
    table = write_places(tmp_path / "places.parquet", N_ROWS, lon=8.0)
    both = Job(table, ("null-pair@pair",))
    one = Job(table, ("null@null",))
    first = trial.start(both, tmp_path / "first")
    trial.wait(first)
    assert trial.status(first).requests == N_ROWS
    second = trial.start(one, tmp_path / "second")
    trial.wait(second)
    assert trial.status(second).requests == 0
    assert files(tmp_path / "second") == trial.local(one, tmp_path / "calm")
