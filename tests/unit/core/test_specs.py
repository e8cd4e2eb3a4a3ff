from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from typing import Any

import numpy as np
import pytest

from rsembed.core.errors import SpecError
from rsembed.core.serialization import canonical, to_json
from rsembed.core.specs import (
    BBox,
    FetchSpec,
    InputPrepSpec,
    OutputSpec,
    PointBuffer,
    SensorSpec,
    TemporalSpec,
    Window,
    parse_date,
)

NOT_A_NUMBER = [math.nan, math.inf, -math.inf, "2", None, True]


def sensor(**changes: Any) -> SensorSpec:
    return SensorSpec(**({"collection": "COPERNICUS/S2_SR_HARMONIZED", "bands": ("B4", "B3")} | changes))


# -- Places --------------------------------------------------------------------------------


@pytest.mark.parametrize("lon", [*NOT_A_NUMBER, -180.001, 180.001])
def test_point_when_longitude_is_no_longitude_then_refused(lon: Any) -> None:
    with pytest.raises(SpecError, match="longitude must lie in -180"):
        PointBuffer(lon, 0.0, 100.0)


@pytest.mark.parametrize("lat", [*NOT_A_NUMBER, -90.001, 90.001])
def test_point_when_latitude_is_no_latitude_then_refused(lat: Any) -> None:
    with pytest.raises(SpecError, match="latitude must lie in -90"):
        PointBuffer(0.0, lat, 100.0)


@pytest.mark.parametrize("buffer_m", [0, -1, math.nan, math.inf, "640"])
def test_point_when_buffer_is_no_length_then_refused(buffer_m: Any) -> None:
    with pytest.raises(SpecError, match="buffer_m must be a positive number of metres"):
        PointBuffer(0.0, 0.0, buffer_m)


def test_point_when_buffer_is_left_out_then_it_is_the_models_own() -> None:
    assert PointBuffer(180.0, -90.0).buffer_m is None


def test_point_when_numbers_come_from_numpy_then_they_are_accepted() -> None:
    assert PointBuffer(np.float64(2.5), np.float32(42.0), np.int64(640)).lon == 2.5


@pytest.mark.parametrize("crs", ["EPSG:3857", "", None])
def test_places_when_crs_is_another_then_refused_with_what_to_do(crs: Any) -> None:
    for make in (lambda: PointBuffer(0.0, 0.0, 1.0, crs), lambda: BBox(0, 0, 1, 1, crs)):
        with pytest.raises(SpecError, match="reproject the coordinates first"):
            make()


def test_places_when_crs_is_lower_case_then_accepted() -> None:
    assert BBox(0, 0, 1, 1, "epsg:4326").crs == "epsg:4326"


def test_box_when_it_crosses_the_antimeridian_then_the_error_gives_both_halves() -> None:
    with pytest.raises(SpecError) as caught:
        BBox(179, -17, -179, -16)
    assert "BBox(179, -17, 180, -16)" in str(caught.value)
    assert "BBox(-180, -17, -179, -16)" in str(caught.value)
    BBox(179, -17, 180, -16)
    BBox(-180, -17, -179, -16)


@pytest.mark.parametrize("bounds", [(0, 1, 1, 1), (0, 2, 1, 1), (1, 0, 1, 1)])
def test_box_when_it_has_no_area_then_refused(bounds: tuple[float, float, float, float]) -> None:
    with pytest.raises(SpecError, match="must be less than"):
        BBox(*bounds)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", [math.nan, math.inf, 181.0])
def test_box_when_a_corner_is_no_coordinate_then_refused(position: int, value: float) -> None:
    corners = [0.0, 0.0, 1.0, 1.0]
    corners[position] = value
    with pytest.raises(SpecError, match="must lie in"):
        BBox(*corners)


def test_box_when_made_then_it_knows_its_centre() -> None:
    box = BBox(1, 2, 3, 6)
    assert (box.lon, box.lat) == (2, 4)


SPECS = [
    PointBuffer(0, 0, 1), BBox(0, 0, 1, 1), TemporalSpec.year(2022), sensor(), FetchSpec(), OutputSpec(),
    InputPrepSpec(), Window(dt.date(2022, 1, 1), dt.date(2022, 1, 2)),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: type(spec).__name__)
def test_specs_when_made_then_they_are_frozen_hashable_and_equal_by_value(spec: Any) -> None:
    name = dataclasses.fields(spec)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, name, None)
    assert hash(spec) == hash(dataclasses.replace(spec))
    assert spec == dataclasses.replace(spec)


# -- Windows -------------------------------------------------------------------------------


def test_temporal_year_when_called_then_it_is_that_calendar_year() -> None:
    spec = TemporalSpec.year(2020)
    assert spec == TemporalSpec("year", "2020-01-01", "2021-01-01")
    assert spec.window == Window(dt.date(2020, 1, 1), dt.date(2021, 1, 1))
    assert spec.window.days == 366


@pytest.mark.parametrize("year", [0, 9999, -1, "2022", 2022.0, True, None])
def test_temporal_year_when_it_is_no_year_then_refused(year: Any) -> None:
    with pytest.raises(SpecError, match="whole number from 1 to 9998"):
        TemporalSpec.year(year)


@pytest.mark.parametrize(("start", "end"), [("2022-06-01", "2022-06-01"), ("2022-06-02", "2022-06-01")])
def test_temporal_range_when_it_is_empty_then_refused_as_half_open(start: str, end: str) -> None:
    with pytest.raises(SpecError, match="half-open"):
        TemporalSpec.range(start, end)


@pytest.mark.parametrize("text", ["june", "2022", "2022-13-01", "", None, "2022-02-30"])
def test_temporal_range_when_a_date_cannot_be_read_then_refused_by_name(text: Any) -> None:
    with pytest.raises(SpecError, match="start must be an ISO date"):
        TemporalSpec.range(text, "2023-01-01")


def test_temporal_when_the_mode_is_unknown_then_refused() -> None:
    with pytest.raises(SpecError, match="mode must be"):
        TemporalSpec("month", "2022-01-01", "2022-02-01")  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", [TemporalSpec.year(2022), TemporalSpec.range("2022-01-01", "2022-03-01")])
def test_temporal_when_serialised_then_there_is_no_function_in_it(spec: TemporalSpec) -> None:
    plain = to_json(spec)
    assert plain == {"mode": spec.mode, "start": spec.start, "end": spec.end}
    assert "0x" not in canonical(spec)
    assert "function" not in repr(spec)
    assert json.loads(canonical(spec)) == plain


@pytest.mark.parametrize(
    ("given", "day"),
    [
        ("2022-06-01", dt.date(2022, 6, 1)),
        ("2022-06-01T23:30:00+02:00", dt.date(2022, 6, 1)),
        (dt.date(2022, 6, 1), dt.date(2022, 6, 1)),
        (dt.datetime(2022, 6, 1, 12, tzinfo=dt.UTC), dt.date(2022, 6, 1)),
    ],
)
def test_parse_date_when_a_day_is_given_then_it_is_taken(given: object, day: dt.date) -> None:
    found = parse_date(given)
    assert found == day
    assert type(found) is dt.date


def test_window_when_days_are_odd_then_the_midpoint_is_rounded_down() -> None:
    assert Window(dt.date(2022, 1, 1), dt.date(2022, 1, 4)).midpoint == dt.date(2022, 1, 2)


# -- Sensor, fetch, output, input preparation ----------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"collection": ""}, "collection must be named"),
        ({"bands": ()}, "at least one band"),
        ({"bands": "B4"}, "got the str 'B4'"),
        ({"scale_m": 0}, "scale_m must be a positive number"),
        ({"scale_m": math.nan}, "scale_m must be a positive number"),
        ({"scale_m": "10"}, "scale_m must be a positive number"),
        ({"cloudy_pct": -1}, "cloudy_pct must lie in 0..100"),
        ({"cloudy_pct": 100.5}, "cloudy_pct must lie in 0..100"),
        ({"cloudy_pct": math.nan}, "cloudy_pct must lie in 0..100"),
        ({"composite": "mean"}, "composite must be one of median, mosaic"),
        ({"orbit": "SIDEWAYS"}, "orbit must be one of ASCENDING, DESCENDING"),
    ],
)
def test_sensor_when_a_value_is_wrong_then_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        sensor(**changes)


def test_sensor_when_bands_are_a_list_and_orbit_lower_case_then_they_are_tidied() -> None:
    made = sensor(bands=["B4"], orbit="ascending")
    assert made.bands == ("B4",)
    assert made.orbit == "ASCENDING"


@pytest.mark.parametrize("changes", [{"scale_m": -10.0}, {"cloudy_pct": 101}, {"composite": "max"}])
def test_fetch_spec_when_a_value_is_wrong_then_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        FetchSpec(**changes)


def test_output_when_scale_is_given_then_it_says_where_that_belongs() -> None:
    for make in (OutputSpec.pooled, OutputSpec.grid):
        with pytest.raises(SpecError, match=r"FetchSpec\(scale_m"):
            make(scale_m=10)


@pytest.mark.parametrize("changes", [{"mode": "map"}, {"pooling": "median"}, {"grid_orientation": "south_up"}])
def test_output_when_a_choice_is_unknown_then_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="must be one of"):
        OutputSpec(**changes)


def test_output_when_a_keyword_is_unknown_then_the_known_ones_are_named() -> None:
    with pytest.raises(SpecError, match="takes pooling; got polling"):
        OutputSpec.pooled(polling="max")


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "crop"}, {"tile_size": 0}, {"max_tiles": 0}, {"max_tiles": 65, "max_tiles_hard": 64},
        {"tile_snap_frac": -0.1}, {"tile_snap_frac": 0.6}, {"tile_snap_frac": math.nan},
    ],
)  # fmt: skip
def test_input_prep_when_a_value_is_wrong_then_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        InputPrepSpec(**changes)


def test_input_prep_when_made_by_name_then_the_mode_is_set() -> None:
    assert InputPrepSpec.tile(224, max_tiles=4).tile_size == 224
    assert InputPrepSpec.resize().mode == "resize"
    assert InputPrepSpec.auto(max_tiles=9).max_tiles == 9
