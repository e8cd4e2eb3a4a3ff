"""Row 70 of the reference's contract: the command line. Its commands have other names here (export, inspect, embed)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from rsembed import load_export
from rsembed.cli.main import cli
from rsembed.testing.scene import write_synthetic_catalog

S2 = "COPERNICUS/S2_SR_HARMONIZED"
POINT, YEAR = ("--pointbuffer", "2.770,42.440,320"), ("--year", "2022")
SENSOR = ("--collection", S2, "--bands", "B4,B3,B2")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_catalog(tmp_path_factory.mktemp("scene"), size_px=256, dates=("2022-06-13", "2022-07-08"))


def run(catalog: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--catalog", str(catalog)])


def refused(done: Result, said: str) -> None:
    """Exit code 2, the reason, and no traceback."""
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Traceback" not in done.output


def inspected(catalog: Path, *arguments: str) -> dict[str, Any]:
    done = run(catalog, "inspect", *arguments, "--json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


# Lists by commas


def test_bands_when_written_with_spaces_then_trimmed(catalog: Path) -> None:
    found = inspected(catalog, *POINT, *YEAR, "--collection", S2, "--bands", " B4 ,red, B2,")
    assert found["sensor"]["bands"] == ["B4", "red", "B2"]


@pytest.mark.parametrize("bands", ["", " ", ",", " , "])
def test_bands_when_empty_then_refused(catalog: Path, bands: str) -> None:
    refused(run(catalog, "inspect", *POINT, *YEAR, "--collection", S2, "--bands", bands), "at least one band")


def test_models_when_listed_by_commas_then_trimmed_and_each_exported(catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(catalog, "export", *POINT, *YEAR, "--models", " mosaiks , ", "--out", str(out), "--quiet")
    assert done.exit_code == 0, done.output
    assert list(load_export(out).models) == ["mosaiks"]


@pytest.mark.parametrize("models", ["", ",", "  "])
def test_models_when_empty_then_refused(catalog: Path, tmp_path: Path, models: str) -> None:
    refused(run(catalog, "export", *POINT, *YEAR, "--models", models, "--out", str(tmp_path / "o")), "model")


# Places and windows


@pytest.mark.parametrize("command", ["inspect", "embed"])
@pytest.mark.parametrize(
    ("place", "said"),
    [
        ((), "give a place"),
        ((*POINT, "--bbox", "2.7,42.4,2.8,42.5"), "give a place"),
        ((*POINT, "--lon", "2"), "give a place"),
        (("--lon", "2"), "--lon and --lat need each other"),
        (("--bbox", "1,2,3"), "--bbox takes 4 numbers MINLON,MINLAT,MAXLON,MAXLAT"),
        (("--bbox", "1,2,3,x"), "--bbox takes 4 numbers"),
        (("--bbox", "3,2,1,4"), "minlon must be less than maxlon"),
        (("--pointbuffer", "2,42"), "--pointbuffer takes 3 numbers LON,LAT,METRES"),
        (("--pointbuffer", "2,42,-5"), "buffer_m must be a positive number"),
        (("--pointbuffer", "2,95,5"), "latitude must lie in"),
        (("--pointbuffer", "nan,42,5"), "longitude must lie in"),
        ((*POINT, "--buffer", "5"), "--buffer belongs to a point"),
    ],
)
def test_place_when_it_is_not_exactly_one_then_refused(
    catalog: Path, command: str, place: tuple[str, ...], said: str
) -> None:
    refused(run(catalog, command, "mosaiks", *place, *YEAR), said)


def test_place_when_written_in_either_form_then_the_same(catalog: Path) -> None:
    long = inspected(catalog, "mosaiks", "--lon", "2.770", "--lat", "42.440", "--buffer", "320", *YEAR)
    assert inspected(catalog, "mosaiks", *POINT, *YEAR) == long


@pytest.mark.parametrize("command", ["inspect", "embed", "export"])
@pytest.mark.parametrize(
    ("window", "said"),
    [
        (("--year", "2022", "--start", "2022-01-01", "--end", "2022-02-01"), "not both"),
        (("--year", "2022", "--range", "2022-01-01,2022-02-01"), "not both"),
        (("--start", "2022-01-01", "--range", "2022-01-01,2022-02-01"), "give --range or --start and --end"),
        (("--start", "2022-01-01"), "--start and --end need each other"),
        (("--range", "2022-01-01"), "--range takes two days START,END"),
        (("--range", "2022-02-01,2022-01-01"), "half-open"),
        (("--range", "June,July"), "must be an ISO date"),
        (("--year", "0"), "whole number from 1 to 9998"),
        (("--year", "last"), "not a valid integer"),
    ],
)
def test_window_when_it_is_not_one_then_refused(
    catalog: Path, tmp_path: Path, command: str, window: tuple[str, ...], said: str
) -> None:
    if command == "export":
        refused(run(catalog, "export", *POINT, "--model", "mosaiks", "--out", str(tmp_path / "o"), *window), said)
    else:
        refused(run(catalog, command, "mosaiks", *POINT, *window), said)


def test_window_when_written_in_either_form_then_the_same(catalog: Path) -> None:
    long = inspected(catalog, "mosaiks", *POINT, "--start", "2022-06-01", "--end", "2022-07-01")
    assert inspected(catalog, "mosaiks", *POINT, "--range", " 2022-06-01, 2022-07-01") == long
    assert long["report"]["n_images"] == 1


# Sensors. Settings without a collection change the model's own, and are not dropped (defect B14 of the reference).


@pytest.mark.parametrize("alone", [("--collection", S2), ("--bands", "B4")])
def test_sensor_when_collection_or_bands_stand_alone_then_refused(catalog: Path, alone: tuple[str, str]) -> None:
    refused(run(catalog, "inspect", "mosaiks", *POINT, *YEAR, *alone), "--collection and --bands need each other")


def test_sensor_when_settings_stand_without_a_collection_then_they_count(catalog: Path) -> None:
    given = ("--scale-m", "20", "--cloudy-pct", "7", "--composite", "mosaic", "--fill-value", "3")
    found = inspected(catalog, "mosaiks", *POINT, *YEAR, *given)
    assert (found["fetch"]["scale_m"], found["fetch"]["clouds"]["scene_pct"]) == (20, 7)
    assert (found["fetch"]["composite"], found["sensor"]["fill_value"]) == ("mosaic", 3)
    named = inspected(catalog, *SENSOR, *POINT, *YEAR, *given)
    assert (named["sensor"]["scale_m"], named["sensor"]["fill_value"]) == (20, 3)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--scale-m", "0"),
        ("--scale-m", "ten"),
        ("--cloudy-pct", "101"),
        ("--composite", "mean"),
        ("--fill-value", "nan"),
    ],
)
def test_sensor_when_a_setting_is_wrong_then_refused(catalog: Path, option: str, value: str) -> None:
    done = run(catalog, "inspect", "mosaiks", *POINT, *YEAR, option, value)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


# Flags and what they stand for


def test_flags_when_given_then_they_are_the_requests_settings(catalog: Path, tmp_path: Path) -> None:
    given = {
        "--batch-size": ("2", "batch_size"), "--shard-size": ("7", "shard_size"), "--threads": ("2", "threads"),
        "--min-valid-fraction": ("0.25", "min_valid_fraction"), "--dtype": ("float16", "dtype"),
        "--pooling": ("max", "pooling"), "--input-prep": ("resize", "mode"), "--recipe": ("rs-embed", "recipe"),
        "--context": ("none", "context"), "--precision": ("fp32", "precision"),
    }  # fmt: skip
    arguments = [text for option, (value, _) in given.items() for text in (option, value)]
    done = run(catalog, "export", *POINT, *YEAR, "--model", "mosaiks", "--out", str(tmp_path / "o"), "--dry-run",
               "--json", *arguments)  # fmt: skip
    assert done.exit_code == 0, done.output
    found: dict[str, set[str]] = {}

    def walk(value: Any) -> None:
        for key, inner in value.items() if isinstance(value, dict) else ((None, each) for each in value):
            if isinstance(inner, (dict, list)):
                walk(inner)
            elif key is not None:
                found.setdefault(key, set()).add(str(inner))

    walk(json.loads(done.stdout)["plan"])
    for value, name in given.values():
        assert value in found[name], name
    assert not (tmp_path / "o").exists()


def test_embed_when_asked_for_json_then_the_vector_of_the_function(catalog: Path) -> None:
    from rsembed import PointBuffer, TemporalSpec, get_embedding

    done = run(catalog, "embed", " Mosaiks", *POINT, *YEAR, "--json", "--device", "cpu")
    assert done.exit_code == 0, done.output
    alone = get_embedding(
        "mosaiks",
        spatial=PointBuffer(2.770, 42.440, 320),
        temporal=TemporalSpec.year(2022),
        catalog=catalog,
        device="cpu",
    )
    np.testing.assert_array_equal(np.float32(json.loads(done.stdout)["data"]), alone.data)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("embed", "mosaik"), "did you mean mosaiks"),
        (("embed", "prithvi:varient=300"), "no option 'varient'; did you mean variant"),
        (("embed", "mosaiks:backend=gee"), "mosaiks has no options; got 'backend'"),
        (("inspect", "mosaiks:spatial=1"), "mosaiks has no options; got 'spatial'"),
        (("embed", "mosaiks:size"), "written name:option=value"),
        (("embed", ":"), "no model named ''"),
        (("embed", "mosaiks:=2"), "has no option"),
        (("embed", "mosaiks", "--device", "gpu"), "device must be auto, cpu, cuda"),
        (("embed", "mosaiks", "--device", "cuda:99"), "is not there"),
        (("embed", "mosaiks", "--modality", "s9"), "modality must be one of"),
        (("embed", "mosaiks", "--backend", "mars"), "no backend 'mars'"),
        (("embed", "mosaiks", "--output", "map"), "is not one of"),
        (("inspect", "mosaiks", "--value-range", "5"), "takes 2 numbers LOW,HIGH"),
    ],
)
def test_command_when_an_argument_is_wrong_then_refused_in_one_line(
    catalog: Path, arguments: tuple[str, ...], said: str
) -> None:
    refused(run(catalog, *arguments, *POINT, *YEAR), said)


def test_backend_when_local_then_imagery_is_refused_by_name() -> None:
    done = CliRunner().invoke(cli, ["embed", "mosaiks", *POINT, *YEAR, "--backend", "LOCAL"])
    refused(done, "the backend local reads published embeddings")


def test_program_when_no_command_is_named_then_help_and_exit_2() -> None:
    for arguments in ([], ["exprot"]):
        done = subprocess.run(
            [sys.executable, "-m", "rsembed", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "Usage: rsembed" in done.stderr
