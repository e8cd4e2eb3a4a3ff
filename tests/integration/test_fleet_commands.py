"""The commands of an operator on a real ledger: what they change, what they print, how they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from rsembed.cli.main import cli
from tests.builders import places
from tests.ledger_parts import admit_all, embed_all, execute, fetch_all, finish, worker
from workers.ledger.db import upgrade
from workers.ledger.models_work import Base
from workers.ledger.records import RunState
from workers.ledger.repository import Ledger


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    """A ledger without runs or workers."""
    upgrade(database_url)
    found = execute(database_url, "SELECT relname FROM pg_class WHERE relname ~ '^(rows|fetch_jobs)_r[0-9]+$'")
    for (name,) in found:
        execute(database_url, f"DROP TABLE {name}")
    execute(database_url, "TRUNCATE " + ", ".join(table.name for table in Base.metadata.sorted_tables))
    opened = Ledger(database_url, direct=True)
    yield opened
    opened.close()


@pytest.fixture
def fleet(ledger: Ledger, database_url: str, tmp_path: Path) -> Fleet:
    return Fleet(ledger, database_url, tmp_path)


class Fleet:
    """The commands, and a ledger to look into."""

    def __init__(self, ledger: Ledger, url: str, folder: Path) -> None:
        self.ledger, self.url, self.folder = ledger, url, folder
        self.table = folder / "places.parquet"
        pq.write_table(places(12), self.table)

    def __call__(self, *arguments: str, code: int = 0, **given: Any) -> Result:
        env = {
            "DATABASE_URL": self.url, "RSEMBED_PLUGINS": "rsembed.testing.fleet", "REDIS_URL": "",
            "RSEMBED_INPUTS": str(self.folder / "inputs"), "RSEMBED_HOME": str(self.folder / "home"),
        }  # fmt: skip
        result = CliRunner().invoke(cli, ["fleet", *arguments], env=env, **given)
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def submit(self, *more: str, name: str = "out", code: int = 0) -> Any:
        models = ("--model", "null@plain", "--model", "null:modality=multi@series")
        where = ("--out", str(self.folder / name), "--backend", "null", "--year", "2022", "--shard-size", "5")
        return self.json("submit", str(self.table), *models, *where, *more, code=code)

    def run_to_the_end(self, **options: Any) -> None:
        """Do what workers do, without files."""
        admit_all(self.ledger)
        fetch_all(self.ledger, **options)
        embed_all(self.ledger)
        finish(self.ledger)


# Submitting and reading


def test_submit_when_repeated_then_json_tells_the_same_run_and_its_state(fleet: Fleet) -> None:
    first = fleet.submit()
    assert (first["created"], first["state"], first["rows"]) == (True, "running", 12)
    assert first["models"] == ["plain", "series"]
    again = fleet.submit()
    assert (again["run"], again["created"]) == (first["run"], False)


def test_submit_when_priority_and_limit_are_given_again_then_they_change(fleet: Fleet) -> None:
    run = fleet.submit("--priority", "1", "--max-requests", "10")["run"]
    again = fleet.submit("--priority", "5", "--max-requests", "20")
    assert again["run"] == run
    found = fleet.ledger.run(run)
    assert (found.priority, found.max_requests) == (5, 20)
    fleet.submit()
    assert fleet.ledger.run(run).priority == 5


def test_submit_when_paused_is_asked_for_then_it_waits(fleet: Fleet) -> None:
    run = fleet.submit("--paused")["run"]
    assert fleet.ledger.run(run).state is RunState.PAUSED


def test_submit_when_watched_by_a_program_then_one_object_tells_how_it_ended(fleet: Fleet) -> None:
    fleet.submit()
    fleet.run_to_the_end(failed=[0])
    found = fleet.submit("--watch", code=3)
    assert (found["created"], found["state"], found["exit_code"]) == (False, "done_with_failures", 3)


def test_submit_when_people_read_it_then_plan_and_next_step_are_told(fleet: Fleet) -> None:
    out = ("--out", str(fleet.folder / "out"), "--backend", "null")
    said = fleet("submit", str(fleet.table), "--model", "null", *out).stdout
    assert "fetch 1   TEST/NULL" in said
    assert "submitted: 12 rows, 1 model, 1 shard, to " in said
    assert "follow it: rsembed fleet watch" in said


def test_status_when_a_run_ended_then_stages_and_failures_are_counted(fleet: Fleet) -> None:
    run = str(fleet.submit()["run"])
    fleet.run_to_the_end(failed=[1])
    found = fleet.json("status", run, "--events", "5")
    assert found["run"]["state"] == "done_with_failures"
    fetch = next(stage for stage in found["stages"] if stage["stage"] == "fetch")
    assert (fetch["done"], fetch["failed"], fetch["open"]) == (9, 3, 0)
    assert found["failures"]["provider"] > 0
    assert [event["kind"] for event in found["events"]] == ["run_done_with_failures", "submitted"]
    text = fleet("status", run, "--events", "3").stdout
    assert "done with failures; rsembed fleet retry" in text


def test_failures_when_a_run_has_some_then_they_are_listed_by_class(fleet: Fleet) -> None:
    run = str(fleet.submit()["run"])
    fleet.run_to_the_end(failed=[1])
    rows = fleet.json("failures", run, "--error-class", "provider", "--limit", "3")
    assert len(rows) == 3
    assert rows[0]["failure"]["message"].startswith("no luck with")
    assert "Trace\n  here\nno luck with 1\n" in fleet("failures", run, "--traceback").stdout
    assert "no row failed with class crash" in fleet("failures", run, "--error-class", "crash").stdout


def test_runs_when_listed_then_active_ones_can_be_picked(fleet: Fleet) -> None:
    ended, running = fleet.submit(name="a")["run"], None
    fleet.run_to_the_end()
    running = fleet.submit(name="b")["run"]
    assert [run["id"] for run in fleet.json("runs")] == [running, ended]
    assert [run["id"] for run in fleet.json("runs", "--active")] == [running]
    assert str(fleet.folder / "b") in fleet("runs").stdout


def test_workers_when_some_are_alive_then_they_are_listed_with_what_ails_them(fleet: Fleet) -> None:
    assert "no live workers" in fleet("workers").stdout
    name = worker(fleet.ledger, kind="cpu")
    fleet.ledger.degrade(name, "null", "its weights are gone")
    said = fleet("workers").stdout
    assert name[:8] in said
    assert "cannot serve null: its weights are gone" in said
    assert fleet.json("workers")[0]["info"]["id"] == name


def test_manifest_when_the_run_goes_on_then_refused_and_when_it_ended_then_printed(fleet: Fleet) -> None:
    run = str(fleet.submit()["run"])
    assert "holds no manifest.json" in fleet("manifest", run, code=2).stderr
    (fleet.folder / "out" / "manifest.json").write_text('{"b": 1}')
    assert json.loads(fleet("manifest", run).stdout) == {"b": 1}


def test_watch_when_the_run_has_ended_then_its_code_comes_at_once(fleet: Fleet) -> None:
    run = str(fleet.submit()["run"])
    fleet.run_to_the_end(failed=[0])
    assert "done with failures" in fleet("watch", run, code=3).stdout


def test_command_when_the_run_is_unknown_then_refused_in_words(fleet: Fleet) -> None:
    for arguments in (("status", "99"), ("pause", "99"), ("watch", "99"), ("drop", "99", "--yes")):
        assert "99" in fleet(*arguments, code=2).stderr


# Steering


def test_resume_when_a_limit_is_given_then_it_is_the_runs(fleet: Fleet) -> None:
    run = fleet.submit("--max-requests", "5", "--paused")["run"]
    fleet("resume", str(run), "--max-requests", "50")
    found = fleet.ledger.run(run)
    assert (found.state, found.max_requests) == (RunState.RUNNING, 50)


def test_pause_resume_cancel_when_given_then_states_follow_and_twice_is_nothing(fleet: Fleet) -> None:
    run = str(fleet.submit()["run"])
    assert fleet.json("pause", run, "--reason", "lunch") == [{"run": int(run), "changed": True, "state": "paused"}]
    assert "nothing to do, it is paused" in fleet("pause", run).stdout
    assert fleet.ledger.run(int(run)).reason == "lunch"
    assert "resumed" in fleet("resume", run).stdout
    assert fleet.ledger.run(int(run)).state is RunState.RUNNING
    assert fleet.json("cancel", run)[0]["changed"]


def test_pause_when_several_runs_are_named_then_all_rest(fleet: Fleet) -> None:
    runs = [str(fleet.submit(name=name)["run"]) for name in ("a", "b")]
    fleet("pause", *runs)
    assert {run.state for run in fleet.ledger.runs()} == {RunState.PAUSED}


def test_retry_when_a_class_is_named_then_only_its_rows_go_back(fleet: Fleet) -> None:
    run = str(fleet.submit()["run"])
    fleet.run_to_the_end(failed=[1])
    said = fleet("retry", run, "--error-class", "crash").stdout
    assert "no failed row of class crash (there are " in said
    assert " provider), nothing was changed" in said
    assert fleet.json("retry", run, "--error-class", "provider")["rows"] > 0
    assert fleet.ledger.run(int(run)).state is RunState.RUNNING


def test_drain_when_the_beginning_of_an_id_is_given_then_that_worker_drains(fleet: Fleet) -> None:
    name = worker(fleet.ledger, queues=("gpu.null",))
    assert fleet.json("drain", name[:6]) == {"target": name, "draining": True, "matched": 1}
    assert [each.state for each in fleet.ledger.workers()] == ["draining"]
    fleet("drain", name[:6], "--off")
    assert [each.state for each in fleet.ledger.workers()] == ["running"]


def test_drain_when_a_queue_is_named_then_it_needs_no_worker(fleet: Fleet) -> None:
    assert "io: takes no more work" in fleet("drain", "io").stdout
    assert "io: takes work again" in fleet("drain", "io", "--off").stdout
    assert "nope" in fleet("drain", "nope", code=2).stderr


def test_drain_when_a_queue_is_drained_then_workers_and_status_say_so(fleet: Fleet) -> None:
    run = str(fleet.submit()["run"])
    worker(fleet.ledger, queues=("gpu.null", "io"))
    fleet("drain", "io")
    told = "drained: nobody takes work there until `rsembed fleet drain io --off`"
    assert f"waiting   io {told}" in fleet("status", run).stdout
    said = fleet("workers").stdout
    assert "queues: gpu.null, io" in said
    assert "io is drained" in said
    fleet("drain", "io", "--off")
    assert "drained" not in fleet("status", run).stdout


def test_drop_when_the_run_is_active_then_refused_and_when_it_ended_then_output_stays(fleet: Fleet) -> None:
    run = str(fleet.submit()["run"])
    assert "cancel it before" in fleet("drop", run, "--yes", code=2).stderr
    fleet.run_to_the_end()
    assert fleet("drop", run, input="n\n", code=1)
    assert fleet.ledger.run(int(run)).state is RunState.DONE
    fleet("drop", run, input="y\n")
    assert fleet.ledger.runs() == []
    assert (fleet.folder / "out" / "_run.json").exists()


# The ledger itself


def test_db_when_upgraded_twice_then_the_second_time_changes_nothing(fleet: Fleet) -> None:
    assert fleet.json("db", "upgrade")["changed"] is False
    assert "this version already" in fleet("db", "upgrade").stdout


def test_db_check_when_the_run_is_unknown_then_refused_in_words(fleet: Fleet) -> None:
    assert "there is no run 99" in fleet("db", "check", "99", code=2).stderr


def test_db_check_when_the_ledger_agrees_then_0_and_when_it_does_not_then_1(fleet: Fleet) -> None:
    run = fleet.submit()["run"]
    assert fleet.json("db", "check") == {"violations": []}
    execute(fleet.url, f"DROP TABLE rows_r{run}")
    assert fleet.json("db", "check", str(run), code=1)["violations"]


def test_doctor_when_only_the_database_is_asked_for_then_nothing_else_matters(fleet: Fleet) -> None:
    assert fleet.json("doctor", "--only", "database", "--only", "schema", "--only", "inputs") == [
        {"name": "database", "state": "ok", "detail": "answers"},
        {"name": "schema", "state": "ok", "detail": "is that of this version"},
        {"name": "inputs", "state": "ok", "detail": "can be written and read"},
    ]


def test_doctor_when_a_worker_idles_while_its_work_is_ready_then_code_1_names_it(fleet: Fleet) -> None:
    fleet.submit()
    name = worker(fleet.ledger, kind="io", queues=("io", "control"))
    admit_all(fleet.ledger)
    probe = ("doctor", "--only", "progress", "--idle-after", "100")
    fleet(*probe)
    for table, column in (("fetch_units", "ready_at"), ("workers", "started_at")):
        execute(fleet.url, f"UPDATE {table} SET {column} = clock_timestamp() - interval '3 minutes'")
    said = fleet(*probe, code=1).stdout
    assert f"io worker {name[:8]}" in said
    assert "idle while work of io is ready" in said
