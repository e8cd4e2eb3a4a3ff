"""GeoTIFFs, opened by GDAL's own tools and by rio-cogeo's validator."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from rsembed.core.embedding import CellGrid
from rsembed.core.errors import ExportError
from rsembed.writers.geotiff import write_geotiff

UTM = (160.0, 0.0, 500_000.0, 0.0, -80.0, 4_000_000.0)


def a_map(dim: int, height: int, width: int, epsg: int = 32631) -> tuple[np.ndarray, CellGrid]:
    data = np.random.default_rng(0).normal(size=(dim, height, width)).astype(np.float32)
    data[:, 0, 0] = np.nan
    return data, CellGrid(epsg, UTM, height, width)


def write(path: Path, data: np.ndarray, cells: CellGrid, **tags: str) -> Path:
    write_geotiff(path, data, cells, tags=tags)
    return path


@pytest.mark.parametrize("shape", [(4, 3, 5), (768, 14, 14), (1100, 40, 70), (3, 700, 1300), (1, 1, 1)])
def test_geotiff_when_validated_then_cloud_optimised_and_the_same_numbers(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    data, cells = a_map(*shape)
    path = write(tmp_path / "scratch.abc", data, cells)
    valid, errors, warnings = cog_validate(path, strict=True)
    assert (valid, list(errors), list(warnings)) == (True, [], [])
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(), data)
        assert (file.crs.to_epsg(), tuple(file.transform)[:6]) == (32631, UTM)
        assert file.dtypes == ("float32",) * shape[0]
        assert np.isnan(file.nodata)
        assert bool(file.overviews(1)) == (max(shape[1:]) > file.block_shapes[0][0])
    assert [found.name for found in tmp_path.iterdir()] == ["scratch.abc"]


def test_geotiff_when_it_has_overviews_then_they_are_means_that_skip_what_is_missing(tmp_path: Path) -> None:
    data = np.arange(1024 * 1024, dtype=np.float32).reshape(1, 1024, 1024)
    data[0, 0, 0] = np.nan
    with rasterio.open(write(tmp_path / "a.tif", data, CellGrid(32631, UTM, 1024, 1024)), overview_level=0) as file:
        half = file.read(1)
    assert half.shape == (512, 512)
    np.testing.assert_allclose(half[0, :2], [(1 + 1024 + 1025) / 3, (2 + 3 + 1026 + 1027) / 4])


def test_geotiff_when_bands_and_tags_are_read_then_as_given(tmp_path: Path) -> None:
    data, cells = a_map(12, 4, 5, 4326)
    with rasterio.open(write(tmp_path / "a.tif", data, cells, model="m", licence="CC-BY-4.0 ü")) as file:
        assert file.descriptions[:2] == ("dim_000", "dim_001")
        assert file.descriptions[-1] == "dim_011"
        assert {"model": "m", "licence": "CC-BY-4.0 ü"}.items() <= file.tags().items()
        assert file.crs.to_epsg() == 4326


def test_geotiff_when_written_twice_then_the_same_bytes(tmp_path: Path) -> None:
    data, cells = a_map(20, 90, 70)
    first, second = (write(tmp_path / name, data, cells, model="m").read_bytes() for name in ("a", "b"))
    assert first == second


def test_geotiff_when_gdalinfo_opens_it_then_it_sees_layout_bands_and_place(tmp_path: Path) -> None:
    program = shutil.which("gdalinfo")
    if program is None:
        pytest.skip("gdalinfo is not installed")
    data, cells = a_map(5, 30, 20)
    path = write(tmp_path / "a.tif", data, cells, recipe="authors")
    done = subprocess.run([program, "-json", str(path)], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    assert found["metadata"][""]["recipe"] == "authors"
    assert found["size"] == [20, 30]
    assert found["geoTransform"] == [500_000.0, 160.0, 0.0, 4_000_000.0, 0.0, -80.0]
    assert [band["description"] for band in found["bands"]] == [f"dim_00{i}" for i in range(5)]
    assert found["bands"][0]["noDataValue"] == "NaN"


@pytest.mark.parametrize(
    ("shape", "epsg", "message"),
    [((2, 3, 5), 32631, "3 x 5 cells"), ((2, 4, 5), 999_999, "EPSG:999999"), ((65_536, 4, 5), 32631, "65535 bands")],
)
def test_geotiff_when_it_cannot_be_written_then_said_and_nothing_is_left(
    tmp_path: Path, shape: tuple[int, int, int], epsg: int, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        write(tmp_path / "a.tif", np.zeros(shape, np.float32), CellGrid(epsg, UTM, 4, 5))
    assert list(tmp_path.iterdir()) == []
