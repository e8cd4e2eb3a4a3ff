"""Tiles onto grids: the right pixel of the right tile, across borders of tiles and zones, holes told apart."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsembed.core.errors import CollectionGapError, ProviderError
from rsembed.core.fetching import FetchRecipe, FetchRequest, Grid, PixelLattice, ProductRules
from rsembed.core.patch import Patch
from rsembed.core.settings import Settings
from rsembed.core.specs import Window
from rsembed.providers.base import ProviderBase
from rsembed.providers.products.downloads import Downloader
from rsembed.providers.products.provider import ProductsProvider
from rsembed.providers.products.tessera import BANDS, COLLECTION, cells_touched
from rsembed.providers.products.tile_index import TileCell
from rsembed.tools.spatial import from_lonlat, to_lonlat
from tests.product_files import MASKS, TILES, MadeTile, file_server, write_registry, write_tile

YEAR = Window(dt.date(2021, 1, 1), dt.date(2022, 1, 1))


def grid_at(lon: float, lat: float, epsg: int, *, side: int = 6, scale_m: float = 200.0) -> Grid:
    x, y = from_lonlat(epsg, np.array([lon]), np.array([lat]))
    left, top = round(float(x[0]) / 10) * 10 - side / 2 * scale_m, round(float(y[0]) / 10) * 10 + side / 2 * scale_m
    return Grid(epsg, left, top, scale_m, side, side)


def provider(folder: Path, *, offline: bool = True) -> ProductsProvider:
    settings = Settings(cache_dir=folder / "cache", offline=offline)
    return ProductsProvider(settings, downloader=Downloader(offline=offline, attempts=2, pause_s=0.0))


def ask(
    where: str | Path, grid: Grid, *, window: Window = YEAR, zeros: bool = False, bands: Sequence[str] = BANDS
) -> FetchRequest:
    rules = ProductRules(str(where), PixelLattice(grid.scale_m) if zeros else None, "zero" if zeros else "masked")
    recipe = FetchRecipe(COLLECTION, grid.scale_m, resampling="nearest", product=rules)
    return FetchRequest(recipe, tuple(bands), grid, (window,))


def expected_at(grid: Grid, tiles: Sequence[MadeTile]) -> tuple[np.ndarray, np.ndarray]:
    """Pixel by pixel: its centre looked up in each tile, from the south-west on."""
    values = np.zeros((128, grid.height, grid.width), np.float32)
    valid = np.zeros((grid.height, grid.width), bool)
    for row in range(grid.height):
        for col in range(grid.width):
            x, y = grid.x_min + (col + 0.5) * grid.scale_m, grid.y_max - (row + 0.5) * grid.scale_m
            for tile in sorted(tiles, key=lambda t: (t.lat_i, t.lon_i)):
                tx, ty = x, y
                if tile.epsg != grid.epsg:
                    there = from_lonlat(tile.epsg, *to_lonlat(grid.epsg, np.array([x]), np.array([y])))
                    tx, ty = float(there[0][0]), float(there[1][0])
                found = tile.at(tx, ty)
                if found is not None:
                    values[:, row, col], valid[row, col] = found, True
                    break
    return values, valid


def same(patch: Patch, values: np.ndarray, valid: np.ndarray) -> None:
    np.testing.assert_array_equal(patch.valid_tchw[0], np.broadcast_to(valid, values.shape))
    np.testing.assert_array_equal(patch.values_tchw[0], values)


@pytest.mark.parametrize(
    ("lon", "lat", "epsg", "cells"),
    [
        (0.15, 52.05, 32631, [(15, 5205)]),
        (0.2, 52.1, 32631, [(15, 5205), (25, 5205), (15, 5215), (25, 5215)]),  # where four tiles meet
        (6.0, 45.05, 32632, [(595, 4505), (605, 4505)]),  # zones 31 and 32
        (-60.1, -3.1, 32720, [(-6015, -315), (-6005, -315), (-6015, -305), (-6005, -305)]),  # southern hemisphere
        (12.05, 63.95, 32632, [(1195, 6395), (1205, 6395)]),  # Norway's wide zone
        (179.999, -17.05, 32760, [(17995, -1705), (-17995, -1705)]),  # the antimeridian
    ],
)
def test_fetch_when_a_place_touches_tiles_then_each_pixel_is_the_nearest_of_its_tile(
    tmp_path: Path, lon: float, lat: float, epsg: int, cells: list[tuple[int, int]]
) -> None:
    tiles = [write_tile(tmp_path, *cell) for cell in cells]
    write_registry(tmp_path, tiles)
    grid = grid_at(lon, lat, epsg)
    patch = provider(tmp_path).fetch(ask(tmp_path, grid))
    values, valid = expected_at(grid, tiles)
    assert valid.mean() > 0.9
    same(patch, values, valid)
    [frame] = patch.frames
    assert (frame.n_images, frame.first_date, frame.last_date) == (1, dt.date(2021, 1, 1), dt.date(2021, 12, 31))
    assert set(frame.scene_ids) <= {tile.name for tile in tiles}
    assert patch.provenance["requests"] == 0


def test_fetch_when_a_grid_is_smaller_then_central_crop_to_the_bit(tmp_path: Path) -> None:
    write_registry(tmp_path, [write_tile(tmp_path, lon_i, 5205) for lon_i in (15, 25)])
    large = grid_at(0.2, 52.05, 32631, side=16)
    small = large.centre_crop(4, 4)
    source = provider(tmp_path)
    whole, part = source.fetch(ask(tmp_path, large)).crop(small), source.fetch(ask(tmp_path, small))
    np.testing.assert_array_equal(whole.values_tchw, part.values_tchw)
    np.testing.assert_array_equal(whole.valid_tchw, part.valid_tchw)


def test_fetch_when_scales_are_by_channel_then_each_has_its_own(tmp_path: Path) -> None:
    tile = write_tile(tmp_path, 15, 5205, scales_3d=True)
    write_registry(tmp_path, [tile])
    grid = grid_at(0.15, 52.05, 32631)
    same(provider(tmp_path).fetch(ask(tmp_path, grid)), *expected_at(grid, [tile]))


def test_fetch_when_bands_are_chosen_then_those_in_their_order(tmp_path: Path) -> None:
    write_registry(tmp_path, [write_tile(tmp_path, 15, 5205)])
    grid, source = grid_at(0.15, 52.05, 32631), provider(tmp_path)
    every = source.fetch(ask(tmp_path, grid))
    some = source.fetch(ask(tmp_path, grid, bands=("T100", "T002")))
    np.testing.assert_array_equal(some.values_tchw, every.values_tchw[:, [100, 2]])


def test_fetch_when_there_is_water_then_it_is_masked_unless_zeros_count(tmp_path: Path) -> None:
    tile = write_tile(tmp_path, 15, 5205, water=True)
    write_registry(tmp_path, [tile])
    grid = grid_at(0.15, 52.065, 32631, side=20)
    source = provider(tmp_path)
    masked, zeros = source.fetch(ask(tmp_path, grid)), source.fetch(ask(tmp_path, grid, zeros=True))
    values, valid = expected_at(grid, [tile])
    assert 0.1 < valid.mean() < 0.9
    same(masked, values, valid)
    assert zeros.valid_tchw.all()
    np.testing.assert_array_equal(zeros.values_tchw[0], values)


def test_fetch_when_zeros_count_then_the_last_tile_lies_on_top_and_holes_are_zero(tmp_path: Path) -> None:
    west = write_tile(tmp_path, 15, 5205, aligned=True)
    north_east = write_tile(tmp_path, 25, 5215, aligned=True)
    write_registry(tmp_path, [west, north_east])
    left = np.floor(west.left / 200) * 200
    grid = Grid(32631, left + 4000, np.ceil(north_east.top / 200) * 200 - 9000, 200.0, 20, 40)
    patch = provider(tmp_path).fetch(ask(tmp_path, grid, zeros=True))
    height, width = round((north_east.top - (west.top - west.land.shape[0] * 200)) / 200), 200
    canvas = np.zeros((128, height, width), np.float32)
    for tile in (west, north_east):
        row, col = round((north_east.top - tile.top) / 200), round((tile.left - west.left) / 200)
        canvas[:, row : row + tile.land.shape[0], col : col + tile.land.shape[1]] = tile.values.transpose(2, 0, 1)
    row, col = round((north_east.top - grid.y_max) / 200), round((grid.x_min - west.left) / 200)
    np.testing.assert_array_equal(patch.values_tchw[0], canvas[:, row : row + 20, col : col + 40])
    assert patch.valid_tchw.all()


def test_fetch_when_no_tile_is_registered_then_an_empty_frame(tmp_path: Path) -> None:
    write_registry(tmp_path, [write_tile(tmp_path, 15, 5205)])
    source = provider(tmp_path)
    elsewhere = source.fetch(ask(tmp_path, grid_at(10.0, 30.0, 32632)))
    other_year = source.fetch(
        ask(tmp_path, grid_at(0.15, 52.05, 32631), window=Window(dt.date(2019, 1, 1), dt.date(2020, 1, 1)))
    )
    for patch in (elsewhere, other_year):
        assert patch.frames[0].n_images == 0
        assert patch.is_empty


def test_fetch_when_a_mirror_serves_tiles_then_they_are_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    tile = write_tile(tmp_path / "served", 15, 5205)
    write_registry(tmp_path / "served", [tile])
    grid = grid_at(0.15, 52.05, 32631)
    with file_server(tmp_path / "served") as server:
        server.script[f"{TILES}/2021/{tile.name}/{tile.name}.npy"] += [("cut", 1000)]
        first = provider(tmp_path, offline=False).fetch(ask(server.url, grid))
        same(first, *expected_at(grid, [tile]))
        assert first.provenance["requests"] == len(server.log) == 6  # one of them for the rest of the tile
        again = provider(tmp_path, offline=False).fetch(ask(server.url, grid))
    assert again.provenance["requests"] == 0
    np.testing.assert_array_equal(again.values_tchw, first.values_tchw)
    offline = provider(tmp_path).fetch(ask(server.url, grid))
    np.testing.assert_array_equal(offline.values_tchw, first.values_tchw)


@pytest.mark.parametrize("lacking", ["tile", "scales", "mask"])
def test_fetch_when_the_server_lacks_what_is_registered_then_a_known_gap(tmp_path: Path, lacking: str) -> None:
    tile = write_tile(tmp_path, 15, 5205)
    write_registry(tmp_path, [tile])
    folder = tmp_path / TILES / "2021" / tile.name
    {
        "tile": folder / f"{tile.name}.npy",
        "scales": folder / f"{tile.name}_scales.npy",
        "mask": tmp_path / MASKS / f"{tile.name}.tiff",
    }[lacking].unlink()
    with file_server(tmp_path) as server, pytest.raises(CollectionGapError, match=r"grid_0\.15_52\.05.*404"):
        provider(tmp_path, offline=False).fetch(ask(server.url, grid_at(0.15, 52.05, 32631)))


def test_fetch_when_a_tile_is_not_what_was_registered_then_it_is_refused(tmp_path: Path) -> None:
    tile = write_tile(tmp_path, 15, 5205)
    write_registry(tmp_path, [tile])
    path = tmp_path / TILES / "2021" / tile.name / f"{tile.name}.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with file_server(tmp_path) as server, pytest.raises(ProviderError, match="sha256"):
        provider(tmp_path, offline=False).fetch(ask(server.url, grid_at(0.15, 52.05, 32631)))


@pytest.mark.parametrize("harm", ["cut", "other shape", "other numbers"])
def test_fetch_when_a_kept_file_is_damaged_then_it_says_which(tmp_path: Path, harm: str) -> None:
    tile = write_tile(tmp_path, 15, 5205)
    write_registry(tmp_path, [tile])
    path = tmp_path / TILES / "2021" / tile.name / f"{tile.name}.npy"
    stored = np.load(path)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:5000])
    else:
        np.save(path, stored[:-1] if harm == "other shape" else stored.astype(np.float32))
    with pytest.raises(ProviderError, match=r"grid_0\.15_52\.05\.npy.*remove"):
        provider(tmp_path).fetch(ask(tmp_path, grid_at(0.15, 52.05, 32631)))


def test_fetch_when_the_registry_is_none_then_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "registry.parquet").write_bytes(b"nothing")
    with pytest.raises(ProviderError, match="no registry"):
        provider(tmp_path).fetch(ask(tmp_path, grid_at(0.15, 52.05, 32631)))


def test_check_when_a_band_or_folder_is_not_there_then_it_says_so(tmp_path: Path) -> None:
    request = ask(tmp_path, grid_at(0.15, 52.05, 32631))
    source = provider(tmp_path)
    assert isinstance(source, ProviderBase)
    source.check(request.recipe, BANDS)
    with pytest.raises(ProviderError, match="T000 to T127"):
        source.check(request.recipe, ("T128",))
    with pytest.raises(ProviderError, match="no folder"):
        source.check(ask(tmp_path / "none", request.grid).recipe, BANDS)
    with pytest.raises(ProviderError, match="none of the published"):
        source.check(replace(request.recipe, collection="OTHER"), BANDS)


def test_cells_when_a_grid_crosses_the_antimeridian_then_both_sides_are_named() -> None:
    cells = cells_touched(grid_at(180.0, 65.02, 32660))
    assert set(cells) == {TileCell(6505, 17995), TileCell(6505, -17995)}
    assert TileCell(6505, -17995).name == "grid_-179.95_65.05"
