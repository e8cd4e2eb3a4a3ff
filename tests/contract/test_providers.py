"""What every provider that reads files must do; run over each of them on a generated, synthetic catalogue."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import CloudPolicy, FetchRecipe, FetchRequest, Grid
from rsembed.core.patch import Patch
from rsembed.core.specs import Window
from rsembed.providers.base import ProviderBase
from rsembed.providers.gee import GeeProvider
from rsembed.providers.raster import RasterArray, RasterProvider
from rsembed.providers.stac import StacProvider
from rsembed.testing.earth_engine import LocalEarthEngine
from rsembed.testing.scene import write_synthetic_catalog
from rsembed.tools.spatial import from_lonlat, to_lonlat

S2 = "COPERNICUS/S2_SR_HARMONIZED"
YEAR = Window(dt.date(2022, 1, 1), dt.date(2023, 1, 1))
GRID = Grid(32631, 480_400.0, 4_699_600.0, 10.0, 64, 64)
RECIPE = FetchRecipe(S2, 10.0)
BANDS = ("B8", "B2", "B11")


@dataclass(frozen=True)
class Case:
    """A provider, and whether its source has dates, a classification, names of scenes, and is asked over HTTP."""

    provider: ProviderBase
    has_dates: bool = True
    has_classes: bool = True
    names_scenes: bool = True
    requests: int = 0
    lacks: str = "COPERNICUS/S1_GRD"


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_catalog(tmp_path_factory.mktemp("synthetic"), size_px=256)


@pytest.fixture(scope="module")
def earth_engine(catalog: Path) -> Iterator[str]:
    """The same catalogue as the local Earth Engine serves it."""
    pytest.importorskip("ee")
    with LocalEarthEngine(catalog=catalog) as server:
        yield server.url


@pytest.fixture(params=["stac", "raster-folder", "raster-array", "gee"])
def case(request: pytest.FixtureRequest, catalog: Path) -> Iterator[Case]:
    scenes = sorted(catalog.parent.glob("*/SYNTHETIC_*"))
    if request.param == "stac":
        made = Case(StacProvider(catalog))
    elif request.param == "gee":
        url = request.getfixturevalue("earth_engine")
        made = Case(GeeProvider("local-test", url), names_scenes=False, requests=1, lacks="sentinel-1-grd")
    elif request.param == "raster-folder":
        # The last date carries the +1000 offset: declared by the catalogue, here left out.
        files = [f for scene in scenes[:-1] for f in sorted(scene.glob("*.tif"))]
        times = [f"{f.parent.name[10:14]}-{f.parent.name[14:16]}-{f.parent.name[16:18]}" for f in files]
        made = Case(RasterProvider(files, collection=S2, scale=0.0001, datetime=times))
    else:
        arrays = []
        for name in BANDS:
            with rasterio.open(scenes[0] / f"{name.replace('B8', 'B08').replace('B2', 'B02')}.tif") as raster:
                pixels = raster.read(1)
            arrays.append(pixels.repeat(256 // len(pixels), 0).repeat(256 // len(pixels), 1))
        array = RasterArray(np.stack(arrays), "EPSG:32631", (10.0, 0, 480_000.0, 0, -10.0, 4_700_000.0), nodata=0)
        provider = RasterProvider(array, collection=S2, bands=BANDS, scale=0.0001)
        made = Case(provider, has_dates=False, has_classes=False)
    yield made
    made.provider.close()


def ask(recipe: FetchRecipe = RECIPE, *, grid: Grid = GRID, bins: tuple[Window, ...] = (YEAR,)) -> FetchRequest:
    return FetchRequest(recipe, BANDS, replace(grid, scale_m=recipe.scale_m), bins)


def same(a: Patch, b: Patch) -> None:
    np.testing.assert_array_equal(a.values_tchw, b.values_tchw)
    np.testing.assert_array_equal(a.valid_tchw, b.valid_tchw)


def test_provider_when_made_then_keeps_the_protocol(case: Case) -> None:
    assert isinstance(case.provider, ProviderBase)
    assert case.provider.describe()["backend"] == case.provider.name


def test_fetch_when_asked_then_shape_types_and_zeros_where_not_valid(case: Case) -> None:
    patch = case.provider.fetch(ask())
    assert patch.values_tchw.shape == (1, 3, 64, 64)
    assert (patch.values_tchw.dtype, patch.valid_tchw.dtype) == (np.float32, np.bool_)
    assert (patch.bands, patch.grid) == (BANDS, GRID)
    assert patch.valid_tchw.mean() > 0.9
    assert not patch.values_tchw[~patch.valid_tchw].any()
    assert patch.provenance["requests"] == case.requests


def test_fetch_when_sentinel_2_then_digital_numbers(case: Case) -> None:
    patch = case.provider.fetch(ask())
    assert 100 < float(patch.values_tchw[patch.valid_tchw].mean()) < 5000


def test_fetch_when_bands_are_in_another_order_then_so_is_the_patch(case: Case) -> None:
    patch = case.provider.fetch(ask())
    other = case.provider.fetch(replace(ask(), bands=("swir_1", "NIR", "blue")))
    assert other.bands == ("swir_1", "NIR", "blue")
    np.testing.assert_array_equal(other.values_tchw, patch.values_tchw[:, [2, 0, 1]])


@pytest.mark.parametrize("scale_m", [10.0, 20.0, 30.0, 60.0, 5.0])
@pytest.mark.parametrize("composite", ["median", "mosaic"])
def test_fetch_when_grid_is_smaller_then_central_crop_to_the_bit(case: Case, scale_m: float, composite: str) -> None:
    recipe = replace(RECIPE, scale_m=scale_m, composite=composite)  # type: ignore[arg-type]  # parametrised
    large = Grid(32631, 480_300.0, 4_699_800.0, scale_m, 32, 32)
    small = large.centre_crop(12, 12)
    same(case.provider.fetch(ask(recipe, grid=small)), case.provider.fetch(ask(recipe, grid=large)).crop(small))


def test_fetch_when_grid_is_in_another_zone_then_crop_still_to_the_bit(case: Case) -> None:
    x, y = from_lonlat(32632, *to_lonlat(32631, np.array([481_280.0]), np.array([4_698_720.0])))
    for scale_m in (10.0, 20.0):
        recipe = replace(RECIPE, scale_m=scale_m)
        left, top = round(x[0] / 20) * 20 - 24 * scale_m, round(y[0] / 20) * 20 + 24 * scale_m
        large = Grid(32632, left, top, scale_m, 48, 48)
        found = case.provider.fetch(ask(recipe, grid=large))
        assert found.valid_tchw.any()
        small = large.centre_crop(20, 20)
        same(case.provider.fetch(ask(recipe, grid=small)), found.crop(small))


def test_fetch_when_window_holds_nothing_then_empty_frame_and_no_error(case: Case) -> None:
    if not case.has_dates:
        pytest.skip("rasters without dates serve any window")
    before = Window(dt.date(2001, 1, 1), dt.date(2002, 1, 1))
    patch = case.provider.fetch(ask(bins=(before, YEAR)))
    assert [frame.n_images > 0 for frame in patch.frames] == [False, True]
    assert patch.frames[0].date is None
    assert not patch.valid_tchw[0].any()


def test_fetch_when_place_is_elsewhere_then_empty_frame_and_no_error(case: Case) -> None:
    patch = case.provider.fetch(ask(grid=replace(GRID, y_max=5_500_000.0)))
    assert patch.is_empty
    assert patch.n_images == 0


def test_fetch_when_partly_beyond_the_imagery_then_rest_is_not_valid(case: Case) -> None:
    patch = case.provider.fetch(ask(grid=replace(GRID, x_min=479_680.0)))
    assert not patch.valid_tchw[..., :32].any()
    assert patch.valid_tchw[..., 32:].mean() > 0.9


def test_fetch_when_scenes_are_cloudy_then_mask_drops_pixels(case: Case) -> None:
    if not case.has_classes:
        pytest.skip("no scene classification")
    day = Window(dt.date(2022, 6, 1), dt.date(2022, 7, 1))
    whole = Grid(32631, 480_000.0, 4_700_000.0, 10.0, 256, 256)
    masked = case.provider.fetch(ask(grid=whole, bins=(day,)))
    unmasked = case.provider.fetch(ask(replace(RECIPE, clouds=CloudPolicy("none")), grid=whole, bins=(day,)))
    assert unmasked.valid_tchw.all()
    assert 0.4 < masked.valid_tchw.mean() < 0.95
    assert (masked.provenance["mask"], unmasked.provenance["mask"]) == ("scl", "none")


def test_fetch_when_frames_are_dated_then_by_the_recipe(case: Case) -> None:
    frame = case.provider.fetch(ask(replace(RECIPE, frame_date="midpoint"))).frames[0]
    assert frame.date == YEAR.midpoint
    if case.has_dates:
        by_images = case.provider.fetch(ask()).frames[0]
        assert by_images.first_date is not None
        assert by_images.last_date is not None
        assert by_images.date is not None
        assert by_images.first_date <= by_images.date <= by_images.last_date
        assert by_images.n_images == (len(by_images.scene_ids) if case.names_scenes else 5)


def test_fetch_when_eight_threads_ask_then_same_answers(case: Case) -> None:
    requests = [ask(grid=replace(GRID, x_min=480_000.0 + 20 * i)) for i in range(12 if case.requests else 48)]
    alone = [case.provider.fetch(r) for r in requests]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(case.provider.fetch, requests))
    for a, b in zip(alone, together, strict=True):
        same(a, b)


def test_check_when_band_is_unknown_then_names_the_known_ones(case: Case) -> None:
    case.provider.check(RECIPE, BANDS)
    with pytest.raises(ProviderError, match=r"no band B77.*B2"):
        case.provider.check(RECIPE, ("B2", "B77"))


def test_check_when_collection_is_another_then_says_what_there_is(case: Case) -> None:
    with pytest.raises(
        ProviderError, match=r"it has sentinel-2-c1-l2a|declared as COPERNICUS/S2_SR_HARMONIZED|it knows"
    ):
        case.provider.check(replace(RECIPE, collection=case.lacks), ("VV",))


# What only one of them does.


def test_stac_when_moved_then_same_description(catalog: Path, tmp_path: Path) -> None:
    moved = write_synthetic_catalog(tmp_path / "elsewhere", size_px=256)
    assert StacProvider(moved.parent).describe() == StacProvider(catalog).describe()


def test_stac_when_offset_is_declared_then_taken_off(catalog: Path) -> None:
    last = Window(dt.date(2022, 9, 1), dt.date(2022, 10, 1))
    patch = StacProvider(catalog).fetch(ask(bins=(last,)))
    with rasterio.open(next(catalog.parent.glob("*/SYNTHETIC_20220916_L2A")) / "B02.tif") as raster:
        stored = raster.read(1)[40:104, 40:104].astype(float)
    valid = patch.valid_tchw[0, 1]
    np.testing.assert_array_equal(patch.values_tchw[0, 1][valid], np.maximum(stored - 1000, 0)[valid])
    assert patch.provenance["units"] == {"DN x 1 + -1000 (offset of the asset)": 1}


def test_stac_when_only_cloudy_scenes_then_filter_is_relaxed_and_recorded(catalog: Path) -> None:
    strict = replace(RECIPE, clouds=CloudPolicy("scl", scene_pct=1.0, relax_pct=90.0))
    day = Window(dt.date(2022, 6, 1), dt.date(2022, 7, 1))
    relaxed = StacProvider(catalog).fetch(ask(strict, bins=(day,)))
    assert (relaxed.n_images, relaxed.provenance["cloud_step"]) == (1, "90")
    users = replace(RECIPE, clouds=CloudPolicy("none", scene_pct=1.0, relax_pct=None))
    assert StacProvider(catalog).fetch(ask(users, bins=(day,))).is_empty


def test_stac_when_a_file_is_gone_then_error_names_it(tmp_path: Path) -> None:
    catalog = write_synthetic_catalog(tmp_path, size_px=64, dates=("2022-06-01",))
    gone = next(tmp_path.glob("*/*/B02.tif"))
    gone.unlink()
    with pytest.raises(ProviderError, match=r"B02\.tif is missing"):
        StacProvider(catalog).fetch(ask(grid=replace(GRID, x_min=480_000.0, y_max=4_700_000.0)))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"collection": ""}, "declare what the rasters hold"),
        ({"collection": S2}, "declare scale="),
        ({"collection": "COPERNICUS/S1_GRD"}, "declare unit="),
        ({"collection": "COPERNICUS/S1_GRD", "unit": "metres"}, "must be 'dB' or 'linear'"),
    ],
)
def test_raster_when_nothing_is_declared_then_says_what_to_declare(
    catalog: Path, declared: dict[str, str], message: str
) -> None:
    file = next(catalog.parent.glob("*/*/B02.tif"))
    with pytest.raises(ProviderError, match=message):
        RasterProvider(file, **declared)  # type: ignore[arg-type]  # parametrised


def test_raster_when_array_has_times_then_each_in_its_window() -> None:
    values = np.stack([np.full((1, 32, 32), v, np.float32) for v in (0.1, 0.3)])
    array = RasterArray(values, "EPSG:32631", (10.0, 0, 480_400.0, 0, -10.0, 4_699_600.0))
    provider = RasterProvider(array, collection=S2, bands=("B4",), scale=1.0, datetime=("2022-02-01", "2022-08-01"))
    halves = (Window(dt.date(2022, 1, 1), dt.date(2022, 7, 1)), Window(dt.date(2022, 7, 1), dt.date(2023, 1, 1)))
    patch = provider.fetch(FetchRequest(RECIPE, ("B4",), replace(GRID, height=32, width=32), halves))
    np.testing.assert_allclose(patch.values_tchw[:, 0, 0, 0], [1000, 3000], rtol=1e-6)
    assert [frame.date for frame in patch.frames] == [dt.date(2022, 2, 1), dt.date(2022, 8, 1)]
