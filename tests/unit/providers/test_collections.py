"""Names of bands and collections, in one table."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rsembed.providers.collections import (
    canonical_bands,
    collection_info,
    grid_rule,
    imagery_attribution,
    known_collections,
    of_constellation,
)

S2 = "COPERNICUS/S2_SR_HARMONIZED"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("BLUE", "GREEN", "RED", "NIR_NARROW", "SWIR_1", "SWIR_2"), ("B2", "B3", "B4", "B8A", "B11", "B12")),
        (("b02", "B8a", "nir", "red_edge_1", "scl"), ("B2", "B8A", "B8", "B5", "SCL")),
        (("B9", "rededge3", "swir16", "coastal"), ("B9", "B7", "B11", "B1")),
    ],
)
def test_canonical_bands_when_aliases_then_earth_engine_names(
    given: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert canonical_bands(S2, given) == expected


def test_canonical_bands_when_unknown_collection_or_band_then_pass_through() -> None:
    assert canonical_bands("MY/OWN", ("red", "B2")) == ("red", "B2")
    assert canonical_bands(S2, ("QA60",)) == ("QA60",)


def test_canonical_bands_when_l2a_then_cirrus_is_not_one_of_its_bands() -> None:
    assert collection_info(S2).band("B10") is None
    assert canonical_bands("COPERNICUS/S2_HARMONIZED", ("cirrus",)) == ("B10",)


def test_collection_info_when_surface_reflectance_then_collection_1_first() -> None:
    assert collection_info(S2).stac_ids == ("sentinel-2-c1-l2a", "sentinel-2-l2a")


def test_collection_info_when_stac_id_then_that_collection_alone() -> None:
    info = collection_info("sentinel-2-l2a")
    assert (info.family, info.stac_ids, info.unit) == ("sentinel-2", ("sentinel-2-l2a",), "dn")


def test_collection_info_when_grd_then_never_rtc() -> None:
    for name in ("COPERNICUS/S1_GRD", "COPERNICUS/S1_GRD_FLOAT"):
        assert collection_info(name).stac_ids == ("sentinel-1-grd",)
    assert collection_info("sentinel-1-rtc").family == "sentinel-1"


def test_of_constellation_when_unknown_id_then_family_from_the_items() -> None:
    assert of_constellation("sentinel-2-geographic", "sentinel-2").family == "sentinel-2"
    assert of_constellation("mine", "sentinel-1").unit == "dB"
    assert of_constellation("mine", None).family == "unknown"


def test_grid_rule_when_asked_then_lattice_of_the_collection() -> None:
    assert (grid_rule(S2).step_m, grid_rule(S2).origin_m) == (20.0, 0.0)
    assert grid_rule("COPERNICUS/S1_GRD").step_m == 10.0
    landsat = grid_rule("LANDSAT/LC08/C02/T1_L2")
    assert (landsat.step_m, landsat.origin_m) == (30.0, 15.0)
    assert grid_rule("MY/OWN").lattice_m(10.0) == 10.0


def test_known_collections_when_listed_then_each_has_its_own_info() -> None:
    assert all(collection_info(name).name == name for name in known_collections())


def test_imagery_attribution_when_sentinel_then_years_are_named() -> None:
    assert imagery_attribution(S2, (2018, 2017)) == "Contains modified Copernicus Sentinel data 2017 and 2018"
    assert imagery_attribution("MY/OWN", (2018,)) is None


def test_collections_when_imported_then_no_raster_library_is_loaded() -> None:
    code = "import sys, rsembed.providers.collections; print(*(m for m in ('rasterio', 'pystac') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
