"""Grids against the ground: sizes by geodesics, centres by distance, lattices by real files' corners."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest

from rsembed.providers.collections import grid_rule, known_collections
from rsembed.tools.spatial import even_pixels, from_lonlat, snapped_grids, to_lonlat, utm_epsg

GEOD = pyproj.Geod(ellps="WGS84")
BUFFER_M = 1000.0
S2, S2_TOA = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED"
LANDSAT = "LANDSAT/LC08/C02/T1_L2"

ZONES = [(3.0 + shift, lat) for lat in (0.0, 45.0, 60.0, 75.0, -45.0, -60.0, -75.0) for shift in (-2.999, 0.0, 2.999)]
SPECIAL = [
    (6.0, 45.0), (5.9999, 45.0), (6.0, -45.0), (0.0, 0.0001), (0.0, -0.0001),  # borders of zones, the equator
    (3.001, 60.0), (5.0, 63.9), (11.999, 57.0), (2.999, 60.0),  # Norway: zone 32 reaches 6 degrees to the west
    (8.999, 78.0), (9.001, 78.0), (20.999, 78.0), (21.001, 78.0), (33.001, 78.0), (41.999, 78.0),  # Svalbard
    (180.0, 0.0), (-180.0, 45.0), (179.9999, 60.0), (-179.9999, -45.0), (180.0, 75.0),  # the antimeridian
    (10.0, 83.9), (10.0, -79.9),
]  # fmt: skip
PLACES = ZONES + SPECIAL


@pytest.mark.parametrize("scale_m", [10.0, 20.0, 30.0])
@pytest.mark.parametrize("collection", [S2, LANDSAT])
def test_buffer_when_anywhere_then_one_shape_true_on_the_ground_and_centred(scale_m: float, collection: str) -> None:
    lon, lat = np.array(PLACES).T
    pixels = even_pixels(2 * BUFFER_M, scale_m)
    rule = grid_rule(collection)
    found = snapped_grids(lon, lat, pixels, pixels, scale_m, rule=rule)
    for i in range(len(found)):
        grid = found[i]
        assert (grid.height, grid.width) == (pixels, pixels)
        left, bottom, right, top = grid.bounds
        x, y = (left + right) / 2, (bottom + top) / 2
        lons, lats = to_lonlat(grid.epsg, np.array([left, right, x, x]), np.array([y, y, bottom, top]))
        sides = GEOD.inv(lons[[0, 2]], lats[[0, 2]], lons[[1, 3]], lats[[1, 3]])[2]
        np.testing.assert_allclose(sides, pixels * scale_m, rtol=1.5e-3, err_msg=str(PLACES[i]))
        wanted_x, wanted_y = from_lonlat(grid.epsg, lon[i : i + 1], lat[i : i + 1])
        half_step = rule.lattice_m(scale_m) / 2
        assert abs(x - wanted_x[0]) <= half_step + 1e-6
        assert abs(y - wanted_y[0]) <= half_step + 1e-6
        centre = to_lonlat(grid.epsg, np.array([x]), np.array([y]))
        off = GEOD.inv(centre[0], centre[1], lon[i : i + 1], lat[i : i + 1])[2]
        assert off[0] <= half_step * np.sqrt(2) * 1.0015


@pytest.mark.parametrize(("lon", "lat"), [(6.0, 45.0), (180.0, 10.0), (180.0, -10.0), (12.0, 60.0), (21.0, 78.0)])
def test_buffer_when_just_beside_a_border_then_both_grids_cover_the_same_ground(lon: float, lat: float) -> None:
    step = 1e-6
    beside = np.array([lon - step, (lon + step + 180) % 360 - 180])
    lats = np.array([lat, lat])
    found = snapped_grids(beside, lats, 200, 200, 10.0, rule=grid_rule(S2))
    assert found[0].epsg != found[1].epsg
    centres = [to_lonlat(g.epsg, np.array([g.x_min + 1000]), np.array([g.y_max - 1000])) for g in (found[0], found[1])]
    apart = GEOD.inv(centres[0][0], centres[0][1], centres[1][0], centres[1][1])[2]
    assert apart[0] <= 2 * 10 * np.sqrt(2) * 1.0015 + 0.5


# Upper left corners of real files, as their metadata state them (repositories stactools-packages/sentinel2, landsat and
# sentinel1: tileInfo.json of 34LBP; LC09_L2SP_010065_20220129_02_T1; S1A_20200103_17RMJ_ASC). Landsat gives southern
# scenes in northern zones with negative northings. HLS has the tiles of Sentinel-2 (HLS User Guide 2.0).
REAL_CORNERS = {
    S2: [(32734, 199_980.0, 8_900_020.0), (32617, 399_960.0, 2_900_040.0)],
    S2_TOA: [(32734, 199_980.0, 8_900_020.0)],
    "NASA/HLS/HLSL30/v002": [(32734, 199_980.0, 8_900_020.0), (32617, 399_960.0, 2_900_040.0)],
    "NASA/HLS/HLSS30/v002": [(32734, 199_980.0, 8_900_020.0), (32617, 399_960.0, 2_900_040.0)],
    LANDSAT: [(32617, 491_985.0, -683_685.0), (32717, 491_985.0, 10_000_000.0 - 683_685.0)],
    "LANDSAT/LC09/C02/T1_L2": [(32717, 491_985.0, 10_000_000.0 - 683_685.0)],
}
# Sentinel-1 on Earth Engine is held against real files in the tests of the stac provider; of the yearly embeddings no
# corner is known here.
ELSEWHERE = {"COPERNICUS/S1_GRD", "COPERNICUS/S1_GRD_FLOAT", "GOOGLE/SATELLITE_EMBEDDING/V1/ANNUAL"}


@pytest.mark.parametrize("collection", REAL_CORNERS)
def test_lattice_when_compared_with_real_files_then_their_corners_are_pixel_edges(collection: str) -> None:
    rule = grid_rule(collection)
    for epsg, x, y in REAL_CORNERS[collection]:
        south = epsg // 100 == 327
        y_origin = rule.south_y_m if south and rule.south_y_m is not None else rule.origin_m
        assert ((x - rule.origin_m) % rule.step_m, (y - y_origin) % rule.step_m) == (0, 0)
        at = (np.array([x + 9_000]), np.array([y - 9_000]))
        lon, lat = to_lonlat(epsg, *at)
        native_m = min(rule.step_m, 30.0)
        grid = snapped_grids(lon, lat, 8, 8, native_m, rule=rule)[0]
        if utm_epsg(lon, lat)[0] == epsg:
            assert ((grid.x_min - x) % native_m, (grid.y_max - y) % native_m) == (0, 0)


def test_lattice_when_a_collection_has_one_then_a_real_corner_is_known() -> None:
    with_lattice = {name for name in known_collections() if grid_rule(name).step_m > 1 and "/" in name}
    assert with_lattice <= REAL_CORNERS.keys() | ELSEWHERE
