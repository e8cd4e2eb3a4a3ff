"""The Earth Engine provider with the official client against the local server: equal to numpy and to STAC."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ee")

from google.oauth2.credentials import Credentials

from rsembed.api import get_embedding
from rsembed.core.errors import AuthError, QuotaError, TooComplexError, TransientProviderError
from rsembed.core.fetching import CloudPolicy, FetchRecipe, FetchRequest, Grid
from rsembed.core.patch import Patch
from rsembed.core.specs import PointBuffer, TemporalSpec, Window
from rsembed.exporting import export_batch
from rsembed.pipelines.request import ExportModelRequest, ExportTarget
from rsembed.providers.base import ProviderBase
from rsembed.providers.collections import ALPHAEARTH, collection_info
from rsembed.providers.gee import GeeProvider
from rsembed.providers.stac import StacProvider
from rsembed.testing.earth_engine import Fault, LocalEarthEngine, SyntheticBand, SyntheticImage
from rsembed.testing.scene import write_synthetic_catalog
from rsembed.tools.spatial import from_lonlat, to_lonlat
from tests.ee_world import CANVAS_PX, EPSG, LEFT, S2_BANDS, TOP, Granule, composed, days, optical, radar, write_catalog

S2, S1, S1_LINEAR = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S1_GRD", "COPERNICUS/S1_GRD_FLOAT"
YEAR = Window(dt.date(2022, 1, 1), dt.date(2023, 1, 1))
MONTHS = tuple(Window(dt.date(2022, m, 1), dt.date(2022 + m // 12, m % 12 + 1, 1)) for m in range(1, 13))
OPTICAL = [
    *(optical(f"2022-{m:02d}-07", tile, seed=m) for m in (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12) for tile in (0, 1)),
    optical("2022-06-12", 0, seed=40, satellite="B"),
    optical("2022-06-17", 1, seed=41),
    optical("2022-06-22", 0, cloud=75.0, seed=42),
    # May has none that is clear enough, and 2021 had a cloudy spring.
    optical("2021-04-03", 0, cloud=81.0, seed=43),
    optical("2021-04-08", 1, cloud=95.0, seed=44),
]
CLEAR = [granule for granule in OPTICAL if granule.earth_engine["CLOUDY_PIXEL_PERCENTAGE"] == 5.0]
RADAR = [
    *(radar(day, orbit=59, seed=i) for i, day in enumerate(("2022-03-02", "2022-03-14", "2022-03-26"))),
    *(radar(day, orbit=8, ascending=False, seed=i + 9) for i, day in enumerate(("2022-03-05", "2022-03-17"))),
    radar("2021-03-05", orbit=8, mode="EW", seed=20),
]  # fmt: skip
JUNE = MONTHS[5]
RECIPE = FetchRecipe(S2, 10.0)


@pytest.fixture(scope="module")
def stac(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StacProvider]:
    provider = StacProvider(write_catalog(tmp_path_factory.mktemp("world"), [*OPTICAL, *RADAR]))
    yield provider
    provider.close()


def power(granule: Granule) -> SyntheticImage:
    """A radar scene in linear power, as S1_GRD_FLOAT holds it."""
    image = granule.image()
    bands = {
        name: replace(band, values=(10.0 ** (band.values.astype(np.float64) / 10)).astype(np.float32))
        for name, band in image.bands.items()
    }
    return replace(image, bands=bands)


@pytest.fixture(scope="module")
def running() -> Iterator[LocalEarthEngine]:
    images = {
        S2: [granule.image() for granule in OPTICAL],
        S1: [granule.image() for granule in RADAR],
        S1_LINEAR: [power(granule) for granule in RADAR],
    }
    with LocalEarthEngine(images=images) as server:
        yield server


@pytest.fixture
def server(running: LocalEarthEngine) -> LocalEarthEngine:
    running.clear()
    return running


@pytest.fixture
def gee(server: LocalEarthEngine) -> ProviderBase:
    return GeeProvider("local-test", server.url)


def whole(scale_m: float) -> Grid:
    """The canvas at ``scale_m``."""
    height, width = (round(side * 10 / scale_m) for side in CANVAS_PX)
    return Grid(EPSG, LEFT, TOP, scale_m, height, width)


def ask(scale_m: float = 10.0, bands: tuple[str, ...] = ("B4", "B5", "B1"), **more: Any) -> FetchRequest:
    bins, grid = more.pop("bins", (JUNE,)), more.pop("grid", whole(scale_m))
    return FetchRequest(replace(RECIPE, scale_m=scale_m, **more), bands, grid, bins)


def same(found: Patch, expected: Patch) -> None:
    """Equal to the bit, frames included; scene ids are told by files only."""
    np.testing.assert_array_equal(found.valid_tchw, expected.valid_tchw)
    np.testing.assert_array_equal(found.values_tchw, expected.values_tchw)
    assert [replace(frame, scene_ids=()) for frame in expected.frames] == list(found.frames)
    for note in ("cloud_step", "iw", "orbit", *(() if found.is_empty else ("mask",))):
        assert found.provenance.get(note) == expected.provenance.get(note)


@pytest.mark.parametrize("scale_m", [10, 20, 30])
def test_fetch_when_a_single_composite_then_numpy_and_stac_and_one_request(
    gee: ProviderBase, stac: StacProvider, server: LocalEarthEngine, scale_m: int
) -> None:
    patch = gee.fetch(ask(scale_m))
    assert server.counters.pixel_requests == 1
    assert not [record for record in server.log if record.kind == "value:compute"]
    clear = [granule for granule in CLEAR if JUNE.start <= days([granule])[0] < JUNE.end]
    for c, band in enumerate(patch.bands):
        values, valid = composed(clear, band, scale_m)
        np.testing.assert_array_equal(patch.valid_tchw[0, c], valid)
        np.testing.assert_array_equal(patch.values_tchw[0, c], values)
    assert 0.5 < patch.valid_tchw.mean() < 1
    assert (patch.frames[0].n_images, patch.frames[0].date) == (3, dt.date(2022, 6, 12))
    same(patch, stac.fetch(ask(scale_m)))


@pytest.mark.parametrize("scale_m", [10, 20, 30])
def test_fetch_when_twelve_bins_of_twelve_bands_then_numpy_and_stac_in_one_request(
    gee: ProviderBase, stac: StacProvider, server: LocalEarthEngine, scale_m: int
) -> None:
    request = ask(scale_m, S2_BANDS, bins=MONTHS)
    patch = gee.fetch(request)
    assert server.counters.pixel_requests == 1
    assert [frame.n_images for frame in patch.frames] == [1, 1, 1, 1, 0, 3, 1, 1, 1, 1, 1, 1]
    assert patch.frames[4].date is None
    assert not patch.valid_tchw[4].any()
    for t, month in enumerate(MONTHS):
        mine = [granule for granule in CLEAR if month.start <= days([granule])[0] < month.end]
        for c, band in enumerate(patch.bands if mine else ()):
            np.testing.assert_array_equal(patch.values_tchw[t, c], composed(mine, band, scale_m)[0])
    same(patch, stac.fetch(request))


@pytest.mark.parametrize("scale_m", [10, 20, 30])
def test_fetch_when_a_mosaic_then_the_least_cloudy_on_top_as_on_stac(
    gee: ProviderBase, stac: StacProvider, scale_m: int
) -> None:
    request = ask(scale_m, composite="mosaic", bins=(JUNE, YEAR))
    same(gee.fetch(request), stac.fetch(request))


def test_fetch_when_the_reference_recipe_then_as_on_stac(gee: ProviderBase, stac: StacProvider) -> None:
    lon, lat = to_lonlat(EPSG, np.array([LEFT + 150]), np.array([TOP - 150]))
    x, y = from_lonlat(3857, lon, lat)
    grid = Grid(3857, round(x[0]) + 0.3, round(y[0]) + 0.3, 10.0, 24, 24)
    request = ask(
        10.0, grid=grid, clouds=CloudPolicy("none", 30.0, None), resampling="nearest", frame_date="midpoint",
        bins=(JUNE, YEAR), bands=("B4", "B8A", "B9"),
    )  # fmt: skip
    patch = gee.fetch(request)
    assert patch.valid_tchw.mean() > 0.9
    same(patch, stac.fetch(request))


def test_fetch_when_nearest_on_a_coarser_grid_then_the_pyramid_as_the_reference_reads_it(gee: ProviderBase) -> None:
    [granule] = [granule for granule in CLEAR if granule.name.endswith("EL_20220207")]
    request = ask(
        20.0, ("B4", "SCL"), clouds=CloudPolicy("none", None, None), resampling="nearest", bins=(MONTHS[1],),
        grid=Grid(EPSG, LEFT, TOP, 20.0, 12, 12),
    )  # fmt: skip
    patch = gee.fetch(request)
    blocks = granule.bands["B4"].astype(float).reshape(24, 2, 24, 2).mean((1, 3))[:12, :12]
    assert patch.valid_tchw.all()
    np.testing.assert_allclose(patch.values_tchw[0, 0], blocks, atol=1)  # stored as whole numbers
    np.testing.assert_array_equal(patch.values_tchw[0, 1], granule.bands["SCL"][:12, :12])


def test_fetch_when_the_window_is_empty_then_an_empty_frame_and_no_error(
    gee: ProviderBase, stac: StacProvider, server: LocalEarthEngine
) -> None:
    request = ask(20.0, bins=(Window(dt.date(2001, 1, 1), dt.date(2001, 3, 1)),))
    patch = gee.fetch(request)
    assert (patch.is_empty, patch.n_images, server.counters.pixel_requests) == (True, 0, 1)
    same(patch, stac.fetch(request))


def test_fetch_when_only_cloudy_scenes_then_relaxed_inside_the_one_request(
    gee: ProviderBase, stac: StacProvider, server: LocalEarthEngine
) -> None:
    early, late = Window(dt.date(2021, 4, 1), dt.date(2021, 4, 6)), Window(dt.date(2021, 4, 6), dt.date(2021, 5, 1))
    request = ask(20.0, bins=(early, late))
    patch = gee.fetch(request)
    assert (patch.provenance["cloud_step"], server.counters.pixel_requests) == ("90", 1)
    assert [frame.n_images for frame in patch.frames] == [1, 0]
    same(patch, stac.fetch(request))


def test_fetch_when_pixels_are_masked_then_told_from_zeros(running: LocalEarthEngine) -> None:
    granule = optical("2022-06-07", 0)
    image = granule.image()
    values, mask = np.zeros((48, 48), np.uint16), np.ones((48, 48), np.float32)
    mask[10:20, 10:20] = 0
    band = replace(image.bands["B4"], values=values, mask=mask)
    bands = {"B4": band, "SCL": replace(image.bands["SCL"], values=np.full((24, 24), 4, np.uint8))}
    with LocalEarthEngine(images={S2: [replace(image, bands=bands)]}) as server:
        provider = GeeProvider("local-test", server.url)
        for scale_m, composite, holes in ((10.0, "median", 100), (10.0, "mosaic", 100), (20.0, "median", 25)):
            grid = Grid(EPSG, LEFT, TOP, scale_m, round(480 / scale_m), round(480 / scale_m))
            patch = provider.fetch(ask(scale_m, ("B4",), composite=composite, grid=grid))
            assert (~patch.valid_tchw).sum() == holes
            assert patch.valid_fraction() == pytest.approx(1 - holes / grid.height**2)
            assert not patch.values_tchw.any()


@pytest.mark.parametrize("scale_m", [10, 20, 30])
def test_fetch_when_radar_then_the_pass_with_more_images_averaged_in_power(
    gee: ProviderBase, stac: StacProvider, server: LocalEarthEngine, scale_m: int
) -> None:
    grid = Grid(EPSG, LEFT, TOP, float(scale_m), 480 // scale_m, 480 // scale_m)
    march = Window(dt.date(2022, 3, 1), dt.date(2022, 4, 1))
    request = ask(scale_m, ("VV", "VH"), collection=S1, orbit="most_images", grid=grid, bins=(march,))
    patch = gee.fetch(request)
    assert (patch.provenance["orbit"], patch.frames[0].n_images) == ("ASCENDING", 3)
    assert server.counters.pixel_requests == 1
    for c, band in enumerate(patch.bands):
        values, valid = composed(RADAR[:3], band, scale_m, masked=False)
        np.testing.assert_array_equal(patch.valid_tchw[0, c], valid[:, : grid.width])
        np.testing.assert_array_equal(patch.values_tchw[0, c], values[:, : grid.width])
    same(patch, stac.fetch(request))


def test_fetch_when_radar_in_linear_power_then_the_mean_of_it(gee: ProviderBase) -> None:
    grid = Grid(EPSG, LEFT, TOP, 30.0, 16, 16)
    bins = (Window(dt.date(2022, 3, 1), dt.date(2022, 3, 3)),)
    patch = gee.fetch(ask(30.0, ("VV",), collection=S1_LINEAR, orbit="most_images", grid=grid, bins=bins))
    stored = power(RADAR[0]).bands["VV"].values.astype(np.float64)
    stored[:, :5] = np.nan
    with np.errstate(invalid="ignore"):
        expected = np.nanmean(stored.reshape(16, 3, 16, 3).transpose(0, 2, 1, 3)[:, 2:].reshape(16, 14, 9), axis=2)
    np.testing.assert_allclose(patch.values_tchw[0, 0, :, 2:], expected, rtol=1e-6)
    assert patch.valid_tchw[0, 0, :, 1:].all()
    assert not patch.valid_tchw[0, 0, :, 0].any()


@pytest.mark.parametrize(("relax", "n_images", "note"), [(True, 1, "relaxed"), (False, 0, "required")])
def test_fetch_when_radar_has_no_wide_swath_then_relaxed_where_allowed_and_recorded(
    gee: ProviderBase, stac: StacProvider, server: LocalEarthEngine, relax: bool, n_images: int, note: str
) -> None:
    bins = (Window(dt.date(2021, 3, 1), dt.date(2021, 4, 1)),)
    grid = Grid(EPSG, LEFT, TOP, 20.0, 24, 24)
    request = ask(20.0, ("VV", "VH"), collection=S1, orbit="any", grid=grid, bins=bins, s1_relax_iw_on_empty=relax)
    patch = gee.fetch(request)
    assert (patch.frames[0].n_images, patch.provenance["iw"]) == (n_images, note)
    assert server.counters.pixel_requests == 1
    same(patch, stac.fetch(request))


def test_fetch_when_above_48_megabytes_then_split_and_stitched_exactly(
    gee: ProviderBase, stac: StacProvider, server: LocalEarthEngine
) -> None:
    grid = Grid(EPSG, LEFT - 600, TOP + 600, 10.0, 256, 256)
    bins = tuple(Window(dt.date(2022, 6, d), dt.date(2022, 6, d + 2)) for d in range(1, 25, 2))
    request = ask(10.0, S2_BANDS, bins=bins, grid=grid)
    patch = gee.fetch(request)
    assert server.counters.pixel_requests == patch.provenance["requests"] == 2
    same(patch, stac.fetch(request))


def test_fetch_when_the_memory_limit_is_met_then_split_until_it_passes(
    gee: ProviderBase, server: LocalEarthEngine
) -> None:
    request = ask(10.0, bins=(JUNE, MONTHS[6]))
    expected = gee.fetch(request)
    server.behave(memory_limit_pixels=900)
    patch = gee.fetch(request)
    server.behave(memory_limit_pixels=None)
    assert patch.provenance["requests"] == 7  # 48 x 72, two halves, four quarters
    same(patch, expected)


def test_fetch_when_nothing_is_small_enough_then_too_complex(gee: ProviderBase, server: LocalEarthEngine) -> None:
    server.behave(time_limit_pixels=10)
    with pytest.raises(TooComplexError, match="ask for a shorter window or fewer bands"):
        gee.fetch(ask(20.0))
    server.behave(time_limit_pixels=None)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault(), QuotaError),
        (Fault(status=503, message="unavailable"), TransientProviderError),
        (Fault(kind="page", status=502), TransientProviderError),
        (Fault(kind="reset"), TransientProviderError),
        (Fault(kind="truncated"), TransientProviderError),
        (Fault(kind="garbage"), TransientProviderError),
    ],
)
def test_fetch_when_the_service_fails_then_classed_at_once_and_well_again(
    gee: ProviderBase, server: LocalEarthEngine, fault: Fault, expected: type[Exception]
) -> None:
    request = ask(20.0, ("B4",), grid=Grid(EPSG, LEFT, TOP, 20.0, 8, 8))
    server.script(fault)
    with pytest.raises(expected) as caught:
        gee.fetch(request)
    assert type(caught.value) is expected
    assert server.counters.pixel_requests == 1
    assert not gee.fetch(request).is_empty


def test_fetch_when_the_token_has_expired_then_asked_once_for_all_points(
    gee: ProviderBase, server: LocalEarthEngine
) -> None:
    request = ask(20.0, ("B4",), grid=Grid(EPSG, LEFT, TOP, 20.0, 8, 8))
    assert not gee.fetch(request).is_empty
    server.behave(token="")
    before = server.counters.pixel_requests
    for _ in range(4):
        with pytest.raises(AuthError, match="earthengine authenticate"):
            gee.fetch(request)
    server.behave(token=None)
    assert server.counters.pixel_requests == before + 1


def test_fetch_when_credentials_are_given_then_sent_and_a_wrong_one_is_refused(server: LocalEarthEngine) -> None:
    request = ask(20.0, ("B4",), grid=Grid(EPSG, LEFT, TOP, 20.0, 8, 8))
    server.behave(token="good")
    try:
        assert not GeeProvider("local-test", server.url, Credentials("good")).fetch(request).is_empty  # type: ignore[no-untyped-call]
        with pytest.raises(AuthError, match="To log in"):
            GeeProvider("local-test", server.url, Credentials("stale")).fetch(request)  # type: ignore[no-untyped-call]
    finally:
        server.behave(token=None)


def test_fetch_when_the_project_is_slowed_down_then_said_and_the_tag_arrives(server: LocalEarthEngine) -> None:
    server.behave(quota_status="parallelism_restricted=true")
    provider = GeeProvider("local-test", server.url, workload_tag="rsembed-7")
    patch = provider.fetch(ask(20.0, ("B4",), grid=Grid(EPSG, LEFT, TOP, 20.0, 8, 8)))
    server.behave(quota_status=None)
    assert patch.provenance["restricted"] is True
    assert [record.workload_tag for record in server.log if record.kind == "image:computePixels"] == ["rsembed-7"]


def test_fetch_when_modis_with_temperature_then_the_days_are_paired_and_gaps_masked(running: LocalEarthEngine) -> None:
    del running
    place = (463.3125, 0.0, 200_000.0, 0.0, -463.3125, 5_200_000.0)
    coarse = (926.625, *place[1:4], -926.625, place[5])
    surface, heat = np.arange(144, dtype=np.int16).reshape(12, 12), np.arange(36, dtype=np.float32).reshape(6, 6) + 270
    crs = "+proj=sinu +R=6371007.181 +units=m +no_defs"

    def image(day: int, name: str, values: Any, transform: Any) -> SyntheticImage:
        bands = {name: SyntheticBand(values, crs, transform)}
        return SyntheticImage(f"2022_06_{day:02d}", f"2022-06-{day:02d}T00:00:00Z", bands)

    images = {
        "MODIS/061/MOD09GA": [image(day, "sur_refl_b01", surface + 1000 * day, place) for day in (1, 2)],
        "MODIS/061/MOD21A1D": [image(2, "LST_1KM", heat, coarse)],
    }
    lon, lat = np.array([200_000.0 + 2800]) / 6371007.181, np.array([5_200_000.0 - 2800]) / 6371007.181
    x, y = from_lonlat(3857, np.degrees(lon / np.cos(lat)), np.degrees(lat))
    request = ask(
        1000.0, ("sur_refl_b01", "LST_1KM"), collection="MODIS/061/MOD09GA", composite="mosaic", resampling="nearest",
        clouds=CloudPolicy("none", None, None),
        grid=Grid(3857, float(x[0]) - 1000.3, float(y[0]) + 1000.7, 1000.0, 2, 2),
    )  # fmt: skip
    with LocalEarthEngine(images=images) as server:
        patch = GeeProvider("local-test", server.url).fetch(request)
    assert patch.valid_tchw.all()
    assert (patch.values_tchw[0, 0] < 2000).all()  # the earlier day lies on top
    assert (patch.values_tchw[0, 1] >= 270).all()  # only the later one has a temperature
    assert patch.frames[0].n_images == 2


@pytest.mark.parametrize(
    ("collection", "band", "values", "corner", "step"),
    [
        ("COPERNICUS/S2_HARMONIZED", "B10", np.uint16, 480_000.0, 60.0),
        ("LANDSAT/LC08/C02/T1_L2", "SR_B5", np.uint16, 480_015.0, 30.0),
        ("LANDSAT/LC09/C02/T1_L2", "QA_PIXEL", np.uint16, 480_015.0, 30.0),
        ("NASA/HLS/HLSL30/v002", "B5", np.float32, 480_000.0, 30.0),
        ("NASA/HLS/HLSS30/v002", "B8A", np.float32, 480_000.0, 30.0),
        ("GOOGLE/SATELLITE_EMBEDDING/V1/ANNUAL", "A63", np.float64, 480_000.0, 10.0),
    ],
)
@pytest.mark.parametrize("composite", ["median", "mosaic"])
def test_fetch_when_another_collection_then_its_values_as_stored_filtered_by_its_own_property(
    collection: str, band: str, values: type[np.generic], corner: float, step: float, composite: str
) -> None:
    info = collection_info(collection)
    stored = (np.arange(64).reshape(8, 8) / (1 if issubclass(values, np.integer) else 64)).astype(values)
    datatake: dict[str, object] = {
        "SPACECRAFT_NAME": "Sentinel-2A", "SENSING_ORBIT_NUMBER": 8, "SENSING_ORBIT_DIRECTION": "DESCENDING",
        "PROCESSING_BASELINE": "05.00", "SPACECRAFT_ID": "LANDSAT_8", "WRS_PATH": 198,
    }  # fmt: skip

    def image(name: str, day: str, cloud: float, more: int) -> SyntheticImage:
        policy: Any = "sample" if band == "QA_PIXEL" else "mean"
        raster = SyntheticBand(
            (stored + more).astype(values), "EPSG:32631", (step, 0, corner, 0, -step, TOP), None, policy
        )
        clouds = {info.cloud_property: cloud} if info.cloud_property else {}
        return SyntheticImage(name, f"{day}T10:30:00Z", {band: raster}, {**datatake, **clouds})

    images = [image("clear", "2022-01-01", 3.0, 0)]
    if info.cloud_property:
        images.append(image("cloudy", "2022-02-01", 70.0, 100))
    request = FetchRequest(
        FetchRecipe(collection, step, composite=composite),  # type: ignore[arg-type]  # parametrised
        (band,), Grid(EPSG, corner, TOP, step, 8, 8), (YEAR,),
    )  # fmt: skip
    with LocalEarthEngine(images={collection: images}) as server:
        patch = GeeProvider("local-test", server.url).fetch(request)
    np.testing.assert_array_equal(patch.values_tchw[0, 0], stored.astype(np.float32))
    assert (patch.n_images, patch.frames[0].date) == (1, dt.date(2022, 1, 1))
    assert patch.valid_tchw.all()


def test_export_when_rows_share_a_fetch_group_then_one_pixel_request_a_row(tmp_path: Path) -> None:
    catalog = write_synthetic_catalog(tmp_path / "scenes", size_px=256)
    lon, lat = to_lonlat(32631, np.linspace(481_000.0, 481_600.0, 5), np.full(5, 4_698_700.0))
    models = [ExportModelRequest("mosaiks", label="mosaiks"), ExportModelRequest("mosaiks", label="again")]
    with LocalEarthEngine(catalog=catalog) as server:
        summary = export_batch(
            spatials=list(zip(lon.tolist(), lat.tolist(), strict=True)),
            temporal=TemporalSpec.year(2022),
            models=models,
            target=ExportTarget.dataset(tmp_path / "out"),
            backend=GeeProvider("local-test", server.url, workload_tag="run-1"),
            cache=False,
        )
        asked = [record for record in server.log if record.kind == "image:computePixels"]
    assert {label: counts["ok"] for label, counts in summary.counts.items()} == {"mosaiks": 5, "again": 5}
    assert [record.status for record in asked] == [200] * 5
    assert {record.workload_tag for record in asked} == {"run-1"}


def test_get_embedding_when_the_product_is_on_earth_engine_then_the_mean_of_its_pixels() -> None:
    rng = np.random.default_rng(0)
    place = (10.0, 0.0, LEFT, 0.0, -10.0, TOP)
    bands = {f"A{i:02d}": SyntheticBand(rng.uniform(-1, 1, (60, 60)), f"EPSG:{EPSG}", place) for i in range(64)}
    lon, lat = to_lonlat(EPSG, np.array([LEFT + 300]), np.array([TOP - 300]))
    with LocalEarthEngine(images={ALPHAEARTH: [SyntheticImage("a", "2021-01-01T00:00:00Z", bands)]}) as server:
        found = get_embedding(
            "gse",
            spatial=PointBuffer(float(lon[0]), float(lat[0]), 100.0),
            temporal=TemporalSpec.year(2021),
            backend=GeeProvider("local-test", server.url),
        )
        assert server.counters.pixel_requests == 1
    expected = [bands[name].values[20:40, 20:40].astype(np.float32).mean(dtype=np.float64) for name in bands]
    np.testing.assert_allclose(found.data, expected, atol=1e-6)
