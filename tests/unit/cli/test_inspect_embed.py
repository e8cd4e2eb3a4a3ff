from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner, Result

from rsembed.cli.main import cli
from rsembed.saved import load_embedding
from rsembed.testing.scene import write_synthetic_catalog

PLACE = ("--lon", "2.770", "--lat", "42.440", "--year", "2022")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_catalog(tmp_path_factory.mktemp("scene"), size_px=256, dates=("2022-06-13",))


def invoke(catalog: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--catalog", str(catalog)])


def test_inspect_when_a_model_is_named_then_its_bands_are_reported(catalog: Path) -> None:
    result = invoke(catalog, "inspect", "mosaiks", *PLACE)
    assert result.exit_code == 0, result.output
    assert "128 x 128 px of 10 m" in result.output
    assert "B4" in result.output


def test_inspect_when_json_then_numbers_are_those_of_the_patch(catalog: Path) -> None:
    result = invoke(catalog, "inspect", "mosaiks", *PLACE, "--json")
    band = json.loads(result.output)["report"]["frames"][0]["bands"][0]
    assert band["minimum"] <= band["mean"] <= band["maximum"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", "mosaiks", "--lon", "2.77"], "need each other"),
        (["inspect", "mosaiks"], "give a place"),
        (["inspect", "--lon", "2.77", "--lat", "42.44"], "name a MODEL, or --collection and --bands"),
        (["inspect", "--collection", "X", "--lon", "2.77", "--lat", "42.44"], "need each other"),
        (["embed", "mosaiks", "--bbox", "1,2,3"], "takes 4 numbers"),
        (["embed", "mosaiks", "--bbox", "1,2,3,4", "--buffer", "3"], "--buffer belongs to a point"),
        (["embed", "mosaiks", *PLACE, "--out", "x.txt"], "--out ends in"),
        (["embed", "mosaiks", *PLACE, "--out", "x.tif"], "--output grid"),
        (["embed", "mosaiks", *PLACE, "--start", "2022-01-01", "--end", "2022-02-01"], "not both"),
    ],
)
def test_commands_when_arguments_are_wrong_then_refused(catalog: Path, arguments: list[str], said: str) -> None:
    result = invoke(catalog, *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".nc", ".zarr", ".json"])
def test_embed_when_saved_then_the_file_holds_the_vector(catalog: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"vector{suffix}"
    result = invoke(catalog, "embed", "mosaiks", *PLACE, "--out", str(out), "--json")
    assert result.exit_code == 0, result.output
    expected = np.array(json.loads(result.output)["data"], dtype=np.float32)
    found = load_embedding(out)
    np.testing.assert_array_equal(found.data, expected)
    if suffix != ".npy":
        assert found.meta["model"] == "mosaiks"
        assert any("Copernicus" in said for said in found.meta["attribution"])


def test_embed_when_a_map_is_saved_then_rasterio_knows_where_it_lies(catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "map.tif"
    result = invoke(catalog, "embed", "mosaiks", *PLACE, "--output", "grid", "--out", str(out))
    assert result.exit_code == 0, result.output
    with rasterio.open(out) as file:
        assert file.crs.to_epsg() == 32631
        assert file.tags()["rsembed_model"] == "mosaiks"
        assert "Copernicus" in file.tags()["rsembed_attribution"]
        assert file.count == 512


def test_embed_when_printed_then_shape_and_status_are_there(catalog: Path) -> None:
    result = invoke(catalog, "embed", "mosaiks", *PLACE)
    assert "shape     512" in result.output
    assert "status    ok" in result.output


def test_embed_when_there_is_no_imagery_then_it_says_so(catalog: Path) -> None:
    result = invoke(catalog, "embed", "mosaiks", "--lon", "10", "--lat", "50", "--year", "2022")
    assert result.exit_code == 2
    assert "No images found" in result.stderr
