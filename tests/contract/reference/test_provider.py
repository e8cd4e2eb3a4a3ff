"""Rows 36 to 43 of the reference's contract: what is fetched, by every provider that reads the same invented world."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ee")

from rsembed import (
    ModelError,
    OutputSpec,
    PointBuffer,
    ProviderError,
    SensorSpec,
    SpecError,
    TemporalSpec,
    get_embedding,
    get_provider,
    inspect_provider_patch,
)
from rsembed.core.fetching import Grid
from rsembed.core.patch import Frame, Patch
from rsembed.core.specs import Window
from rsembed.embedders.options import make_config
from rsembed.embedders.registry import REGISTRY
from rsembed.providers.base import ProviderBase
from rsembed.providers.collections import canonical_bands
from rsembed.providers.factory import make_provider
from rsembed.providers.gee import GeeProvider
from rsembed.providers.stac import StacProvider
from rsembed.testing.earth_engine import LocalEarthEngine
from rsembed.tools.spatial import to_lonlat
from rsembed.tools.tiling import whole_image
from tests.contract.reference import models
from tests.ee_world import EPSG, LEFT, TOP, optical, radar, write_catalog

assert models.Pixels.card.id == "contract-pixels"
S2, S1, S1_LINEAR = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S1_GRD", "COPERNICUS/S1_GRD_FLOAT"
OPTICAL = [
    optical("2022-06-07", 0, seed=6), optical("2022-06-12", 0, seed=40, satellite="B"),
    optical("2022-06-22", 0, cloud=75.0, seed=42), optical("2021-04-03", 0, cloud=81.0, seed=44),
]  # fmt: skip
RADAR = [
    *(radar(day, orbit=59, seed=i) for i, day in enumerate(("2022-03-02", "2022-03-14", "2022-03-26"))),
    radar("2022-03-05", orbit=8, ascending=False, seed=9),
    radar("2021-03-05", orbit=8, mode="EW", seed=20),
]  # fmt: skip
JUNE, MARCH = TemporalSpec.range("2022-06-01", "2022-07-01"), TemporalSpec.range("2022-03-01", "2022-04-01")
_LON, _LAT = to_lonlat(EPSG, np.array([LEFT + 240.0]), np.array([TOP - 240.0]))
PLACE = PointBuffer(float(_LON[0]), float(_LAT[0]), 80)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ProviderBase]]:
    images: dict[str, list[Any]] = {S2: [each.image() for each in OPTICAL], S1: [each.image() for each in RADAR]}
    stac = StacProvider(write_catalog(tmp_path_factory.mktemp("world"), [*OPTICAL, *RADAR]))
    with LocalEarthEngine(images=images) as server:
        yield {"stac": stac, "gee": GeeProvider("local-test", server.url)}
    stac.close()


@pytest.fixture(params=["stac", "gee"])
def provider(request: pytest.FixtureRequest, world: dict[str, ProviderBase]) -> ProviderBase:
    return world[request.param]


def look(provider: ProviderBase, bands: tuple[str, ...], *, temporal: TemporalSpec = JUNE, **sensor: Any) -> Any:
    spec = SensorSpec(sensor.pop("collection", S2), bands, **sensor)
    return inspect_provider_patch(spatial=PLACE, temporal=temporal, sensor=spec, backend=provider, return_array=True)


# Row 36: raw, native units, north-up, float32


def test_fetch_when_sentinel_2_then_digital_numbers_north_up(provider: ProviderBase) -> None:
    found = look(provider, ("B4", "B8"))
    values, valid = found["array_tchw"], found["valid_tchw"]
    assert (values.dtype, values.shape, valid.dtype) == (np.float32, (1, 2, 16, 16), np.bool_)
    assert values[valid].max() > 1000
    assert found["report"]["unit"] == "dn"
    assert found["report"]["transform"][4] == -10
    assert not values[~valid].any()


def test_fetch_when_a_model_normalises_then_the_patch_is_as_before(provider: ProviderBase) -> None:
    sensor = SensorSpec(S2, ("B4", "B8"))
    spec = OutputSpec.grid()
    mapped = get_embedding(
        "contract-pixels", spatial=PLACE, temporal=JUNE, sensor=sensor, output=spec, backend=provider, device="cpu",
        input_prep="resize",
    )  # fmt: skip
    np.testing.assert_array_equal(mapped.data, look(provider, ("B4", "B8"), cloudy_pct=30)["array_tchw"][0])


# Row 37: names of bands


@pytest.mark.parametrize(
    ("collection", "aliases", "names"),
    [
        (S2, ("RED", "nir", "Swir1", "blue", "b8a", "swir_2"), ("B4", "B8", "B11", "B2", "B8A", "B12")),
        ("LANDSAT/LC08/C02/T1_L2", ("RED", "NIR", "SWIR1", "swir2"), ("SR_B4", "SR_B5", "SR_B6", "SR_B7")),
        ("NASA/HLS/HLSL30/v002", ("red", "NIR", "SWIR1", "Swir2"), ("B4", "B5", "B6", "B7")),
        ("NASA/HLS/HLSS30/v002", ("red", "NIR", "SWIR1", "Swir2"), ("B4", "B8A", "B11", "B12")),
        (S1, ("vv", "Vh"), ("VV", "VH")),
        ("SOMEBODY/ELSE", ("RED", "nir", "x"), ("RED", "nir", "x")),
        (S2, ("RED", "no_such"), ("B4", "no_such")),
    ],
)
def test_bands_when_named_by_alias_then_the_collections_own(
    collection: str, aliases: tuple[str, ...], names: tuple[str, ...]
) -> None:
    assert canonical_bands(collection, aliases) == names


def test_bands_when_a_sensor_uses_aliases_then_the_same_pixels(provider: ProviderBase) -> None:
    own, other = look(provider, ("B4", "B8", "B11")), look(provider, ("Red", "NIR", "swir16"))
    np.testing.assert_array_equal(own["array_tchw"], other["array_tchw"])


@pytest.mark.parametrize("band", ["B99", "purple"])
def test_bands_when_unknown_then_an_error_that_names_those_there_are(provider: ProviderBase, band: str) -> None:
    with pytest.raises(ProviderError, match=rf"{band}.*B2"):
        look(provider, (band,))


# Row 38: clouds


@pytest.mark.parametrize(("cloudy_pct", "images"), [(30, 2), (None, 3), (80, 3), (5, 2), (1, 0)])
def test_clouds_when_filtered_then_by_the_collections_own_property(
    provider: ProviderBase, cloudy_pct: float | None, images: int
) -> None:
    found = look(provider, ("B4",), cloudy_pct=cloudy_pct)
    assert found["report"]["n_images"] == images
    assert found["ok"] == (images > 0)


def test_clouds_when_the_recipe_decides_then_relaxed_and_recorded(provider: ProviderBase) -> None:
    april = TemporalSpec.range("2021-04-01", "2021-05-01")
    found = look(provider, ("B4",), temporal=april, cloudy_pct="recipe")
    assert (found["report"]["n_images"], found["report"]["provenance"]["cloud_step"]) == (1, "90")
    # A filter that the user names is obeyed to the letter.
    assert look(provider, ("B4",), temporal=april, cloudy_pct=60)["report"]["n_images"] == 0


# Row 39: nothing there


def test_collection_when_empty_then_no_images_found_with_collection_and_filters(provider: ProviderBase) -> None:
    keywords = {"spatial": PLACE, "backend": provider, "device": "cpu"}
    early = TemporalSpec.year(2001)
    with pytest.raises(ProviderError, match=rf"No images found .*{S2} \(masked by SCL, scenes up to 30 %\)"):
        get_embedding("contract-pixels", temporal=early, sensor=SensorSpec(S2, ("B4", "B8")), **keywords)
    radar_sensor = SensorSpec(S1, ("VV", "VH"), orbit="ascending", s1_relax_iw_on_empty=False)
    with pytest.raises(ProviderError, match=rf"No images found .*{S1} \(orbit ASCENDING, mode IW alone\)"):
        get_embedding("contract-pixels", temporal=early, sensor=radar_sensor, **keywords)


# Row 40: Sentinel-1


@pytest.mark.parametrize(("orbit", "images"), [("ASCENDING", 3), ("descending", 1)])
def test_radar_when_an_orbit_is_named_then_that_pass_alone(provider: ProviderBase, orbit: str, images: int) -> None:
    found = look(provider, ("VV", "VH"), collection=S1, temporal=MARCH, orbit=orbit)  # type: ignore[arg-type]
    assert found["report"]["n_images"] == images
    assert found["report"]["unit"] == "dB"
    assert (found["array_tchw"][found["valid_tchw"]] < 0).any()


@pytest.mark.parametrize(("relax", "images", "note"), [(True, 1, "relaxed"), (False, 0, "required")])
def test_radar_when_there_is_no_wide_swath_then_relaxed_and_recorded_or_nothing(
    provider: ProviderBase, relax: bool, images: int, note: str
) -> None:
    early = TemporalSpec.range("2021-03-01", "2021-04-01")
    found = look(provider, ("VV", "VH"), collection=S1, temporal=early, s1_relax_iw_on_empty=relax)
    assert (found["report"]["n_images"], found["report"]["provenance"]["iw"]) == (images, note)


def test_radar_when_embedded_then_the_facts_say_how_it_was_chosen(provider: ProviderBase) -> None:
    found = get_embedding(
        "contract-pixels", spatial=PLACE, temporal=MARCH, sensor=SensorSpec(S1, ("VV", "VH")), backend=provider,
        device="cpu",
    )  # fmt: skip
    assert found.meta["provenance"]["iw"] == "required"
    assert "requests" not in found.meta["provenance"]


@pytest.mark.parametrize("orbit", ["SIDEWAYS", "", 3, "ASC"])
def test_radar_when_the_orbit_is_no_orbit_then_spec_error(orbit: Any) -> None:
    with pytest.raises(SpecError, match="orbit must be one of ASCENDING, DESCENDING"):
        SensorSpec(S1, ("VV",), orbit=orbit)


@pytest.mark.parametrize(("linear", "collection"), [(True, S1_LINEAR), (False, S1), (None, S1)])
def test_radar_when_power_is_asked_for_then_that_collection(linear: bool | None, collection: str) -> None:
    assert SensorSpec(S1, ("VV",), use_float_linear=linear).collection == collection
    assert SensorSpec(S2, ("B4",), use_float_linear=linear).collection == S2


def prepared(name: str, value: float, **config: Any) -> dict[str, np.ndarray]:
    """What ``name`` makes of an image of one value."""
    cls = REGISTRY.get(name)
    made = cls(make_config(cls.card, **config))
    contract = made.contract
    side = contract.image_size
    window = Window(JUNE.window.start, JUNE.window.end)
    values = np.full((1, len(contract.bands), side, side), value, np.float32)
    patch = Patch(
        values, np.ones(values.shape, bool), contract.bands, Grid(32631, 0, 0, contract.scale_m, side, side),
        (Frame(window, 1, window.midpoint),),
    )  # fmt: skip
    (found,) = made.prepare_patch(patch, whole_image(side, side), lon=3, lat=42, window=window)
    return dict(found.arrays)


@pytest.mark.parametrize("name", ["terrafm", "thor"])
def test_radar_when_decibels_come_where_power_is_expected_then_model_error(name: str) -> None:
    if "FLOAT" not in REGISTRY.get(name).card.inputs["s1"].collection:
        pytest.skip("takes decibels")
    with pytest.raises(ModelError, match="look like decibels where linear power is expected"):
        prepared(name, -12.0, modality="s1")
    assert prepared(name, 0.1, modality="s1")


# Row 41: the reference clips series of Sentinel-2 to 0..10000; our authors' recipe does where the authors do


@pytest.mark.parametrize("name", ["anysat", "agrifm"])
def test_series_when_values_are_beyond_reflectance_1_then_clipped_in_the_references_recipe(name: str) -> None:
    same = [prepared(name, value, recipe="rs-embed") for value in (10_000.0, 14_000.0)]
    for key in same[0]:
        np.testing.assert_array_equal(same[0][key], same[1][key])


def test_series_when_radar_then_not_clipped_to_reflectance() -> None:
    low, high = (prepared("olmoearth", value, modality="s1", recipe="rs-embed") for value in (-20.0, -5.0))
    assert any(not np.array_equal(low[key], high[key]) for key in low)


# Row 42: providers that are not there


def test_provider_when_unknown_then_the_names_there_are() -> None:
    for make in (make_provider, get_provider):
        with pytest.raises(SpecError, match=r"no backend 'planet'; there are auto, gee, stac, raster.*local"):
            make("planet")


@pytest.mark.parametrize(
    ("backend", "missing", "said", "extra"),
    [
        ("'gee'", "ee", "needs earthengine-api", "gee"),
        ("'stac'", "pystac", "needs pystac", "stac"),
        ("get_provider('raster', source='x.tif', collection='X')", "rasterio", "needs rasterio", "stac"),
    ],
)
def test_provider_when_its_library_is_missing_then_what_to_install(
    backend: str, missing: str, said: str, extra: str
) -> None:
    program = (
        f"import sys\nsys.modules[{missing!r}] = None\n"
        "from rsembed import PointBuffer, ProviderError, TemporalSpec, get_embedding, get_provider\n"
        "try:\n"
        "    get_embedding('mosaiks', spatial=PointBuffer(2, 42), temporal=TemporalSpec.year(2022), device='cpu',\n"
        f"                  backend={backend})\n"
        "except ProviderError as exc:\n    print(exc)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert said in done.stdout, done.stdout + done.stderr
    assert f"pip install 'rsembed[{extra}]'" in done.stdout


# Row 43: no project, no login


def test_earth_engine_when_nobody_is_logged_in_then_guidance_and_no_traceback(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if "GOOGLE" not in name and "EE" not in name}
    arguments = ["embed", "mosaiks", "--lon", "2", "--lat", "42", "--year", "2022", "--backend", "gee", "--no-cache"]
    done = subprocess.run(
        [sys.executable, "-m", "rsembed", *arguments], capture_output=True, text=True, check=False,
        env=clean | {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "NO_GCE_CHECK": "true"},
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "To log in" in done.stderr or "RSEMBED_EE_PROJECT" in done.stderr
