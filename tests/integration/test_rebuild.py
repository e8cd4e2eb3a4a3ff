"""A ledger that was lost, refilled from what stands in the output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import rsembed.testing.fleet
from rsembed.cli.main import cli
from rsembed.core.errors import ExportError
from rsembed.core.settings import Settings
from rsembed.pipelines.checkpoint import FileCheckpoint
from rsembed.pipelines.output_folder import OutputFolder
from rsembed.pipelines.request import ExportConfig, ExportModelRequest, RunRequest
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.pipelines.run_output import RunOutput
from rsembed.testing.fleet import null_backend
from rsembed.writers.store import open_store
from tests.builders import YEAR, places, run_export
from workers.ledger.db import upgrade
from workers.ledger.records import RunRecord, RunState
from workers.ledger.repository import Ledger
from workers.rebuild import output_records
from workers.spec import ProviderSpec
from workers.submit import submit

assert rsembed.testing.fleet  # registers its backend

MODELS = ("null@plain", "null:modality=multi@series")
SHARES = {"permanent_share": 0.3}


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    upgrade(database_url)
    opened = Ledger(database_url, direct=True)
    yield opened
    opened.close()


def exported(out: Path) -> None:
    """An output as the fleet writes it: 25 rows in shards of 5, two shards a part, some rows failed."""
    changes: dict[str, Any] = {"batch_size": None, "max_attempts": 1}
    summary = run_export(out, places(25), *MODELS, provider=null_backend(**SHARES), **changes)
    assert summary.n_failed


def submitted(ledger: Ledger, out: Path) -> RunRecord:
    found = submit(
        RunRequest(
            tuple(map(ExportModelRequest.parse, MODELS)),
            config=ExportConfig(shard_size=5, shards_per_part=2),
            device="cpu",
        ),
        places(25),
        windows=WindowPolicy((YEAR,)),
        provider=ProviderSpec("null", declared=SHARES),
        out=str(out),
        ledger=ledger,
        settings=Settings(),
    )
    assert found.created
    return found.run


def records(run: RunRecord) -> list[Any]:
    return list(output_records(RunOutput(open_store(run.output)), run))


def test_records_when_an_output_is_read_then_they_are_those_of_its_own_journal(ledger: Ledger, tmp_path: Path) -> None:
    exported(tmp_path / "out")
    run = submitted(ledger, tmp_path / "out")
    found = records(run)
    journal = FileCheckpoint(OutputFolder(tmp_path / "out").journal)
    written = {(r.kind, r.label, r.index): r for r in journal.records()}
    journal.close()
    assert {(r.kind, r.label, r.index) for r in found} == set(written)
    for record in found:
        theirs = written[record.kind, record.label, record.index]
        assert (record.name, record.first_seq, record.rows) == (theirs.name, theirs.first_seq, theirs.rows)
        assert record.counts == theirs.counts
        assert record.failures == theirs.failures
        if record.kind == "part":
            assert (record.bytes, record.sha256) == (theirs.bytes, theirs.sha256)


def test_rebuild_when_everything_stands_then_only_the_end_is_left_to_do(
    ledger: Ledger, database_url: str, tmp_path: Path
) -> None:
    exported(tmp_path / "out")
    run = submitted(ledger, tmp_path / "out")
    arguments = ["fleet", "db", "rebuild", str(run.id), "--json"]
    result = CliRunner().invoke(cli, arguments, env={"DATABASE_URL": database_url})
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"run": run.id, "shards": 10}
    status = ledger.status(run.id)
    assert {stage.open for stage in status.stages} == {0}
    assert status.failures["provider"] > 0
    assert ledger.check(run.id) == []
    taken = ledger.take_finishing("6a1f4c1e-0000-4000-8000-000000000000", 20.0)
    assert taken is not None
    assert taken[0].id == run.id


def test_rebuild_when_a_part_is_damaged_then_its_shards_are_done_again(ledger: Ledger, tmp_path: Path) -> None:
    exported(tmp_path / "out")
    part = tmp_path / "out" / "plain" / "part-00001.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    run = submitted(ledger, tmp_path / "out")
    assert ledger.rebuild(run.id, records(run)) == 8
    embeds = {stage.label: stage.open for stage in ledger.status(run.id).stages if stage.stage == "embed"}
    assert embeds == {"plain": 10, "series": 0}
    assert ledger.run(run.id).state is RunState.RUNNING


def test_records_when_the_failures_file_is_gone_then_failed_rows_are_still_known(
    ledger: Ledger, tmp_path: Path
) -> None:
    exported(tmp_path / "out")
    (tmp_path / "out" / "failures.parquet").unlink()
    run = submitted(ledger, tmp_path / "out")
    failures = [failure for record in records(run) for failure in record.failures]
    assert {failure.error_class for failure in failures} == {"unknown"}


def test_records_when_the_output_is_another_runs_then_refused(ledger: Ledger, tmp_path: Path) -> None:
    run = submitted(ledger, tmp_path / "out")
    (tmp_path / "out" / "_run.json").write_text('{"fingerprint": "x", "request": {}}')
    with pytest.raises(ExportError, match="another run"):
        records(run)
