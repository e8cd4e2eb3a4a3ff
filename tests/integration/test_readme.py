"""What README.md shows runs, on a synthetic scene where the demo would put its own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rsembed.cli.main import cli
from rsembed.embedders.catalog import MODEL_SPECS
from rsembed.testing.scene import write_synthetic_catalog
from tests.doc_blocks import blocks_of
from workers import settings
from workers.cli.group import fleet
from workers.fleet_file import running_fleet
from workers.servers.children import wait_until

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Code blocks of README.md in that language."""
    return [block.text for block in blocks_of(README, language)]


LINES = [line for block in blocks("sh") for line in block.splitlines()]
FLEET = [line for line in LINES if line.startswith("rsembed fleet ")]
COMMANDS = [line for line in LINES if line not in FLEET]
ELSEWHERE = [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()]


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


@pytest.fixture(scope="module")
def surroundings(place: Path) -> Iterator[Mapping[str, str]]:
    """The environment of somebody who has run the first line of the fleet's block, in a terminal of its own."""
    assert FLEET[0] == "rsembed fleet up"
    kept = {name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}}
    ports = {"RSEMBED_FLOWER_PORT": "0", "RSEMBED_METRICS_PORT": "0"}
    environ = {**kept, **ports, "PYTHONPATH": str(ROOT), "RSEMBED_HOME": str(place / "home")}
    with (place / "up.log").open("wb") as log:
        up = subprocess.Popen(in_words(FLEET[0]), cwd=place, env=environ, stdout=log, stderr=subprocess.STDOUT)
    try:
        assert wait_until(lambda: running_fleet(place / "home") is not None, 90.0), (place / "up.log").read_text()
        yield environ
    finally:
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0


def in_words(line: str) -> list[str]:
    """A line of the README for this interpreter."""
    return [sys.executable, "-m", "rsembed", *shlex.split(line)[1:]]


@pytest.mark.timeout(600)
def test_readme_when_its_fleet_runs_then_its_commands_succeed(place: Path, surroundings: Mapping[str, str]) -> None:
    assert len(FLEET) > 2
    for line in FLEET[1:]:
        done = subprocess.run(
            in_words(line), cwd=place, env=surroundings, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("line", ELSEWHERE)
def test_readme_when_it_shows_commands_of_many_machines_then_they_exist(
    tmp_path: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "places.parquet").touch()
    program, group, *words = shlex.split(line)
    assert (program, group) == ("rsembed", "fleet")
    command: click.Command = fleet
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(click.Context(command), words)
        assert found is not None
        command = found
    command.make_context(command.name, list(words))


def test_readme_when_it_names_environment_variables_then_the_settings_know_them() -> None:
    section = README.partition("| variable | says |")[2].partition("\n\n")[0]
    names = set(re.findall(r"^\| `([A-Z_]+)`", section, flags=re.MULTILINE))
    assert len(names) == 4
    known = str(settings.__doc__) + str(sys.modules["rsembed.core.settings"].__doc__)
    assert all(f"``{name}``" in known for name in names)


def test_readme_when_it_counts_models_then_these_are_all() -> None:
    section = README.partition("\n## Models\n")[2].partition("\n`docs")[0]
    assert set(re.findall(r"`(\w+)`", section)) == set(MODEL_SPECS)
    assert section.startswith(f"{len(MODEL_SPECS)} models")


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
