"""What README.md shows runs, on a synthetic scene where the demo would put its own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rsembed.cli.main import cli
from rsembed.testing.scene import write_synthetic_catalog

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Code blocks of README.md in that language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("rsembed ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the demo leaves it, in small."""
    folder = tmp_path_factory.mktemp("readme")
    scene = folder / "demo-output" / "synthetic-catalog"
    write_synthetic_catalog(scene, size_px=256, dates=("2022-06-13",))
    (folder / "demo-output" / "places-300.csv").write_text("id,lon,lat\na,2.77,42.44\nb,2.78,42.435\n")
    return folder


@pytest.mark.parametrize("code", blocks("python"))
def test_readme_when_its_python_runs_then_it_prints_what_it_says(place: Path, code: str) -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(512,) ok" in done.stdout


@pytest.mark.parametrize("line", COMMANDS)
def test_readme_when_its_commands_run_then_they_succeed(
    place: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    result = CliRunner().invoke(cli, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output


def test_readme_when_it_names_make_targets_then_they_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make (\w+)`", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_readme_when_it_names_functions_then_they_are_public() -> None:
    import rsembed

    section = README.partition("Also there:")[2].partition("\n\n")[0]
    names = re.findall(r"`(\w+)`", section)
    assert names
    assert set(names) <= set(rsembed.__all__)


def test_readme_when_it_names_statuses_then_they_are_all() -> None:
    from rsembed.core.embedding import RowStatus

    section = README.partition("status means")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, flags=re.MULTILINE)) == {status.value for status in RowStatus}
