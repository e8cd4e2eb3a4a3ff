"""The global map of cells: the right cell for each pixel, around the globe, empty ones told from zeros."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import FetchRecipe, FetchRequest, Grid, PixelLattice, ProductRules
from rsembed.core.settings import Settings
from rsembed.core.specs import Window
from rsembed.embedders.options import make_config
from rsembed.embedders.precomputed.copernicus import Copernicus
from rsembed.providers.products.copernicus import COLLECTION, FILE
from rsembed.providers.products.provider import ProductsProvider
from tests.product_files import file_server, write_map

BANDS = ("E000", "E001", "E002")
YEAR = Window(dt.date(2021, 1, 1), dt.date(2022, 1, 1))
LATTICE = PixelLattice(0.25, -180.0, 90.125)


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    made = np.random.default_rng(0).standard_normal((3, 721, 1440), dtype=np.float32)
    made[:, 300:400, 200:900] = 0  # an ocean
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cells: np.ndarray) -> Path:
    return write_map(tmp_path_factory.mktemp("map") / FILE, cells).parent


@pytest.fixture(scope="module")
def provider(folder: Path) -> ProductsProvider:
    return ProductsProvider(Settings(cache_dir=folder / "cache", offline=True))


def grid(row: int, col: int, height: int = 2, width: int = 3) -> Grid:
    return Grid(4326, -180 + col * 0.25, 90.125 - row * 0.25, 0.25, height, width)


def ask(folder: object, on: Grid, *, zeros: bool = False, window: Window = YEAR) -> FetchRequest:
    rules = ProductRules(str(folder), LATTICE, "zero" if zeros else "masked")
    return FetchRequest(FetchRecipe(COLLECTION, 27_830.0, grid="lonlat", product=rules), BANDS, on, (window,))


@pytest.mark.parametrize(("row", "col"), [(0, 0), (234, 1204), (719, 1437), (500, 7)])
def test_fetch_when_asked_for_cells_then_those(
    provider: ProductsProvider, folder: Path, cells: np.ndarray, row: int, col: int
) -> None:
    patch = provider.fetch(ask(folder, grid(row, col)))
    np.testing.assert_array_equal(patch.values_tchw[0], cells[:, row : row + 2, col : col + 3])
    assert patch.valid_tchw.all()
    assert patch.frames[0].n_images == 1


def test_fetch_when_it_crosses_the_antimeridian_then_the_map_goes_on(
    provider: ProductsProvider, folder: Path, cells: np.ndarray
) -> None:
    east, west = provider.fetch(ask(folder, grid(200, 1439))), provider.fetch(ask(folder, grid(200, -1)))
    wanted = cells[:, 200:202][:, :, [1439, 0, 1]]
    np.testing.assert_array_equal(east.values_tchw[0], wanted)
    np.testing.assert_array_equal(west.values_tchw[0], wanted)


@pytest.mark.parametrize("zeros", [False, True])
def test_fetch_when_cells_are_empty_then_masked_unless_zeros_count(
    provider: ProductsProvider, folder: Path, cells: np.ndarray, zeros: bool
) -> None:
    patch = provider.fetch(ask(folder, grid(299, 199, 3, 3), zeros=zeros))
    np.testing.assert_array_equal(patch.values_tchw[0], cells[:, 299:302, 199:202])
    empty = (cells[:, 299:302, 199:202] == 0).all(axis=0)
    assert empty.sum() == 4
    np.testing.assert_array_equal(patch.valid_tchw[0, 0], np.ones((3, 3), bool) if zeros else ~empty)


def test_fetch_when_another_year_is_asked_for_then_an_empty_frame(provider: ProductsProvider, folder: Path) -> None:
    patch = provider.fetch(ask(folder, grid(234, 1204), window=Window(dt.date(2020, 1, 1), dt.date(2021, 1, 1))))
    assert patch.frames[0].n_images == 0


def test_fetch_when_opened_again_then_the_table_is_not_made_again(folder: Path, provider: ProductsProvider) -> None:
    first = provider.fetch(ask(folder, grid(234, 1204)))
    [table] = (folder / "cache" / "products").glob("cells-*")
    made = table.stat().st_mtime_ns
    again = ProductsProvider(Settings(cache_dir=folder / "cache", offline=True)).fetch(ask(folder, grid(234, 1204)))
    np.testing.assert_array_equal(again.values_tchw, first.values_tchw)
    assert table.stat().st_mtime_ns == made
    assert [path.name for path in table.parent.iterdir()] == [table.name]


def test_fetch_when_the_file_is_a_netcdf_then_the_same_numbers(tmp_path: Path, folder: Path, cells: np.ndarray) -> None:
    with rasterio.open(folder / FILE) as map_:
        profile = {**map_.profile, "crs": "EPSG:4326"}
    with rasterio.open(tmp_path / "placed.tif", "w", **profile) as placed:
        placed.write(cells)
    (tmp_path / "map").mkdir()
    rasterio.shutil.copy(tmp_path / "placed.tif", tmp_path / "map" / "embed_map_310k.nc", driver="netCDF")
    source = ProductsProvider(Settings(cache_dir=tmp_path / "cache", offline=True))
    patch = source.fetch(ask(tmp_path / "map", grid(234, 1204)))
    np.testing.assert_array_equal(patch.values_tchw[0], cells[:, 234:236, 1204:1207])
    model = Copernicus(make_config(Copernicus.card, options={"data_dir": str(tmp_path / "map")}))
    assert model.contract.bands == BANDS
    product = model.fetch_recipe().product
    assert product is not None
    assert product.lattice == LATTICE


def test_fetch_when_a_mirror_has_the_file_then_it_is_downloaded_once(
    folder: Path, tmp_path: Path, cells: np.ndarray
) -> None:
    with file_server(folder) as server:
        server.script[FILE] += [("cut", 100_000)]
        source = ProductsProvider(Settings(cache_dir=tmp_path))
        patch = source.fetch(ask(server.url, grid(234, 1204)))
        assert server.asked(FILE) == [None, "bytes=100000-"]
        assert patch.provenance["requests"] == 2
        assert source.fetch(ask(server.url, grid(10, 10))).provenance["requests"] == 0
    np.testing.assert_array_equal(patch.values_tchw[0], cells[:, 234:236, 1204:1207])


def test_fetch_when_the_file_is_no_raster_then_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "embed_map_other.tif").write_bytes(b"nothing")
    source = ProductsProvider(Settings(cache_dir=tmp_path / "cache", offline=True))
    with pytest.raises(ProviderError, match=r"embed_map_other\.tif is damaged"):
        source.fetch(ask(tmp_path, grid(0, 0)))


def test_fetch_when_a_band_is_not_there_then_it_says_what_is(provider: ProductsProvider, folder: Path) -> None:
    request = ask(folder, grid(0, 0))
    with pytest.raises(ProviderError, match="3 bands E000 to E002, not E003"):
        provider.fetch(FetchRequest(request.recipe, ("E000", "E003"), request.grid, request.bins))
