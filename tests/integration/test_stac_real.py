"""Patches of real imagery against a computation with rasterio and numpy written here, apart from the providers."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import CloudPolicy, FetchRecipe, FetchRequest, Grid
from rsembed.core.patch import Patch
from rsembed.core.specs import Window
from rsembed.providers.collections import grid_rule
from rsembed.providers.raster import RasterProvider
from rsembed.providers.stac import StacProvider
from rsembed.testing.file_server import serving
from rsembed.testing.stac_server import StacServer
from rsembed.tools.spatial import snapped_grids

S2, TOA, GRD = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED", "COPERNICUS/S1_GRD"
ALL_SCENES = CloudPolicy("none", None, None)
Floats = NDArray[np.float64]


def window(start: str, end: str) -> Window:
    return Window(dt.date.fromisoformat(start), dt.date.fromisoformat(end))


def grid_at(lon: float, lat: float, pixels: int, scale_m: float, collection: str = S2) -> Grid:
    return snapped_grids(np.array([lon]), np.array([lat]), pixels, pixels, scale_m, rule=grid_rule(collection))[0]


@pytest.fixture(scope="module")
def stac(real_data: Path) -> Iterator[StacProvider]:
    provider = StacProvider(real_data)
    yield provider
    provider.close()


def fetch(provider: StacProvider, on: Grid, bands: str, bins: Sequence[Window], **recipe: Any) -> Patch:
    full = FetchRecipe(recipe.pop("collection", S2), on.scale_m, **recipe)
    provider.check(full, bands.split())
    return provider.fetch(FetchRequest(full, tuple(bands.split()), on, tuple(bins)))


def on_grid(path: Path, values: Floats | None, grid: Grid, how: Resampling) -> Floats:
    """``values`` of the raster at ``path`` (NaN: none; default: as stored, 0 means none) on ``grid``."""
    with rasterio.open(path) as raster:
        profile = {"crs": raster.crs, "transform": raster.transform, "height": raster.height, "width": raster.width}
        if values is None:
            values = raster.read(1).astype(float)
            values[values == 0] = np.nan
    with MemoryFile() as memory:
        with memory.open(driver="GTiff", count=1, dtype="float64", nodata=np.nan, **profile) as target:
            target.write(values, 1)
        # A tiny tolerance: GDAL otherwise approximates the projection to an eighth of a pixel.
        place = {"transform": rasterio.Affine(*grid.transform), "height": grid.height, "width": grid.width}
        options = {"crs": f"EPSG:{grid.epsg}", "resampling": how, "tolerance": 1e-6}
        with memory.open() as source, WarpedVRT(source, **options, **place) as warped:
            return np.asarray(warped.read(1), float)


def masked(folder: Path, band: str, offset: float = 0.0) -> Floats:
    """Harmonised numbers of ``band`` on its own pixels, NaN where the classification is not clear."""
    with rasterio.open(folder / f"{band}.tif") as raster, rasterio.open(folder / "SCL.tif") as classes:
        stored, scl = raster.read(1).astype(float), classes.read(1)
    values = np.where(stored == 0, np.nan, np.maximum(stored + offset, 0))
    if scl.shape[0] <= stored.shape[0]:
        repeat = stored.shape[0] // scl.shape[0]
        scl = scl.repeat(repeat, 0).repeat(repeat, 1)
    else:
        step = scl.shape[0] // stored.shape[0]
        scl = scl[step // 2 :: step, step // 2 :: step]
    return np.where(np.isin(scl, (0, 1, 3, 8, 9, 10)), np.nan, values)


def nanmedian(stack: Sequence[Floats]) -> Floats:
    ordered = np.ma.median(np.ma.masked_invalid(np.stack(stack)), axis=0)
    return np.asarray(np.ma.filled(ordered, np.nan))


def assert_equal(patch: Patch, band: int, expected: Floats, frame: int = 0) -> None:
    np.testing.assert_array_equal(patch.valid_tchw[frame, band], np.isfinite(expected))
    np.testing.assert_allclose(patch.values_tchw[frame, band], np.nan_to_num(expected), rtol=2e-6, atol=1e-4)


# Boadella: 10, 20 and 60 m bands, twelve dates, no classification.

BOADELLA = (2.815, 42.345)
ALL_YEARS = [window("2020-01-01", "2023-01-01")]


@pytest.mark.parametrize("scale_m", [10.0, 20.0, 30.0, 60.0])
@pytest.mark.parametrize("band", ["B2", "B11", "B1"])
def test_boadella_when_any_scale_then_equals_direct_median(
    stac: StacProvider, real_data: Path, scale_m: float, band: str
) -> None:
    grid = grid_at(*BOADELLA, 32, scale_m)
    patch = fetch(stac, grid, band, ALL_YEARS, clouds=ALL_SCENES)
    native = {"B2": 10, "B11": 20, "B1": 60}[band]
    how = Resampling.average if scale_m > native else Resampling.nearest
    name = {"B2": "B02.tif", "B11": "B11.tif", "B1": "B01.tif"}[band]
    files = sorted((real_data / "sentinel-2-c1-l2a").glob(f"*_BOADELLA_L2A/{name}"))
    assert_equal(patch, 0, nanmedian([on_grid(f, None, grid, how) for f in files]))
    assert (patch.frames[0].n_images, patch.provenance["mask"]) == (12, "none")


def test_boadella_when_nearest_is_asked_then_never_averaged(stac: StacProvider, real_data: Path) -> None:
    grid = grid_at(*BOADELLA, 32, 30.0)
    day = [window("2021-07-21", "2021-07-22")]
    patch = fetch(stac, grid, "B4", day, resampling="nearest")
    path = real_data / "sentinel-2-c1-l2a" / "S2_T31TDG_20210721_BOADELLA_L2A" / "B04.tif"
    assert_equal(patch, 0, on_grid(path, None, grid, Resampling.nearest))


def test_boadella_when_clouds_are_filtered_then_by_scene_and_recorded(stac: StacProvider) -> None:
    grid = grid_at(*BOADELLA, 16, 10.0)
    assert fetch(stac, grid, "B4", ALL_YEARS).frames[0].n_images == 10
    storm = fetch(stac, grid, "B4", [window("2020-01-22", "2020-01-25")])
    assert (storm.n_images, storm.provenance["cloud_step"]) == (1, "90")


def test_boadella_when_mosaic_then_least_cloudy_earliest_on_top(stac: StacProvider, real_data: Path) -> None:
    grid = grid_at(*BOADELLA, 16, 10.0)
    patch = fetch(stac, grid, "B4", ALL_YEARS, composite="mosaic")
    path = real_data / "sentinel-2-c1-l2a" / "S2_T31TDG_20200128_BOADELLA_L2A" / "B04.tif"
    assert_equal(patch, 0, on_grid(path, None, grid, Resampling.nearest))
    assert patch.frames[0].scene_ids == ("S2_T31TDG_20200128_BOADELLA_L2A",)


def test_boadella_when_web_mercator_then_nearest_pixel(stac: StacProvider, real_data: Path) -> None:
    lon, lat = (np.array([v]) for v in BOADELLA)
    grid = snapped_grids(lon, lat, 64, 64, 10.0, rule=grid_rule(S2), grid="web_mercator")[0]
    patch = fetch(stac, grid, "B4", [window("2021-07-21", "2021-07-22")], grid="web_mercator", resampling="nearest")
    path = real_data / "sentinel-2-c1-l2a" / "S2_T31TDG_20210721_BOADELLA_L2A" / "B04.tif"
    assert_equal(patch, 0, on_grid(path, None, grid, Resampling.nearest))


# Flanders: a classification at 20 m, three scenes a month.

FLANDERS = (3.0239, 50.816)


@pytest.mark.parametrize(("scale_m", "band"), [(10.0, "B4"), (10.0, "B11"), (20.0, "B4"), (30.0, "B4"), (40.0, "B11")])
def test_flanders_when_several_bins_then_equals_direct_masked_median(
    stac: StacProvider, real_data: Path, scale_m: float, band: str
) -> None:
    grid = grid_at(*FLANDERS, 14, scale_m)
    bins = [window("2017-09-01", "2017-12-01"), window("2017-12-01", "2018-03-01"), window("2018-03-01", "2018-09-01")]
    patch = fetch(stac, grid, band, bins)
    how = Resampling.average if scale_m > (10 if band == "B4" else 20) else Resampling.nearest
    file = band.replace("B4", "B04")
    for t, days in enumerate(bins):
        layers, dates = [], []
        for folder in sorted((real_data / "sentinel-2-c1-l2a").glob("*_FLANDERS_L2A")):
            item = json.loads((folder / f"{folder.name}.json").read_text())["properties"]
            date = dt.date.fromisoformat(item["datetime"][:10])
            if days.start <= date < days.end and item["eo:cloud_cover"] <= 60:
                layer = on_grid(folder / f"{file}.tif", masked(folder, file), grid, how)
                if np.isfinite(layer).any():
                    layers.append(layer)
                    dates.append(date)
        assert_equal(patch, 0, nanmedian(layers), t)
        frame = patch.frames[t]
        assert (frame.n_images, frame.first_date, frame.last_date) == (len(layers), min(dates), max(dates))


# Ireland: true +1000 offset, everything at 60 m, swath edge.


@pytest.mark.parametrize("scale_m", [60.0, 120.0])
def test_ireland_when_offset_and_classes_then_equals_direct(
    stac: StacProvider, real_data: Path, scale_m: float
) -> None:
    grid = grid_at(-8.2, 52.42, 128, scale_m)
    patch = fetch(stac, grid, "B4 B1", [window("2022-10-01", "2022-11-01")])
    folder = real_data / "sentinel-2-c1-l2a" / "S2A_T29UNU_20221005T115407_L2A"
    how = Resampling.average if scale_m > 60 else Resampling.nearest
    for i, band in enumerate(("B04", "B01")):
        expected = on_grid(folder / f"{band}.tif", masked(folder, band, -1000.0), grid, how)
        assert np.isfinite(expected).any()
        assert not np.isfinite(expected).all()
        assert_equal(patch, i, expected)
    assert patch.provenance["units"] == {"DN x 1 + -1000 (offset of the asset)": 1}


def test_ireland_when_it_has_no_b8_then_error_names_it(stac: StacProvider) -> None:
    with pytest.raises(ProviderError, match=r"COPERNICUS/S2_SR_HARMONIZED .* has B8"):
        fetch(stac, grid_at(-8.4, 52.42, 16, 60.0), "B4 B8", [window("2022-10-01", "2022-11-01")])


# The five places: grids off the lattice, both hemispheres.

# Canada lies on the border of two zones: its imagery is in the neighbour of its grid's zone.
PLACES = ("282D_485L_3_3", "38D_378R_2_3", "609U_541L_3_0", "637U_59R_1_3", "433D_629L_3_1")


@pytest.mark.parametrize("cell", PLACES)
@pytest.mark.parametrize("scale_m", [10.0, 20.0])
def test_places_when_off_the_lattice_then_equals_direct(
    stac: StacProvider, real_data: Path, cell: str, scale_m: float
) -> None:
    folder = real_data / "sentinel-2-c1-l2a" / f"S2_{cell}_L2A"
    item = json.loads((folder / f"{folder.name}.json").read_text())
    centre, day = item["properties"]["proj:centroid"], dt.date.fromisoformat(item["properties"]["datetime"][:10])
    offset = round(item["assets"]["red"]["raster:bands"][0]["offset"] * 10_000)
    assert offset == (-1000 if cell == "433D_629L_3_1" else 0)
    grid = grid_at(centre["lon"], centre["lat"], 64, scale_m)
    patch = fetch(stac, grid, "B4 B9", [Window(day, day + dt.timedelta(days=1))])
    how = Resampling.average if scale_m > 10 else Resampling.nearest
    for i, band in enumerate(("B04", "B09")):
        with rasterio.open(folder / f"{band}.tif") as raster:
            stored = raster.read(1).astype(float)
        values = np.where(stored == 0, np.nan, np.maximum(stored + offset, 0))
        assert_equal(patch, i, on_grid(folder / f"{band}.tif", values, grid, how))


# Two tiles: one datatake a day, an offset that is declared but already applied.


def test_two_tiles_when_on_their_border_then_one_image_a_day(stac: StacProvider, real_data: Path) -> None:
    grid = grid_at(15.55, 46.008, 128, 120.0)
    days = [window("2023-08-15", "2023-08-16")]
    patch = fetch(stac, grid, "B4", days)
    root = real_data / "sentinel-2-l2a"
    north, south = (
        on_grid(root / name / "B04.tif", masked(root / name, "B04"), grid, Resampling.nearest)
        for name in ("S2A_33TWM_20230815_0_L2A", "S2A_33TWL_20230815_0_L2A")
    )
    assert np.isfinite(north).any()
    assert np.isfinite(south).any()
    assert not np.isfinite(north).all()
    # Equal baselines: the smaller id, 33TWL, shows where both are valid.
    assert_equal(patch, 0, np.where(np.isfinite(south), south, north))
    assert patch.frames[0].n_images == 1
    assert patch.frames[0].scene_ids == ("S2A_33TWL_20230815_0_L2A", "S2A_33TWM_20230815_0_L2A")
    assert patch.provenance["units"] == {"DN x 1 + 0 (offset already in the numbers)": 2}
    assert float(patch.values_tchw[patch.valid_tchw].min()) > 0


def test_two_tiles_when_all_dates_then_median_over_datatakes(stac: StacProvider, real_data: Path) -> None:
    grid = grid_at(15.55, 46.008, 64, 120.0)
    patch = fetch(stac, grid, "B8", [window("2023-08-01", "2023-09-01")], clouds=CloudPolicy("scl", None, None))
    root = real_data / "sentinel-2-l2a"
    merged = []
    for name in ("S2B_33TW{}_20230810_0_L2A", "S2A_33TW{}_20230815_0_L2A", "S2A_33TW{}_20230818_0_L2A"):
        south, north = (
            on_grid(root / name.format(t) / "B08.tif", masked(root / name.format(t), "B08"), grid, Resampling.nearest)
            for t in "LM"
        )
        merged.append(np.where(np.isfinite(south), south, north))
    assert_equal(patch, 0, nanmedian(merged))
    assert patch.frames[0].n_images == 3


# L1C, a geographic raster, radar.


def test_l1c_when_new_zealand_then_equals_direct_and_has_cirrus(stac: StacProvider, real_data: Path) -> None:
    folder = real_data / "sentinel-2-l1c" / "S2_T60HWB_20201002T221611_L1C"
    centre = json.loads((folder / f"{folder.name}.json").read_text())["properties"]["proj:centroid"]
    grid = grid_at(centre["lon"], centre["lat"], 64, 10.0, TOA)
    patch = fetch(stac, grid, "B4 B10", [window("2020-10-01", "2020-11-01")], collection=TOA)
    for i, band in enumerate(("B04", "B10")):
        assert_equal(patch, i, on_grid(folder / f"{band}.tif", None, grid, Resampling.nearest))
    assert patch.frames[0].date == dt.date(2020, 10, 2)


@pytest.mark.parametrize("scale_m", [10.0, 30.0])
def test_geographic_when_asked_by_its_id_then_equals_direct(
    stac: StacProvider, real_data: Path, scale_m: float
) -> None:
    grid = grid_at(*BOADELLA, 64, scale_m)
    bins = [window("2021-07-01", "2021-08-01")]
    patch = fetch(stac, grid, "red nir", bins, collection="sentinel-2-geographic")
    folder = real_data / "sentinel-2-geographic" / "S2_20210721_BOADELLA_EPSG4326"
    how = Resampling.average if scale_m > 10 else Resampling.nearest
    for i, band in enumerate(("B04", "B08")):
        assert_equal(patch, i, on_grid(folder / f"{band}.tif", None, grid, how))


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("scale_m", [20.0, 40.0])
def test_grd_when_averaged_then_in_linear_power(
    stac: StacProvider, real_data: Path, scale_m: float, *, linear: bool
) -> None:
    collection = "COPERNICUS/S1_GRD_FLOAT" if linear else GRD
    grid = grid_at(*FLANDERS, 12, scale_m, collection)
    patch = fetch(stac, grid, "VV VH", [window("2017-09-01", "2018-09-01")], collection=collection, orbit="most_images")
    for i, band in enumerate(("VV", "VH")):
        layers = []
        for path in sorted((real_data / "sentinel-1-grd").glob(f"*/{band}.tif")):
            with rasterio.open(path) as raster:
                decibel = raster.read(1).astype(float)
            power = on_grid(path, 10 ** (decibel / 10), grid, Resampling.average)
            layers.append(power if linear else 10 * np.log10(power))
        expected = nanmedian(layers)
        np.testing.assert_array_equal(patch.valid_tchw[0, i], np.isfinite(expected))
        np.testing.assert_allclose(patch.values_tchw[0, i], np.nan_to_num(expected), rtol=1e-5)
    assert (patch.frames[0].n_images, patch.provenance["orbit"]) == (24, "ASCENDING")


def test_rtc_when_asked_by_name_then_served_and_grd_never_falls_back_on_it(stac: StacProvider, real_data: Path) -> None:
    grid, bins = grid_at(34.066, -3.4014, 64, 10.0, "sentinel-1-rtc"), [window("2023-01-01", "2024-01-01")]
    with pytest.warns(UserWarning, match="gamma0.*in place of the sigma0"):
        patch = fetch(stac, grid, "VV", bins, collection="sentinel-1-rtc")
    assert "gamma0" in str(patch.provenance["substitute"])
    path = real_data / "sentinel-1-rtc" / "S1_38D_378R_2_3_RTC" / "VV.tif"
    with rasterio.open(path) as raster:
        decibel = raster.read(1).astype(float)
    assert_equal(patch, 0, on_grid(path, decibel, grid, Resampling.nearest))
    assert fetch(stac, grid, "VV", bins, collection=GRD).is_empty


def test_grid_rules_when_compared_with_real_transforms_then_they_lie_on_them(real_data: Path) -> None:
    for pattern, collection in (("sentinel-2-c1-l2a/*_L2A/B1*.tif", S2), ("sentinel-1-grd/*/VV.tif", GRD)):
        for path in real_data.glob(pattern):
            with rasterio.open(path) as raster:
                left, top = raster.transform.c, raster.transform.f
            if left == round(left):  # the five places lie on a grid of their own
                rule = grid_rule(collection)
                assert (left - rule.origin_m) % rule.step_m == 0
                assert (top - rule.origin_m) % rule.step_m == 0


def test_check_when_catalogue_lacks_the_collection_then_lists_what_it_has(stac: StacProvider) -> None:
    with pytest.raises(ProviderError, match=r"no LANDSAT/LC08/C02/T1_L2.*sentinel-1-grd, sentinel-1-rtc"):
        stac.check(FetchRecipe("LANDSAT/LC08/C02/T1_L2", 30.0), ("SR_B4",))


def test_raster_when_given_the_files_of_a_scene_then_same_patch_as_stac(stac: StacProvider, real_data: Path) -> None:
    grid, bins = grid_at(*FLANDERS, 16, 20.0), (window("2018-05-01", "2018-06-01"),)
    request = FetchRequest(FetchRecipe(S2, 20.0, clouds=CloudPolicy("scl", None, None)), ("B4", "B8A"), grid, bins)
    folders = sorted((real_data / "sentinel-2-c1-l2a").glob("*_201805*_FLANDERS_L2A"))
    raster = RasterProvider(folders, collection=S2, scale=0.0001)
    mine, theirs = raster.fetch(request), stac.fetch(request)
    np.testing.assert_array_equal(mine.values_tchw, theirs.values_tchw)
    np.testing.assert_array_equal(mine.valid_tchw, theirs.valid_tchw)
    assert mine.frames[0].date == theirs.frames[0].date


# A STAC API, served here.


@pytest.fixture
def api(real_data: Path) -> Iterator[StacServer]:
    items = []
    for path in sorted(real_data.glob("*/*/*.json")):
        item = json.loads(path.read_text())
        for asset in item["assets"].values():
            asset["href"] = (path.parent / asset["href"]).resolve().as_uri()
        items.append({**item, "links": []})
    server = StacServer(real_data, items)
    yield server
    server.close()


def test_api_when_many_rows_of_a_tile_then_one_search_and_same_patches(stac: StacProvider, api: StacServer) -> None:
    provider = StacProvider(api.url)
    recipe = FetchRecipe(S2, 10.0)
    provider.check(recipe, ("B4", "B8"))
    requests = 0
    for i in range(5):
        for bins in ((window("2020-01-02", "2020-02-20"),), (window("2020-01-10", "2020-03-20"),)):
            grid = grid_at(2.81 + 0.002 * i, 42.345, 32, 10.0)
            request = FetchRequest(recipe, ("B4", "B8"), grid, bins)
            mine, theirs = provider.fetch(request), stac.fetch(request)
            np.testing.assert_array_equal(mine.values_tchw, theirs.values_tchw)
            assert mine.frames == theirs.frames
            requests += int(str(mine.provenance["requests"]))
    assert len(api.searches) == requests == 1
    assert api.searches[0]["collections"] == ["sentinel-2-c1-l2a", "sentinel-2-l2a"]
    assert provider.describe() == {"backend": "stac", "catalog": api.url, "collections": None}


def test_api_when_collection_is_missing_then_lists_what_there_is(api: StacServer) -> None:
    with pytest.raises(ProviderError, match=r"no LANDSAT.*sentinel-2-l2a"):
        StacProvider(api.url).check(FetchRecipe("LANDSAT/LC08/C02/T1_L2", 30.0), ("SR_B4",))


@pytest.mark.parametrize(("status", "error_class"), [(429, "quota"), (503, "transient"), (400, "provider")])
def test_api_when_it_fails_then_class_of_the_error_follows_the_status(
    api: StacServer, status: int, error_class: str
) -> None:
    api.status = status
    request = FetchRequest(FetchRecipe(S2, 10.0), ("B4",), grid_at(*BOADELLA, 8, 10.0), tuple(ALL_YEARS))
    with pytest.raises(ProviderError) as caught:
        StacProvider(api.url).fetch(request)
    assert caught.value.error_class == error_class


def test_catalogue_when_there_is_none_then_error_names_it(tmp_path: Path) -> None:
    provider = StacProvider(tmp_path / "catalog.json")
    with pytest.raises(ProviderError, match=r"catalog\.json"):
        provider.check(FetchRecipe(S2, 10.0), ("B4",))


def test_crop_when_every_route_is_taken_then_smaller_grid_is_the_centre_of_the_larger(stac: StacProvider) -> None:
    for collection, place, scale_m, bands, days in (
        (S2, BOADELLA, 30.0, ("B2", "B11", "B1"), ALL_YEARS[0]),
        (S2, FLANDERS, 20.0, ("B4",), window("2018-01-01", "2019-01-01")),
        (GRD, FLANDERS, 40.0, ("VV",), window("2017-09-01", "2018-09-01")),
        ("sentinel-2-geographic", BOADELLA, 30.0, ("B4",), window("2021-01-01", "2022-01-01")),
    ):
        large = grid_at(*place, 14, scale_m, collection)
        request = FetchRequest(FetchRecipe(collection, scale_m), bands, large, (days,))
        small = large.centre_crop(6, 6)
        cropped, direct = stac.fetch(request).crop(small), stac.fetch(replace(request, grid=small))
        np.testing.assert_array_equal(direct.values_tchw, cropped.values_tchw)
        np.testing.assert_array_equal(direct.valid_tchw, cropped.valid_tchw)


def test_http_when_real_files_are_served_then_same_patches_as_from_disk(stac: StacProvider, real_data: Path) -> None:
    with serving(real_data) as server:
        served = StacProvider(f"{server.url}/catalog.json")
        for collection, place, scale_m, bands, days in (
            (S2, BOADELLA, 10.0, ("B2", "B11", "B1"), ALL_YEARS[0]),
            (S2, FLANDERS, 30.0, ("B4",), window("2018-01-01", "2018-07-01")),
            (S2, (-8.2, 52.42), 60.0, ("B4",), window("2022-10-01", "2022-11-01")),
            (S2, (15.55, 46.008), 120.0, ("B8",), window("2023-08-01", "2023-09-01")),
            (GRD, FLANDERS, 40.0, ("VV", "VH"), window("2017-09-01", "2018-03-01")),
            ("sentinel-2-geographic", BOADELLA, 30.0, ("B4",), window("2021-01-01", "2022-01-01")),
        ):
            grid = grid_at(*place, 24, scale_m, collection)
            request = FetchRequest(FetchRecipe(collection, scale_m), bands, grid, (days,))
            mine, theirs = served.fetch(request), stac.fetch(request)
            assert mine.valid_tchw.any()
            np.testing.assert_array_equal(mine.values_tchw, theirs.values_tchw)
            np.testing.assert_array_equal(mine.valid_tchw, theirs.valid_tchw)
            assert mine.frames == theirs.frames
            assert mine.provenance["units"] == theirs.provenance["units"]
        served.close()
