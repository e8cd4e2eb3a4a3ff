from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rsembed import load_export
from rsembed.cli.main import cli
from workers.fleet_file import running_fleet
from workers.settings import inherited_environment

ROOT = Path(__file__).resolve().parents[2]


def test_demo_when_run_twice_then_dataset_and_picture_are_there_and_it_resumes(tmp_path: Path) -> None:
    arguments = ["demo", "--out", str(tmp_path / "demo"), "--points", "12"]
    first = CliRunner().invoke(cli, arguments)
    assert first.exit_code == 0, first.output
    assert "synthetic" in first.output.lower()
    assert_result(tmp_path / "demo")
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 0, again.output
    assert "12 results of an earlier run stayed as they were" in again.output


@pytest.mark.timeout(600)  # twice the servers of a fleet, on a machine that may be busy
def test_fleet_demo_when_run_twice_then_the_second_finds_its_run_and_no_fleet_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    first = fleet_demo(folder)
    assert "run 1 submitted: 12 rows, 1 model, 1 shard" in first
    assert "run 1 is done" in first
    assert_result(folder)
    written = {path: path.stat().st_mtime_ns for path in sorted((folder / "embeddings-12").rglob("*.parquet"))}
    again = fleet_demo(folder)
    assert "run 1 is this request and output already: it is done" in again
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert running_fleet(folder / "fleet") is None


def fleet_demo(folder: Path) -> str:
    """What a demo on a fleet of its own prints, its commands included."""
    command = [sys.executable, "-m", "rsembed", "fleet", "demo", "--out", str(folder), "--points", "12"]
    environ = inherited_environment({"PYTHONPATH": str(ROOT)})
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_result(folder: Path) -> None:
    """Twelve good rows and a picture."""
    run = load_export(folder / "embeddings-12")
    assert run.n_items == 12
    assert run.status == "ok"
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
