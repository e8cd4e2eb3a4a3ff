"""What holds for every window, policy and place; with places where grids are irregular picked on purpose."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsembed.core.errors import SpecError
from rsembed.core.fetching import FramePolicy, Grid
from rsembed.core.serialization import canonical, from_json
from rsembed.core.specs import Window
from rsembed.providers.collections import grid_rule, known_collections
from rsembed.tools.spatial import from_lonlat, snapped_grids, utm_epsg
from rsembed.tools.temporal import around, bins_in_hand, covered_year, equal_bins, frame_bins

DAYS = st.dates(dt.date(1990, 1, 1), dt.date(2040, 1, 1))
WINDOWS = st.builds(lambda start, n: Window(start, start + dt.timedelta(days=n)), DAYS, st.integers(1, 1500))
POLICIES = st.builds(
    FramePolicy, st.sampled_from(["single", "auto", "multi"]), st.integers(1, 100), st.integers(1, 40),
    st.integers(1, 40), st.sampled_from(["equal", "fixed"]), st.booleans(),
)  # fmt: skip
ANNUAL = st.builds(
    lambda first, n, of: FramePolicy("annual", years=tuple(range(first, first + n)), year_of=of),
    st.integers(1995, 2030), st.integers(1, 12), st.sampled_from(["middle", "start"]),
)  # fmt: skip

ANYWHERE = st.tuples(st.floats(-180, 180), st.floats(-80, 84))
IRREGULAR = st.one_of(
    st.tuples(st.floats(0, 15), st.floats(55, 65)),  # Norway's wide zone 32
    st.tuples(st.floats(-3, 45), st.floats(70, 84)),  # Svalbard's four zones
    st.tuples(st.sampled_from([-180.0, 180.0, -179.9999999, 179.9999999]), st.floats(-80, 84)),  # the antimeridian
    st.tuples(st.integers(-30, 30).map(lambda k: 6.0 * k), st.floats(-80, 84)),  # on a border of zones
    st.tuples(st.floats(-180, 180), st.sampled_from([-80.0, -1e-9, 0.0, 1e-9, 84.0])),  # the equator, the ends
)
PLACES = ANYWHERE | IRREGULAR


# Windows


@given(WINDOWS, POLICIES)
def test_bins_when_any_policy_meets_any_window_then_they_lie_in_it_in_order_without_gaps(
    window: Window, policy: FramePolicy
) -> None:
    if policy.count(window) > window.days:
        with pytest.raises(SpecError, match="cannot be cut into"):
            frame_bins(window, policy)
        return
    bins = frame_bins(window, policy)
    assert len(bins) == policy.count(window) >= 1
    assert bins[0].start == window.start
    assert bins[-1].end <= window.end
    assert all(a.end == b.start for a, b in zip(bins, bins[1:], strict=False))
    lost = (window.end - bins[-1].end).days
    assert lost == 0 or (policy.fixed_bins(window) and lost < policy.frame_days)
    assert not (policy.fixed_bins(window) and policy.stretched(window))


@given(WINDOWS, POLICIES, st.integers(-3000, 3000))
def test_bins_when_the_window_moves_then_they_move_with_it(window: Window, policy: FramePolicy, days: int) -> None:
    if policy.count(window) > window.days:
        return
    by = dt.timedelta(days=days)
    moved = frame_bins(Window(window.start + by, window.end + by), policy)
    assert moved == tuple(Window(b.start + by, b.end + by) for b in frame_bins(window, policy))


@given(WINDOWS, POLICIES)
def test_policy_when_written_and_read_then_the_same_bins(window: Window, policy: FramePolicy) -> None:
    back = from_json(FramePolicy, json.loads(canonical(policy)))
    assert back == policy
    assert (back.count(window), back.stretched(window)) == (policy.count(window), policy.stretched(window))


@given(WINDOWS, POLICIES, st.integers(1, 60))
def test_bins_in_hand_when_any_number_is_given_then_that_many_or_refused(
    window: Window, policy: FramePolicy, n: int
) -> None:
    if n > window.days:
        with pytest.raises(SpecError):
            bins_in_hand(window, policy, n)
        return
    found = bins_in_hand(window, policy, n)
    assert len(found) == n
    assert found == (frame_bins(window, policy) if policy.count(window) == n else equal_bins(window, n))


@given(WINDOWS, ANNUAL)
def test_year_when_a_window_stands_for_one_then_it_holds_its_day_and_is_offered(
    window: Window, policy: FramePolicy
) -> None:
    try:
        year = covered_year(window, policy)
    except SpecError as exc:
        said = str(exc)
    else:
        day = window.midpoint if policy.year_of == "middle" else window.start
        assert year.start <= day < year.end
        assert year.start.year in policy.years
        assert frame_bins(window, policy) == (year,)
        return
    assert str(min(policy.years)) in said


@given(DAYS, st.integers(0, 2000))
def test_around_when_any_day_then_it_lies_in_the_middle(day: dt.date, days: int) -> None:
    window = around(day, days)
    assert window.days == 2 * days + 1
    assert window.midpoint == day


# Grids


def snapped(place: tuple[float, float], height: int, width: int, scale_m: float, collection: str) -> Grid:
    lon, lat = np.array([place[0]]), np.array([place[1]])
    return snapped_grids(lon, lat, height, width, scale_m, rule=grid_rule(collection))[0]


SIDES = st.integers(1, 40).map(lambda n: 2 * n)
SCALES = st.sampled_from([10.0, 20.0, 30.0, 60.0, 2.5, 500.0])
COLLECTIONS = st.sampled_from(known_collections())


@given(PLACES, SIDES, SIDES, SIDES, SIDES, SCALES, COLLECTIONS)
def test_grid_when_one_footprint_is_smaller_then_it_is_the_central_crop_of_the_larger(
    place: tuple[float, float], h1: int, w1: int, h2: int, w2: int, scale_m: float, collection: str
) -> None:
    large = snapped(place, max(h1, h2), max(w1, w2), scale_m, collection)
    small = snapped(place, min(h1, h2), min(w1, w2), scale_m, collection)
    assert large.centre_crop(small.height, small.width) == small
    assert large.offset_of(small) == ((large.height - small.height) // 2, (large.width - small.width) // 2)


@given(PLACES, st.floats(-0.02, 0.02), st.floats(-0.02, 0.02), SCALES, COLLECTIONS)
def test_grid_when_places_are_neighbours_in_a_zone_then_they_share_whole_pixels(
    place: tuple[float, float], east: float, north: float, scale_m: float, collection: str
) -> None:
    other = (min(180.0, max(-180.0, place[0] + east)), min(84.0, max(-80.0, place[1] + north)))
    a, b = snapped(place, 32, 32, scale_m, collection), snapped(other, 32, 32, scale_m, collection)
    if a.epsg != b.epsg:
        return
    for one, two in ((a.x_min, b.x_min), (a.y_max, b.y_max)):
        pixels = (one - two) / scale_m
        assert pixels == pytest.approx(round(pixels), abs=1e-6)


@given(PLACES, SCALES, COLLECTIONS)
def test_grid_when_snapped_anywhere_then_the_place_lies_within_half_a_step_of_its_centre(
    place: tuple[float, float], scale_m: float, collection: str
) -> None:
    grid = snapped(place, 8, 8, scale_m, collection)
    x, y = from_lonlat(grid.epsg, np.array([place[0]]), np.array([place[1]]))
    left, bottom, right, top = grid.bounds
    step = grid_rule(collection).lattice_m(scale_m)
    assert abs(x[0] - (left + right) / 2) <= step / 2 + 1e-6
    assert abs(y[0] - (bottom + top) / 2) <= step / 2 + 1e-6


@given(PLACES)
def test_zone_when_anywhere_then_the_nearest_ones_or_the_exceptions_of_mgrs(place: tuple[float, float]) -> None:
    lon, lat = place
    epsg = int(utm_epsg(np.array([lon]), np.array([lat]))[0])
    zone, north = epsg % 100, epsg // 100 == 326
    assert north == (lat >= 0)
    assert 1 <= zone <= 60
    centre = 6 * zone - 183
    apart = abs((lon - centre + 180) % 360 - 180)
    norway = 56 <= lat < 64 and 3 <= lon < 12
    svalbard = lat >= 72 and 0 <= lon < 42
    assert apart <= (6 if norway or svalbard else 3) + 1e-9
    if svalbard:
        assert zone in (31, 33, 35, 37)
    if norway:
        assert zone == 32
