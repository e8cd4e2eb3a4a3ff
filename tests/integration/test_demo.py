from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from rsembed import load_export
from rsembed.cli.main import cli


def test_demo_when_run_twice_then_dataset_and_picture_are_there_and_it_resumes(tmp_path: Path) -> None:
    arguments = ["demo", "--out", str(tmp_path / "demo"), "--points", "12"]
    first = CliRunner().invoke(cli, arguments)
    assert first.exit_code == 0, first.output
    assert "synthetic" in first.output.lower()
    run = load_export(tmp_path / "demo" / "embeddings-12")
    assert run.n_items == 12
    assert run.status == "ok"
    picture = tmp_path / "demo" / "demo.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 0, again.output
    assert "12 results of an earlier run stayed as they were" in again.output
