"""A fleet whose stores are buckets: the bytes of a folder, and what happens while a bucket is out of reach."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsembed.pipelines.run_output import RunOutput
from rsembed.writers.store import open_store
from tests.acceptance.fleet_parts import Job, Trial, eventually, surroundings, write_places
from tests.acceptance.gate import Gate
from tests.builders import files
from tests.integration.bucket_run import contents
from tests.s3_server import CREDENTIALS, make_bucket
from workers.ledger.records import RunState
from workers.testing import FleetUnderTest

N_ROWS = 300
MODELS = ("null@plain", "null-pair@pair")
LOCAL_ONLY = ("report.json",)


@pytest.fixture
def outside(s3_endpoint: str, bucket: str) -> str:
    """URL of an output in a new bucket, which this process reaches whether the gate is open or not."""
    return f"{bucket}/some/out"


@pytest.fixture(scope="module")
def bucket_trial(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str, gate: Gate) -> Iterator[Trial]:
    """A fleet whose inputs go through a bucket behind the gate."""
    home = tmp_path_factory.mktemp("bucket-fleet")
    name = f"inputs-{uuid.uuid4().hex}"
    make_bucket(s3_endpoint, name)
    environ = surroundings(home, RSEMBED_INPUTS=f"s3://{name}/inputs", AWS_ENDPOINT_URL=gate.url, **CREDENTIALS)
    fleet = FleetUnderTest(home, environ)
    try:
        fleet.start()
        yield Trial(fleet)
    finally:
        fleet.stop()


def written(url: str) -> dict[str, bytes]:
    return contents(RunOutput(open_store(url)), without=LOCAL_ONLY)


def test_output_when_its_bucket_is_away_for_a_while_then_the_run_waits_and_its_bytes_are_those_of_a_folder(
    trial: Trial, gate: Gate, outside: str, tmp_path: Path
) -> None:
    job = Job(write_places(tmp_path / "places.parquet", N_ROWS, lon=9.0), MODELS)
    run = trial.start(job, outside, "--paused")
    with gate.shut_for_a_while():
        trial.tell("resume", str(run))
        trial.wait(run, RunState.BLOCKED)
        assert outside in (trial.ledger.run(run).reason or "")
        assert not trial.status(run).failures
    trial.wait(run)
    assert written(outside) == trial.local(job, tmp_path / "calm")
    assert not trial.status(run).failures
    trial.check(run)


def test_inputs_when_their_bucket_is_away_for_a_while_then_the_run_waits_and_goes_on(
    bucket_trial: Trial, gate: Gate, tmp_path: Path
) -> None:
    trial = bucket_trial
    backend = {"latency_s": 0.1}
    job = Job(write_places(tmp_path / "places.parquet", N_ROWS, lon=9.5), MODELS, backend)
    run = trial.start(job, tmp_path / "out")
    eventually(lambda: trial.status(run).stages[0].done, "first inputs")
    with gate.shut_for_a_while():
        trial.wait(run, RunState.BLOCKED)
        assert "inputs" in (trial.ledger.run(run).reason or "")
        assert not trial.status(run).failures
    trial.wait(run)
    assert files(tmp_path / "out") == trial.local(job, tmp_path / "calm")
    trial.check(run)


def test_run_when_inputs_and_output_are_in_buckets_then_nothing_is_left_on_this_machine(
    bucket_trial: Trial, outside: str, tmp_path: Path
) -> None:
    trial = bucket_trial
    job = Job(write_places(tmp_path / "places.parquet", N_ROWS, lon=10.0), MODELS)
    run = trial.start(job, outside)
    trial.wait(run)
    assert written(outside) == trial.local(job, tmp_path / "calm")
    assert [path for path in (trial.fleet.home / "scratch").rglob("*") if path.is_file()] == []
