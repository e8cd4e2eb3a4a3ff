from __future__ import annotations

import pytest

from workers.report import WorkFailedError, WorkReport
from workers.ticket import Ticket


def report(*, done: int = 0, failed: int = 0, released: int = 0) -> WorkReport:
    return WorkReport(3, "embed", 17, "alpha", done, failed, released)


def test_report_when_shown_then_it_names_run_stage_shard_and_model() -> None:
    assert report(done=250, failed=6).to_json() == {
        "done": 250, "failed": 6, "released": 0, "run": 3, "stage": "embed", "shard": 17, "model": "alpha",
    }  # fmt: skip


def test_report_when_there_was_nothing_to_do_then_only_its_stage_is_shown() -> None:
    idle = WorkReport.nothing("fetch")
    assert idle.is_idle
    assert idle.to_json() == {"done": 0, "failed": 0, "released": 0, "stage": "fetch"}


def test_report_when_nothing_succeeded_then_checking_it_raises() -> None:
    with pytest.raises(WorkFailedError, match="'failed': 2"):
        report(failed=2).checked()


@pytest.mark.parametrize("kept", [report(done=1, failed=9), report(released=5), WorkReport.nothing("fetch")])
def test_report_when_something_succeeded_or_was_given_back_then_checking_it_passes(kept: WorkReport) -> None:
    assert kept.checked() is kept


def test_ticket_when_shown_then_it_reads_as_a_line_and_travels_as_json() -> None:
    ticket = Ticket("embed", run=3, model="alpha")
    assert str(ticket) == "run=3 stage=embed model=alpha"
    assert ticket.to_json() == {"run": 3, "stage": "embed", "model": "alpha"}
