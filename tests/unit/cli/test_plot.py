from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from rsembed import Embedding
from rsembed.cli.main import cli
from tests.builders import places, run_export


def plot(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["plot", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a run and a map."""
    run_export(tmp_path / "run", places(6), "null@one", "null@two")
    tile = np.random.default_rng(0).standard_normal((4, 5, 5)).astype(np.float32)
    Embedding(tile).save(tmp_path / "grid.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["run", "--label", "one"], "run-one.png"),
        (["run", "--label", "two", "--similar-to", "p3"], "run-two-similarity.png"),
        (["run", "--label", "two", "--similar-to", "2.01,42"], "run-two-similarity.png"),
        (["run/one"], "one.png"),
        (["grid.npz"], "grid.png"),
        (["grid.npz", "--cell", "4,0"], "grid-similarity.png"),
        (["grid.npz", "--title", "Here", "--out", "there/picture.png"], "there/picture.png"),
    ],
)
def test_plot_when_asked_then_a_picture_is_saved_by_name(folder: Path, arguments: list[str], name: str) -> None:
    done = plot(*arguments)
    assert done.exit_code == 0, done.output
    assert done.output == f"saved     {name}\n"
    assert is_picture(folder / name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "several models, one, two"),
        (["run", "--label", "three"], "it has one, two"),
        (["run", "--label", "one", "--similar-to", "p99"], "ids are such as"),
        (["run", "--label", "one", "--cell", "1,1"], "belongs to a map"),
        (["grid.npz", "--cell", "one"], "two whole numbers"),
        (["grid.npz", "--similar-to", "1,2"], "nobody knows where this map lies"),
        (["grid.npz", "--out", "a.gif"], ".png, .pdf, .svg, .jpg"),
        (["notes.txt"], "nothing that can be drawn"),
        (["."], "no finished export"),
    ],
)
def test_plot_when_it_cannot_then_one_line_says_why_and_no_file_is_left(
    folder: Path, arguments: list[str], message: str
) -> None:
    (folder / "notes.txt").touch()
    done = plot(*arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert not list(folder.glob("*.png"))
