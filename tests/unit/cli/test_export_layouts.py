from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from rsembed import load_export
from rsembed.cli.main import cli
from rsembed.testing.scene import write_synthetic_catalog

MODEL = ("--model", "mosaiks", "--year", "2022", "--buffer", "80", "--context", "none")
PLACE = ("--pointbuffer", "2.770,42.440,80")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_catalog(tmp_path_factory.mktemp("scene"), size_px=256, dates=("2022-06-13",))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "places.csv"
    path.write_text("id,lon,lat\na,2.770,42.440\nb,2.772,42.441\nc,2.771,42.440\n")
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["export", *map(str, arguments)])


def test_export_when_files_of_items_are_asked_then_it_tells_what_was_written(table: Path, catalog: Path) -> None:
    out = table.parent / "items"
    result = invoke(table, "--layout", "per-item", "--out", out, "--catalog", catalog, *MODEL)
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        f"p{i:05d}.{kind}" for i in range(3) for kind in ("npz", "json")
    }
    assert "mosaiks: 3 ok" in result.output
    assert f"{out}/p00000.npz .. p00002.npz (3 files" in result.output
    assert f"load_export('{out}')" in result.output
    assert json.loads((out / "p00001.json").read_text())["id"] == "b"
    again = invoke(table, "--layout", "per-item", "--out", out, "--catalog", catalog, *MODEL)
    assert "there already: 3 places" in again.output


def test_export_when_one_place_goes_into_one_file_then_both_are_told(tmp_path: Path, catalog: Path) -> None:
    out = tmp_path / "place.npz"
    result = invoke(*PLACE, "--layout", "combined", "--out", out, "--catalog", catalog, "--models", "mosaiks", "--year",
                    "2022", "--context", "none", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["layout"], told["items"], told["exit_code"]) == ("combined", 1, 0)
    assert told["counts"]["mosaiks"]["ok"] == 1
    assert told["out"] == str(out)
    assert load_export(out).spatials == [{"lon": 2.77, "lat": 42.44, "buffer_m": 80, "crs": "EPSG:4326"}]


def test_export_when_a_box_is_named_then_it_is_the_place(tmp_path: Path, catalog: Path) -> None:
    result = invoke("--bbox", "2.769,42.439,2.771,42.441", "--layout", "combined", "--out", tmp_path / "box",
                    "--catalog", catalog, "--model", "mosaiks", "--year", "2022", "--no-inputs")  # fmt: skip
    assert result.exit_code == 0, result.output
    run = load_export(tmp_path / "box.npz")
    assert run.spatials[0]["minlon"] == 2.769
    assert run.models["mosaiks"].inputs is None


def test_export_when_only_pixels_are_wanted_then_only_they_are_there(table: Path, catalog: Path) -> None:
    out = table.parent / "items"
    result = invoke(
        table, "--layout", "per-item", "--out", out, "--catalog", catalog, "--no-embeddings", "--no-json", *MODEL
    )
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir() if path.is_file()} == {f"p{i:05d}.npz" for i in range(3)}
    with np.load(out / "p00000.npz") as found:
        assert found.files == ["input_chw__mosaiks"]


def test_export_when_begun_anew_then_all_is_done_again(table: Path, catalog: Path) -> None:
    for layout, name in (("per-item", "items"), ("combined", "run"), ("dataset", "dataset")):
        arguments = (table, "--layout", layout, "--out", table.parent / name, "--catalog", catalog, "--json", *MODEL)
        assert invoke(*arguments).exit_code == 0
        kept, again = (json.loads(invoke(*arguments, *more).stdout) for more in ((), ("--restart",)))
        assert kept.get("skipped", kept.get("resumed_rows")) == 3
        assert again.get("skipped", again.get("resumed_rows")) == 0


def test_export_when_dry_then_nothing_is_written(tmp_path: Path, catalog: Path) -> None:
    result = invoke(*PLACE, "--layout", "combined", "--out", tmp_path / "run", "--catalog", catalog, "--dry-run",
                    "--model", "mosaiks", "--year", "2022")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "1 row" in result.output
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--format", "netcdf"), "--format belongs to --layout per-item or combined"),
        (("--no-inputs",), "--no-inputs belongs to"),
        (("--fail-on-bad-input",), "--fail-on-bad-input belongs to"),
        (("--layout", "combined", "--npz"), "--npz belongs to --layout dataset"),
        (("--layout", "combined", "--zarr"), "--zarr belongs to --layout dataset"),
        (("--layout", "per-item", "--keep-inputs"), "--keep-inputs belongs to --layout dataset"),
        (("--layout", "per-item", "--no-inputs", "--no-embeddings"), "nothing would be written"),
        (("--bbox", "1,2,3,4"), "give one of TABLE, --bbox and --pointbuffer, not several"),
        (("--layout", "zip"), "'zip' is not one of"),
    ],
)
def test_export_when_options_do_not_fit_the_layout_then_refused_in_words(
    table: Path, catalog: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = invoke(table, "--out", table.parent / "out", "--catalog", catalog, *MODEL, *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert not (table.parent / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give one of TABLE"),
        (("--bbox", "1,2,3"), "MINLON,MINLAT,MAXLON,MAXLAT, got '1,2,3'"),
        (("--bbox", "1,2,x,4"), "MINLON,MINLAT,MAXLON,MAXLAT"),
        (("--bbox", "3,2,1,4"), "minlon must be less"),
        (("--pointbuffer", "2,42"), "LON,LAT,METRES"),
        (("--pointbuffer", "2,42,-1"), "buffer_m must be"),
        (("--pointbuffer", "2,42,50", "--bbox", "1,2,3,4"), "not several"),
    ],
)
def test_export_when_the_place_is_wrong_then_refused_in_words(
    tmp_path: Path, catalog: Path, arguments: tuple[str, ...], said: str
) -> None:
    result = invoke(*arguments, "--out", tmp_path / "out", "--catalog", catalog, "--model", "mosaiks", "--year", "2022")
    assert result.exit_code == 2, result.output
    assert said in result.stderr


@pytest.mark.parametrize("models", [(), ("--models", " , ")])
def test_export_when_no_model_is_named_then_it_says_how(table: Path, models: tuple[str, ...]) -> None:
    result = invoke(table, "--out", table.parent / "out", *models)
    assert result.exit_code == 2
    assert "model" in result.stderr
