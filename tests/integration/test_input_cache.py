"""The cache of fetched pixels with a real catalogue over HTTP: the second run asks for no pixel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from rsembed import api
from rsembed.cli.main import cli
from rsembed.core.specs import PointBuffer, TemporalSpec
from rsembed.providers.stac import StacProvider
from rsembed.testing.file_server import FileServer, serving
from tests.builders import files
from tests.stac_parts import noise, write_catalog, write_scene

LON, LAT = 2.78, 42.43
TABLE = f"id,lon,lat\na,{LON},{LAT}\nb,{LON + 0.002},{LAT}\n"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A catalogue of one scene, and a cache folder of the test's own."""
    monkeypatch.setenv("RSEMBED_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RSEMBED_INPUT_CACHE_GB", "1")
    folder = tmp_path / "scenes"
    bands = {band: noise(seed=seed) for seed, band in enumerate(("B2", "B3", "B4", "SCL"))}
    bands["SCL"][:] = 4
    write_catalog(folder, [write_scene(folder, "one", bands)])
    with serving(folder) as made:
        yield made


def pixels_asked(server: FileServer) -> int:
    return sum(asked.path.endswith(".tif") for asked in server.asked)


def run(server: FileServer, tmp_path: Path, out: str, *more: str) -> Result:
    table = tmp_path / "places.csv"
    table.write_text(TABLE)
    where = ["--backend", "stac", "--catalog", f"{server.url}/catalog.json", "--year", "2022", "--buffer", "320"]
    return CliRunner().invoke(cli, ["export", str(table), "--out", str(tmp_path / out), *where, *more])


def test_export_when_another_setting_of_the_model_goes_over_the_same_places_then_no_pixel_is_asked_for(
    server: FileServer, tmp_path: Path
) -> None:
    first = run(server, tmp_path, "a", "--model", "mosaiks@one")
    assert first.exit_code == 0, first.output
    asked = pixels_asked(server)
    assert asked > 0
    api.reset_runtime()  # as another process
    second = run(server, tmp_path, "b", "--model", "mosaiks@two")
    assert "cached: 2 requests spared" in second.output
    assert pixels_asked(server) == asked
    api.reset_runtime()
    assert run(server, tmp_path, "c", "--model", "mosaiks@two", "--no-cache").exit_code == 0
    assert pixels_asked(server) > asked
    assert files(tmp_path / "b") == files(tmp_path / "c")


def test_embedding_when_asked_for_again_then_no_pixel_is_asked_for_unless_told_so(server: FileServer) -> None:
    def vector(*, cache: bool = True) -> np.ndarray:
        provider = StacProvider(f"{server.url}/catalog.json", timeout_s=30.0)
        place, when = PointBuffer(LON, LAT, 320.0), TemporalSpec.year(2022)
        return api.get_embedding("mosaiks", spatial=place, temporal=when, backend=provider, cache=cache).data

    first, asked = vector(), pixels_asked(server)
    assert asked > 0
    np.testing.assert_array_equal(vector(), first)
    assert pixels_asked(server) == asked
    np.testing.assert_array_equal(vector(cache=False), first)
    assert pixels_asked(server) > asked
