from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rsembed.cli.main import cli
from rsembed.testing.scene import write_synthetic_catalog


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_catalog(tmp_path_factory.mktemp("scene"), size_px=256, dates=("2022-06-13",))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "places.csv"
    path.write_text("id,lon,lat\na,2.770,42.440\nb,2.772,42.441\nc,2.770,42.440\n")
    return path


def invoke(table: Path, *more: str) -> Result:
    return CliRunner().invoke(cli, ["export", str(table), "--out", str(table.parent / "out"), *more])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "no-such"], "no model named 'no-such'"),
        (["--model", "mosaiks:size=3"], "has no options"),
        (["--model", "mosaiks", "--model", "mosaiks"], "give each its own"),
        (["--model", "mosaiks@../up"], "cannot name a folder"),
        (["--model", "mosaiks", "--year", "2022", "--start", "2022-01-01", "--end", "2022-02-01"], "not both"),
        (["--model", "mosaiks", "--start", "2022-01-01"], "--start and --end need each other"),
        (["--model", "mosaiks", "--start", "2022-02-01", "--end", "2022-01-01"], "half-open"),
        (["--model", "mosaiks", "--around", "45d", "--year", "2022"], "--around takes each row's own date"),
        (["--model", "mosaiks", "--around", "45d"], "need a column 'date'"),
        (["--model", "mosaiks", "--collection", "X"], "--collection and --bands need each other"),
        (["--model", "mosaiks", "--bands", "B4"], "--collection and --bands need each other"),
        (["--model", "mosaiks", "--source-scale", "0.1"], "there is no --source"),
        (["--model", "mosaiks", "--source", "x.tif"], "--source needs --source-collection"),
        (["--model", "mosaiks", "--buffer", "-4"], "buffer_m must be a positive number"),
        (["--model", "mosaiks", "--device", "cuda:99"], "cuda"),
        (["--model", "mosaiks", "--layer", "x"], "only a GeoPackage has layers"),
        (["--model", "mosaiks", "--id-column", "name"], "no id column 'name'"),
    ],
)
def test_export_when_arguments_are_wrong_then_refused_in_words(
    table: Path, catalog: Path, arguments: list[str], said: str
) -> None:
    backend = [] if "--source" in arguments else ["--catalog", str(catalog)]
    result = invoke(table, *arguments, *backend)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert not (table.parent / "out" / "manifest.json").exists()


def test_export_when_no_model_is_named_then_refused(table: Path) -> None:
    result = invoke(table)
    assert result.exit_code == 2
    assert "--model" in result.stderr


def dry_run(table: Path, catalog: Path, *more: str) -> Result:
    return invoke(table, "--catalog", str(catalog), "--year", "2022", "--dry-run", *more)


def test_dry_run_when_asked_then_the_plan_is_printed_and_nothing_written(table: Path, catalog: Path) -> None:
    before = sorted(table.parent.iterdir())
    result = dry_run(table, catalog, "--model", "mosaiks")
    assert result.exit_code == 0, result.output
    assert "2 provider requests" in result.output  # two of the three rows are one place
    assert "none needed" in result.output
    assert "nothing was fetched or written" in result.output
    assert sorted(table.parent.iterdir()) == before


def test_dry_run_when_json_then_numbers_add_up(table: Path, catalog: Path) -> None:
    result = dry_run(table, catalog, "--model", "mosaiks", "--json")
    estimate = json.loads(result.output)["estimate"]
    assert estimate["rows"] == 3
    assert estimate["requests"] == 2
    assert estimate["fetch_bytes"] == 3 * 3 * 128 * 128 * 4
    assert estimate["output_bytes"] == 3 * 512 * 4
    assert estimate["fetch_s"] is None


def test_dry_run_when_models_differ_in_their_fetch_then_it_says_why(table: Path, catalog: Path) -> None:
    result = dry_run(table, catalog, "--model", "mosaiks", "--model", "prithvi")
    assert result.exit_code == 0, result.output
    assert "cannot share a fetch: they differ in scale_m" in result.output


def test_dry_run_when_the_region_is_large_then_many_forwards_are_a_warning(table: Path, catalog: Path) -> None:
    result = dry_run(table, catalog, "--model", "prithvi", "--buffer", "12000")
    assert "forward passes a row" in result.output


def test_dry_run_when_inputs_are_resized_then_the_ground_size_is_told(table: Path, catalog: Path) -> None:
    result = dry_run(table, catalog, "--model", "prithvi", "--buffer", "1680", "--context", "none")
    assert "sees 15 m a pixel instead of 30 m" in result.output


def test_dry_run_when_a_filter_is_given_without_a_collection_then_it_counts(table: Path, catalog: Path) -> None:
    result = dry_run(table, catalog, "--model", "mosaiks", "--cloudy-pct", "12", "--scale-m", "20", "--json")
    fetch = json.loads(result.output)["plan"]["models"][0]["fetch"]
    assert fetch["clouds"]["scene_pct"] == 12
    assert fetch["scale_m"] == 20


def test_dry_run_when_rows_are_bad_then_they_are_named(table: Path, catalog: Path) -> None:
    table.write_text("id,lon,lat\na,2.77,42.44\nb,200,42\n")
    result = dry_run(table, catalog, "--model", "mosaiks")
    assert result.exit_code == 2
    assert "row 1" in result.stderr
    assert "longitude" in result.stderr


def test_dry_run_when_weights_are_missing_then_it_says_so(table: Path, catalog: Path, tmp_path: Path) -> None:
    environ = {name: str(tmp_path / "none") for name in ("RSEMBED_WEIGHTS_DIR", "RSEMBED_CACHE_DIR", "HF_HUB_CACHE")}
    arguments = ["export", str(table), "--model", "prithvi", "--catalog", str(catalog), "--out", "x", "--dry-run"]
    result = CliRunner(env=environ).invoke(cli, arguments)
    assert result.exit_code in (0, 2)
    assert "not on this machine" in result.output or "B8A" in result.stderr
