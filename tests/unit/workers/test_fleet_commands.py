"""``rsembed fleet`` without any server: help, mistakes, and what is said where a server is away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rsembed.cli.main import cli
from tests.unit.workers.run_parts import run_record, run_status, stage
from workers.cli.connection import table_lines
from workers.cli.group import COMMANDS, missing_package
from workers.cli.script import main
from workers.cli.status import status_json, status_lines
from workers.cli.submit import script, submission_lines
from workers.ledger.records import RunState
from workers.submit import Submission


def invoke(tmp_path: Path, *arguments: str, **env: str) -> Result:
    """The command on a machine without a fleet."""
    bare = {"DATABASE_URL": "", "REDIS_URL": "", "RSEMBED_INPUTS": "", "RSEMBED_DIRECT_DATABASE_URL": ""}
    surroundings = {**bare, "RSEMBED_HOME": str(tmp_path), "RSEMBED_PLUGINS": "rsembed.testing.fleet", **env}
    return CliRunner().invoke(cli, ["fleet", *arguments], env=surroundings)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "places.csv"
    path.write_text("id,lon,lat\na,2.770,42.440\nb,2.772,42.441\n")
    return path


@pytest.mark.parametrize("name", [*COMMANDS, "db upgrade", "db check", "db rebuild"])
def test_help_when_asked_then_every_command_teaches(name: str, tmp_path: Path) -> None:
    result = invoke(tmp_path, *name.split(), "--help")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"Usage: cli fleet {name}")
    assert len(result.output) > 150


@pytest.mark.parametrize("name", ["up", "submit", "status", "retry", "drain", "doctor", "worker"])
def test_help_when_asked_then_examples_are_shown(name: str, tmp_path: Path) -> None:
    assert f"rsembed fleet {name}" in invoke(tmp_path, name, "--help").output


def test_group_when_asked_for_help_then_every_command_is_listed(tmp_path: Path) -> None:
    result = invoke(tmp_path, "--help")
    assert all(f"\n  {name} " in result.output for name in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [("runs",), ("status", "1"), ("watch", "1"), ("pause", "1"), ("drop", "1", "--yes"), ("db", "upgrade"),
     ("db", "check"), ("workers",), ("dispatcher",), ("worker", "io"), ("manifest", "1")],
)  # fmt: skip
def test_command_when_there_is_no_fleet_then_refused_with_both_ways_to_one(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    result = invoke(tmp_path, *arguments)
    assert result.exit_code == 2, result.output
    assert "DATABASE_URL" in result.stderr
    assert "rsembed fleet up" in result.stderr


@pytest.mark.parametrize("arguments", [("runs",), ("status", "1"), ("db", "upgrade"), ("submit", "TABLE")])
def test_command_when_the_database_is_away_then_it_says_what_to_do(
    arguments: tuple[str, ...], tmp_path: Path, table: Path
) -> None:
    if arguments[0] == "submit":
        arguments = ("submit", str(table), "--model", "null", "--backend", "null", "--out", str(tmp_path / "out"))
    result = invoke(tmp_path, *arguments, DATABASE_URL="postgresql://u:hidden@127.0.0.1:1/x")
    assert result.exit_code == 2, result.output
    assert "did not answer" in result.stderr
    assert "rsembed fleet doctor" in result.stderr
    assert "hidden" not in result.stderr


def test_doctor_when_everything_is_away_then_each_is_named_and_the_code_is_1(tmp_path: Path) -> None:
    away = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"}
    result = invoke(tmp_path, "doctor", "--json", **away)
    assert result.exit_code == 1, result.output
    assert {each["name"] for each in json.loads(result.stdout) if each["state"] == "failed"} >= {
        "database", "schema", "broker", "inputs", "workers", "progress",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("worker", "io", "--models", "null"), "drop --models and --device"),
        (("worker", "cpu", "--device", "cuda:0"), "worker gpu --device cuda:0"),
        (("worker", "tpu"), "'tpu' is not one of"),
        (("drain",), "name a worker or a queue, or give --all"),
        (("drain", "io", "--all"), "name a worker or a queue, or give --all"),
        (("status", "x"), "'x' is not a valid integer"),
        (("flower",), "RSEMBED_FLOWER_USER"),
        (("up", "--models", "no-such"), "no model named 'no-such'"),
        (("up", "--cpu", "--gpu", "1"), "--cpu says that no worker may use a GPU"),
    ],
)
def test_command_when_used_wrongly_then_refused_in_words(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = invoke(tmp_path, *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


# Submitting


def submit(tmp_path: Path, table: Path, *more: str, **env: str) -> Result:
    return invoke(tmp_path, "submit", str(table), "--out", str(tmp_path / "out"), "--backend", "null", *more, **env)


def test_dry_run_when_there_is_no_server_then_the_plan_is_printed_and_nothing_is_written(
    tmp_path: Path, table: Path
) -> None:
    result = submit(tmp_path, table, "--model", "null", "--model", "null:modality=multi@series", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "dry run: nothing was fetched or written" in result.output
    assert not (tmp_path / "out").exists()


def test_dry_run_when_json_is_asked_for_then_plan_and_estimate_are_there(tmp_path: Path, table: Path) -> None:
    result = submit(tmp_path, table, "--model", "null", "--dry-run", "--json", RSEMBED_DEVICE="cpu")
    found = json.loads(result.stdout)
    assert found["plan"]["models"][0]["device_class"] == "cpu"
    assert found["estimate"]["rows"] == 2
    assert found["estimate"]["requests"] == 2


def test_dry_run_when_the_environment_names_a_device_then_it_is_the_default(tmp_path: Path, table: Path) -> None:
    result = submit(tmp_path, table, "--model", "remoteclip", "--dry-run", "--json", RSEMBED_DEVICE="cuda:1")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["plan"]["models"][0]["device_class"] == "cuda"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "no-such"), "no model named 'no-such'"),
        (("--model", "null", "--model", "null"), "give each its own"),
        (("--model", "null@../up"), "cannot name a folder"),
        (("--model", "null", "--device", "cuda"), "runs on the CPU only"),
        (("--model", "null", "--max-requests", "0"), "0 is not in the range"),
        (("--model", "null", "--backend-options", "[1]"), "takes a JSON object"),
        (("--model", "null", "--backend-options", '{"nonsense": 1}'), "the backend null does not take"),
        (("--model", "null", "--backend", "nonsense"), "there are auto, gee, stac, raster, null, local"),
        (("--model", "null", "--id-column", "name"), "no id column 'name'"),
    ],
)
def test_submit_when_the_request_is_wrong_then_refused_in_words(
    arguments: tuple[str, ...], said: str, tmp_path: Path, table: Path
) -> None:
    result = submit(tmp_path, table, *arguments, "--dry-run")
    assert result.exit_code == 2, result.output
    assert said in result.stderr


def test_submit_export_when_called_then_it_is_submit_under_its_own_name(tmp_path: Path, table: Path) -> None:
    env = {"RSEMBED_PLUGINS": "rsembed.testing.fleet"}
    told = CliRunner().invoke(script(), ["--help"], env=env)
    assert told.output.startswith("Usage: submit-export [OPTIONS] TABLE")
    assert "  submit-export places.csv" in told.output
    assert "rsembed fleet submit" not in told.output
    arguments = [str(table), "--model", "null", "--backend", "null", "--out", "x", "--dry-run"]
    result = CliRunner().invoke(script(), arguments, env=env)
    assert result.exit_code == 0, result.output
    assert "dry run" in result.output


def test_submit_export_when_the_request_is_wrong_then_one_line_and_code_2(table: Path) -> None:
    result = CliRunner().invoke(script(), [str(table), "--model", "no-such", "--out", "x", "--dry-run"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: no model named 'no-such'")
    assert callable(main)


def test_missing_package_when_it_is_somebody_elses_then_its_extra_is_named() -> None:
    found = missing_package(ModuleNotFoundError(name="celery.app"))
    assert found.exit_code == 2
    assert "pip install 'rsembed[fleet]'" in found.message
    with pytest.raises(ModuleNotFoundError):
        missing_package(ModuleNotFoundError(name="workers.gone"))


# What is printed


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (RunState.RUNNING, "rsembed fleet watch 7"),
        (RunState.PAUSED, "rsembed fleet resume 7"),
        (RunState.DONE, "--new does it again"),
        (RunState.DONE_WITH_FAILURES, "rsembed fleet retry 7"),
        (RunState.BLOCKED, "goes on by itself"),
    ],
)
def test_submission_when_the_run_was_there_then_its_state_says_what_comes_next(state: RunState, said: str) -> None:
    [line] = submission_lines(Submission(run_record(state), created=False, skipped_rows=0), watched=False)
    assert line.startswith("run 7 is this request and output already")
    assert said in line


def test_status_when_shown_then_stages_failures_and_needs_are_told() -> None:
    blocked = run_record(RunState.BLOCKED, reason="403")
    found = run_status(run=blocked, done=10, failures={"transient": 3}, losses=2, unserved=("small",))
    text = "\n".join(status_lines(found))
    assert "run 7  blocked (403); tried again by itself" in text
    assert "3 transient" in text
    assert "2 leases gone without an outcome" in text
    assert "rsembed fleet worker cpu --models null" in text


def test_status_when_the_run_has_ended_then_only_counts_are_shown() -> None:
    ended = run_record(RunState.DONE, ended_at=run_record().created_at)
    text = "\n".join(status_lines(run_status(run=ended, unserved=("small",), drained=("io",))))
    assert "rows/s" not in text
    assert "waiting" not in text


def test_status_when_the_run_rests_then_no_time_left_is_made_up() -> None:
    *_, row = status_lines(run_status(RunState.PAUSED))
    assert row.split()[-1] == "-"


def test_status_when_printed_as_json_then_every_stage_is_there_and_the_spec_is_not() -> None:
    found = status_json(run_status(done=3, stages=(stage(3, eta_s=None),)))
    assert found["stages"][0]["done"] == 3
    assert found["stages"][0]["eta_s"] is None
    assert found["run"]["state"] == "running"
    assert "spec" not in found["run"]


def test_table_when_printed_then_numbers_go_right_and_words_left() -> None:
    assert table_lines(("name", "n"), [("a", 1000), ("long", None)], left=("name",)) == [
        "name      n",
        "a     1,000",
        "long      -",
    ]
