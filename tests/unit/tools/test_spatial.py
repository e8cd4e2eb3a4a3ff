from __future__ import annotations

import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from rsembed.core.errors import SpecError
from rsembed.providers.collections import grid_rule
from rsembed.tools.spatial import (
    GridArray,
    GridRule,
    box_pixels,
    even_pixels,
    from_lonlat,
    snapped_grids,
    to_grid_centre,
    to_lonlat,
    utm_epsg,
)

S2, LANDSAT = "COPERNICUS/S2_SR_HARMONIZED", "LANDSAT/LC08/C02/T1_L2"
LON = st.floats(-180, 180)
LAT = st.floats(-80, 84)


def grids(lon: float, lat: float, px: int = 128, scale_m: float = 10.0, *, rule: GridRule | None = None) -> GridArray:
    return snapped_grids(np.array([lon]), np.array([lat]), px, px, scale_m, rule=rule or grid_rule(S2))


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"),
    [
        (2.77, 42.4, 32631), (0.0, 0.0, 32631), (-0.1, 0.0, 32630), (6.0, 0.0, 32632), (-70.0, -33.0, 32719),
        (-180.0, 10.0, 32601), (180.0, 10.0, 32601), (179.999, 10.0, 32660), (12.0, -0.0001, 32733),
        # Norway: zone 32 reaches west to 3 E between 56 and 64 N
        (2.999, 60.0, 32631), (3.0, 60.0, 32632), (3.0, 55.999, 32631), (5.0, 64.0, 32631), (5.0, 56.0, 32632),
        # Svalbard: 31, 33, 35, 37 only
        (8.999, 75.0, 32631), (9.0, 75.0, 32633), (20.999, 75.0, 32633), (21.0, 75.0, 32635), (33.0, 72.0, 32637),
        (42.0, 75.0, 32638), (9.0, 71.999, 32632), (-1.0, 75.0, 32630),
        (10.0, 84.0, 32633), (10.0, -80.0, 32732),
    ],
)  # fmt: skip
def test_utm_epsg_when_asked_then_it_is_the_mgrs_zone(lon: float, lat: float, epsg: int) -> None:
    assert utm_epsg(np.array([lon]), np.array([lat])).tolist() == [epsg]


@pytest.mark.parametrize("lat", [84.001, 90.0, -80.001, -90.0])
def test_utm_epsg_when_beyond_its_end_then_the_error_names_the_latitude_and_counts(lat: float) -> None:
    with pytest.raises(SpecError, match=rf"latitude {lat:g} lies beyond 84 N / 80 S.*\(1 of 2 here\)"):
        utm_epsg(np.array([0.0, 0.0]), np.array([0.0, lat]))


@given(LON, LAT)
def test_utm_epsg_when_anywhere_then_the_hemisphere_and_the_zone_are_valid(lon: float, lat: float) -> None:
    (epsg,) = utm_epsg(np.array([lon]), np.array([lat])).tolist()
    assert epsg // 100 == (326 if lat >= 0 else 327)
    assert 1 <= epsg % 100 <= 60


@pytest.mark.parametrize(
    ("step", "scale", "lattice"),
    [(20, 10, 20), (20, 20, 20), (20, 30, 60), (20, 60, 60), (20, 2.5, 20), (30, 10, 30), (30, 20, 60), (1, 2.5, 5),
     (2.5, 2.5, 2.5), (10, 0.3, 30), (20, 1, 20)],
)  # fmt: skip
def test_lattice_when_step_and_scale_differ_then_their_least_common_multiple(
    step: float, scale: float, lattice: float
) -> None:
    assert GridRule(step).lattice_m(scale) == lattice


@pytest.mark.parametrize(("extent", "scale", "pixels"), [(1280, 10, 128), (1290, 10, 128), (1291, 10, 130), (1, 30, 2)])
def test_even_pixels_when_extent_is_odd_then_the_nearest_even_count(extent: float, scale: float, pixels: int) -> None:
    assert even_pixels(extent, scale) == pixels


@given(st.lists(st.tuples(LON, LAT), min_size=1, max_size=5))
def test_snapped_when_places_differ_then_shape_is_the_same_and_the_centre_moves_half_a_step_at_most(
    places: list[tuple[float, float]],
) -> None:
    lon, lat = np.array(places).T
    found = snapped_grids(lon, lat, 128, 128, 10.0, rule=grid_rule(S2))
    for i in range(len(found)):
        each = found[i]
        assert (each.height, each.width) == (128, 128)
        x, y = from_lonlat(each.epsg, lon[i : i + 1], lat[i : i + 1])
        left, bottom, right, top = each.bounds
        assert abs((left + right) / 2 - x[0]) <= 10.0 + 1e-6
        assert abs((bottom + top) / 2 - y[0]) <= 10.0 + 1e-6


@given(LON, LAT, st.integers(1, 64), st.integers(1, 64), st.sampled_from([10.0, 20.0, 30.0, 60.0, 2.5]))
def test_snapped_when_one_footprint_is_smaller_then_it_is_the_central_crop_of_the_larger(
    lon: float, lat: float, a: int, b: int, scale_m: float
) -> None:
    small, large = (grids(lon, lat, 2 * n, scale_m)[0] for n in sorted((a, b)))
    assert large.centre_crop(small.height, small.width) == small
    margin = (large.height - small.height) // 2
    assert large.offset_of(small) == (margin, margin)


@given(LON, LAT, st.floats(-0.01, 0.01), st.floats(-0.01, 0.01))
def test_snapped_when_places_are_neighbours_then_they_share_the_lattice(
    lon: float, lat: float, dx: float, dy: float
) -> None:
    other = (min(180.0, max(-180.0, lon + dx)), min(84.0, max(-80.0, lat + dy)))
    a, b = grids(lon, lat)[0], grids(*other)[0]
    if a.epsg == b.epsg:
        assert (a.x_min - b.x_min) % 20 == 0
        assert (a.y_max - b.y_max) % 20 == 0


@given(LON, LAT)
def test_snapped_when_sentinel_2_then_edges_lie_on_its_pixels(lon: float, lat: float) -> None:
    found = grids(lon, lat)[0]
    assert found.x_min % 20 == 0
    assert found.y_max % 20 == 0


@given(LON, LAT)
def test_snapped_when_landsat_then_edges_are_15_mod_30(lon: float, lat: float) -> None:
    found = grids(lon, lat, 224, 30.0, rule=grid_rule(LANDSAT))[0]
    assert found.x_min % 30 == 15
    # Landsat counts northings from the equator everywhere: 15 + 10,000,000 in a southern zone.
    assert found.y_max % 30 == (15 if found.epsg // 100 == 326 else 25)


def test_snapped_when_web_mercator_then_whole_pixels_of_its_scale() -> None:
    found = snapped_grids(np.array([2.77]), np.array([42.4]), 8, 8, 10.0, rule=grid_rule(LANDSAT), grid="web_mercator")
    assert found[0].epsg == 3857
    assert found[0].x_min % 10 == 0


@pytest.mark.parametrize("lat", [0.0, 45.0, 60.0, 75.0, -60.0])
@pytest.mark.parametrize("lon", [3.0, 5.9, 0.1])
def test_snapped_when_measured_on_the_ellipsoid_then_its_sides_are_the_asked_size(lon: float, lat: float) -> None:
    found = grids(lon, lat)[0]
    left, bottom, right, top = found.bounds
    middle_x, middle_y = (left + right) / 2, (bottom + top) / 2
    lons, lats = to_lonlat(
        found.epsg, np.array([left, right, middle_x, middle_x]), np.array([middle_y, middle_y, bottom, top])
    )
    geod = pyproj.Geod(ellps="WGS84")
    _, _, lengths = geod.inv(lons[[0, 2]], lats[[0, 2]], lons[[1, 3]], lats[[1, 3]])
    np.testing.assert_allclose(lengths, 1280, rtol=1.5e-3)


@pytest.mark.parametrize(("lon", "lat"), [(180.0, 60.0), (-180.0, 10.0), (179.9999, -20.0), (-179.9999, 65.0)])
def test_footprints_when_crossing_the_antimeridian_then_two_parts_within_bounds(lon: float, lat: float) -> None:
    (shape,) = grids(lon, lat).footprints()
    assert isinstance(shape, shapely.MultiPolygon)
    assert len(shape.geoms) == 2
    west, _, east, _ = shape.bounds
    assert (west, east) == (-180.0, 180.0)
    widths = [part.bounds[2] - part.bounds[0] for part in shape.geoms]
    assert sum(widths) < 0.1
    assert shape.is_valid


@given(LON, LAT)
def test_footprints_when_anywhere_then_valid_within_bounds_and_small(lon: float, lat: float) -> None:
    (shape,) = grids(lon, lat).footprints()
    west, south, east, north = shape.bounds
    assert -180 <= west <= east <= 180
    assert -90 <= south <= north <= 90
    assert shape.is_valid
    area, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(
        shapely.geometry.polygon.orient(shape)
        if isinstance(shape, shapely.Polygon)
        else shapely.MultiPolygon([shapely.geometry.polygon.orient(p) for p in shape.geoms])
    )
    assert abs(area) == pytest.approx(1280**2, rel=0.01)


def test_box_pixels_when_measured_then_even_and_as_large_as_the_ground() -> None:
    boxes = np.array([[2.0, 42.0, 2.01, 42.02], [2.0, 0.0, 2.0001, 0.0001], [14.9, 70.0, 15.1, 70.1]])
    heights, widths = box_pixels(boxes, 10.0)
    assert (heights % 2 == 0).all()
    assert (widths % 2 == 0).all()
    assert (heights[1], widths[1]) == (2, 2)
    _, _, height = pyproj.Geod(ellps="WGS84").inv(2.005, 42.0, 2.005, 42.02)
    assert abs(heights[0] * 10 - height) <= 30


def test_box_pixels_when_a_box_lies_beyond_utm_then_refused() -> None:
    with pytest.raises(SpecError, match="latitude 85"):
        box_pixels(np.array([[0.0, 84.5, 1.0, 85.5]]), 10.0)


def test_to_grid_centre_when_near_a_pole_then_it_is_web_mercators() -> None:
    assert to_grid_centre(2.0, 42.0)[0] == 32631
    assert to_grid_centre(2.0, 85.0)[0] == 3857
