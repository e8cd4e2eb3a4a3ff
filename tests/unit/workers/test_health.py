"""What the doctor finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rsembed.core.settings import Settings
from tests.unit.workers.run_parts import run_record, run_status, worker_record
from workers.health import Examination, Finding
from workers.ledger.errors import LedgerUnavailableError
from workers.ledger.records import ModelEntry, RunRecord, RunState, RunStatus, WorkerRecord
from workers.settings import FleetSettings


class Ward:
    """A ledger with these runs, workers and ages of ready work; ``idle``: who the ledger itself calls idle."""

    def __init__(
        self,
        *,
        runs: Sequence[RunRecord] = (),
        workers: Sequence[WorkerRecord] = (),
        ages: Mapping[str, float] | None = None,
        unserved: tuple[str, ...] = (),
        drained: Sequence[str] = (),
        away: bool = False,
    ) -> None:
        self._runs, self._workers, self._ages = list(runs), list(workers), dict(ages or {})
        self._unserved, self._drained, self._away = unserved, list(drained), away

    def ping(self) -> None:
        if self._away:
            raise LedgerUnavailableError("nobody answers")

    def runs(self, active: bool = False, limit: int = 100) -> list[RunRecord]:
        self.ping()
        return self._runs

    def workers(self, live_only: bool = True) -> list[WorkerRecord]:
        self.ping()
        return self._workers

    def status(self, run_id: int) -> RunStatus:
        return replace(run_status(), unserved=self._unserved)

    def drained(self) -> list[str]:
        return self._drained

    def queue_ages(self) -> Mapping[str, float]:
        self.ping()
        return self._ages

    def idle_workers(self, after_s: float, ages: Mapping[str, float] | None = None) -> list[WorkerRecord]:
        return [worker for worker in self._workers if (worker.claim_age_s or 0.0) > after_s]

    def close(self) -> None:
        pass


def examine(ledger: Ward, *only: str, here: bool = False, settings: FleetSettings | None = None) -> list[Finding]:
    examination = Examination(settings or FleetSettings(), Settings(), here=here, ledger=ledger)
    return list(examination.findings(only))


def states(findings: list[Finding]) -> list[str]:
    return [finding.state for finding in findings]


def test_progress_when_a_worker_idles_while_its_work_waits_then_it_failed() -> None:
    found = examine(Ward(runs=[run_record()], workers=[worker_record()], ages={"gpu.null": 300.0}), "progress")
    assert states(found) == ["failed"]
    assert "cpu worker 01234567 on far is alive but idle while work of gpu.null is ready" in found[0].detail


def test_progress_when_work_waits_less_than_two_minutes_then_all_is_well() -> None:
    found = examine(Ward(runs=[run_record()], workers=[worker_record()], ages={"gpu.null": 100.0}), "progress")
    assert states(found) == ["ok"]


def test_progress_when_the_worker_claims_then_all_is_well() -> None:
    busy = worker_record(claim_age_s=5.0)
    assert states(examine(Ward(runs=[run_record()], workers=[busy], ages={"gpu.null": 300.0}), "progress")) == ["ok"]


def test_progress_when_the_work_needs_another_device_then_the_worker_is_not_blamed() -> None:
    on_gpu = run_record(models=(ModelEntry(0, "small", "null", 0, "gpu.null", "cuda"),))
    ward = Ward(runs=[on_gpu], workers=[worker_record()], ages={"gpu.null": 300.0})
    assert states(examine(ward, "progress")) == ["ok"]


def test_progress_when_an_io_worker_idles_while_units_wait_then_it_failed() -> None:
    ward = Ward(runs=[run_record()], workers=[worker_record("io")], ages={"io": 300.0})
    assert states(examine(ward, "progress")) == ["failed"]


def test_progress_when_a_run_is_blocked_then_that_is_a_warning_with_the_reason() -> None:
    found = examine(Ward(runs=[run_record(RunState.BLOCKED, reason="no weights")]), "progress")
    assert states(found) == ["warning", "ok"]
    assert "run 7 is blocked and tried again: no weights" in found[0].detail


def test_progress_when_only_this_machine_counts_then_others_are_not_blamed() -> None:
    ward = Ward(runs=[run_record()], workers=[worker_record()], ages={"gpu.null": 300.0})
    assert states(examine(ward, "progress", here=True)) == ["ok"]


def test_workers_when_no_dispatcher_lives_while_runs_wait_then_it_failed() -> None:
    found = examine(Ward(runs=[run_record()], workers=[worker_record("io")]), "workers")
    assert states(found) == ["failed", "ok"]
    assert "no dispatcher" in found[0].detail


def test_workers_when_one_cannot_serve_a_model_then_it_failed_with_the_reason() -> None:
    sick = worker_record(degraded={"null": "weights are gone"})
    found = examine(Ward(workers=[sick, worker_record("dispatcher", id="d")]), "workers")
    assert states(found) == ["failed", "ok"]
    assert "weights are gone" in found[0].detail


def test_workers_when_a_model_has_nobody_then_that_is_a_warning() -> None:
    ward = Ward(runs=[run_record()], workers=[worker_record("dispatcher")], unserved=("small",))
    assert states(examine(ward, "workers")) == ["warning", "ok"]


def test_workers_when_a_queue_is_drained_then_that_is_a_warning() -> None:
    found = examine(Ward(workers=[worker_record("dispatcher")], drained=["io"]), "workers")
    assert states(found) == ["warning", "ok"]
    assert found[0].detail == "io: drained, nobody takes work there"


def test_outputs_when_an_active_run_has_lost_its_folder_then_it_failed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "_run.json").write_text("{}")
    kept, gone = (run_record(output=str(tmp_path / name)) for name in ("there", "gone"))
    assert states(examine(Ward(runs=[kept]), "outputs")) == ["ok"]
    assert states(examine(Ward(runs=[kept, gone]), "outputs")) == ["failed"]


def test_findings_when_the_database_is_away_then_only_what_needs_it_failed(tmp_path: Path) -> None:
    settings = FleetSettings(inputs=str(tmp_path / "inputs"))
    found = examine(Ward(away=True), "database", "inputs", "workers", settings=settings)
    assert [(finding.name, finding.state) for finding in found] == [
        ("database", "failed"),
        ("inputs", "ok"),
        ("workers", "failed"),
    ]


def test_findings_when_one_cause_fails_several_then_it_is_told_once() -> None:
    found = examine(Ward(away=True), "database", "workers", "progress")
    assert [finding.detail for finding in found] == ["nobody answers", "see above", "see above"]


def test_findings_when_nothing_is_set_then_it_is_told_how_to_set_it() -> None:
    found = examine(Ward(), "broker", "inputs")
    assert states(found) == ["failed", "failed"]
    assert "REDIS_URL" in found[0].detail
    assert "RSEMBED_INPUTS" in found[1].detail
