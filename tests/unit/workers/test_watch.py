"""A run followed to its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.workers.run_parts import run_record, run_status, stage
from workers.cli.watch import end_lines, pace, watch_run
from workers.ledger.errors import LedgerUnavailableError
from workers.ledger.records import RunState, RunStatus


class Script:
    """A ledger that answers one status after the other; an exception is raised."""

    def __init__(self, *answers: RunStatus | BaseException) -> None:
        self._answers: Iterator[RunStatus | BaseException] = iter(answers)

    def status(self, run_id: int) -> RunStatus:
        answer = next(self._answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Notes:
    """A view that remembers."""

    def __init__(self) -> None:
        self.shown: list[int] = []
        self.notes: list[str] = []
        self.closed = False

    def show(self, status: RunStatus) -> None:
        self.shown.append(status.stages[-1].done)

    def note(self, line: str) -> None:
        self.notes.append(line)

    def close(self) -> None:
        self.closed = True


def follow(*answers: RunStatus | BaseException) -> tuple[int, Notes]:
    view = Notes()
    return watch_run(Script(*answers), 7, view=view, look_every_s=0.0), view


@pytest.mark.parametrize(
    ("state", "code"), [(RunState.DONE, 0), (RunState.DONE_WITH_FAILURES, 3), (RunState.CANCELLED, 130)]
)
def test_watch_when_the_run_ends_then_the_exit_code_is_the_runs(state: RunState, code: int) -> None:
    found, view = follow(run_status(done=1), run_status(done=500), run_status(state, done=1000))
    assert found == code
    assert view.shown == [1, 500, 1000]
    assert view.closed


def test_watch_when_the_ledger_is_away_then_it_waits_and_says_so_once() -> None:
    away = LedgerUnavailableError("restarting")
    found, view = follow(run_status(), away, away, run_status(RunState.DONE))
    assert found == 0
    assert view.notes == ["the ledger is away, waiting for it: restarting"]


def test_watch_when_the_run_is_blocked_then_the_reason_is_told_once() -> None:
    blocked = run_status(run=run_record(RunState.BLOCKED, reason="no weights"))
    _, view = follow(blocked, blocked, run_status(RunState.DONE))
    assert len(view.notes) == 1
    assert "no weights" in view.notes[0]


def test_watch_when_nobody_serves_a_model_for_a_while_then_it_says_once_what_to_start() -> None:
    waiting = [run_status(unserved=("small",))] * 8
    _, view = follow(*waiting, run_status(RunState.DONE))
    assert view.notes == ["run 7 waits: nobody serves small; start a worker: rsembed fleet worker cpu --models null"]


def test_watch_when_a_worker_is_just_starting_then_nothing_is_said() -> None:
    _, view = follow(run_status(unserved=("small",)), run_status(), run_status(RunState.DONE))
    assert view.notes == []


def test_end_when_no_row_has_imagery_then_likely_causes_are_named() -> None:
    status = run_status(RunState.DONE, stages=(stage(no_data=1000, open=0),))
    assert any("no row has imagery" in line for line in end_lines(status))


def test_watch_when_interrupted_then_the_run_goes_on_and_the_code_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    found, view = follow(run_status(), KeyboardInterrupt())
    assert found == 130
    assert view.closed
    assert "goes on" in capsys.readouterr().err


def test_watch_when_there_is_no_terminal_then_lines_tell_progress(capsys: pytest.CaptureFixture[str]) -> None:
    code = watch_run(Script(run_status(done=250), run_status(RunState.DONE, done=1000)), 7, look_every_s=0.0)
    captured = capsys.readouterr()
    assert code == 0
    assert "embed small 250/1,000 rows (25%), 10.0 rows/s, 1:15 min left" in captured.err
    assert "run 7 is done" in captured.out


def test_end_when_rows_failed_then_the_way_on_is_told() -> None:
    run = run_record(RunState.DONE_WITH_FAILURES)
    status = run_status(run=run, failures={"transient": 3}, stages=(stage(990, failed=10, open=0),))
    text = "\n".join(end_lines(status))
    assert "small: 990 ok, 0 low_quality, 0 no_data, 10 failed" in text
    assert "rsembed fleet retry 7" in text
    assert "/out/small/part-*.parquet" in text


def test_pace_when_nothing_is_known_then_no_eta_is_made_up() -> None:
    assert pace(stage(10, rate_1m=0.0, eta_s=None)) == ", 0.0 rows/s"
    assert pace(stage(1000)) == ""
