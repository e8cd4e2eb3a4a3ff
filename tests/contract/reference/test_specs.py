"""Rows 1 to 9 of the reference's contract: places, windows, sensors, outputs, input preparation."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from rsembed import (
    BBox,
    FetchSpec,
    InputPrepSpec,
    ModelError,
    OutputSpec,
    PointBuffer,
    RSEmbedError,
    SensorSpec,
    SpecError,
    TemporalSpec,
)
from rsembed.core.serialization import canonical, from_json, to_json
from tests.contract.reference.calls import PLACE, batch, single

S2 = "COPERNICUS/S2_SR_HARMONIZED"
SPECS = [
    PointBuffer(2, 42, 640), PointBuffer(2, 42), BBox(2, 42, 3, 43), TemporalSpec.year(2022),
    TemporalSpec.range("2022-03-01", "2022-06-01"), SensorSpec(S2, ("B4", "B3")), FetchSpec(scale_m=20),
    OutputSpec.pooled("max"), OutputSpec.grid("native"), InputPrepSpec.tile(224), InputPrepSpec.resize(),
]  # fmt: skip
NOT_NUMBERS = [math.nan, math.inf, -math.inf, "2", None, True, 10**400, 1 + 2j, [2.0], np.array([1.0, 2.0])]


# Row 1: frozen value objects


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_spec_when_a_field_is_set_then_refused_and_equal_values_are_equal(spec: Any) -> None:
    field = dataclasses.fields(spec)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(spec, field, getattr(spec, field))
    twin = dataclasses.replace(spec)
    assert twin == spec
    assert {spec: 1}[twin] == 1


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_spec_when_written_as_json_then_it_comes_back_equal(spec: Any) -> None:
    assert from_json(type(spec), json.loads(canonical(spec))) == spec


# Row 2: boxes


@pytest.mark.parametrize("corner", range(4))
@pytest.mark.parametrize("value", [*NOT_NUMBERS, 181.0, -180.0000001])
def test_bbox_when_a_corner_is_no_coordinate_then_spec_error(corner: int, value: Any) -> None:
    corners: list[Any] = [0.0, 0.0, 1.0, 1.0]
    corners[corner] = value
    with pytest.raises(SpecError, match="must lie in"):
        BBox(*corners)


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4258", "", None, 4326])
def test_bbox_when_crs_is_another_then_spec_error(crs: Any) -> None:
    with pytest.raises(SpecError, match="crs must be EPSG:4326"):
        BBox(0, 0, 1, 1, crs)


@pytest.mark.parametrize("corners", [(1, 0, 1, 1), (2, 0, 1, 1), (0, 1, 1, 1), (0, 2, 1, 1)])
def test_bbox_when_corners_are_not_in_order_then_spec_error(corners: tuple[float, ...]) -> None:
    with pytest.raises(SpecError, match="must be less than"):
        BBox(*corners)


def test_bbox_when_it_is_the_whole_world_then_accepted() -> None:
    assert BBox(-180, -90, 180, 90).lon == 0


# Row 3: points


@pytest.mark.parametrize("buffer_m", [0, -1, math.nan, math.inf, "640", True, 10**400, [640]])
def test_point_when_the_buffer_is_no_length_then_spec_error(buffer_m: Any) -> None:
    with pytest.raises(SpecError, match="buffer_m must be a positive number of metres"):
        PointBuffer(0, 0, buffer_m)


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 181, -180.5])
def test_point_when_longitude_is_none_then_spec_error(value: Any) -> None:
    with pytest.raises(SpecError, match="longitude must lie in"):
        PointBuffer(value, 0, 10)


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 91, -90.5])
def test_point_when_latitude_is_none_then_spec_error(value: Any) -> None:
    with pytest.raises(SpecError, match="latitude must lie in"):
        PointBuffer(0, value, 10)


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int16, np.uint8, np.int64, Fraction, float, int])
def test_places_when_numbers_are_of_any_kind_then_they_become_pythons_own(number: Any) -> None:
    point, box = PointBuffer(number(2), number(42), number(64)), BBox(number(2), number(42), number(3), number(43))
    assert {type(value) for value in (point.lon, point.lat, point.buffer_m, box.minlon, box.maxlat)} <= {int, float}
    assert point == PointBuffer(2, 42, 64)
    assert json.loads(canonical([point, box])) == to_json([PointBuffer(2, 42, 64), BBox(2, 42, 3, 43)])


def test_places_when_numbers_are_decimal_then_spec_error_and_no_crash() -> None:
    with pytest.raises(SpecError):
        PointBuffer(Decimal(2), Decimal(42), Decimal(640))  # type: ignore[arg-type]


# Row 4: windows. A year ends before 9999 here, because a window's end has to be a day of the calendar.


@pytest.mark.parametrize("year", [0, 9999, -1, 2022.5, "2022", True, None, [2022], math.nan])
def test_year_when_it_is_no_whole_number_in_range_then_spec_error(year: Any) -> None:
    with pytest.raises(SpecError, match="whole number from 1 to 9998"):
        TemporalSpec.year(year)


@pytest.mark.parametrize("number", [np.int16, np.int64, np.uint32, int])
def test_year_when_it_comes_from_numpy_then_the_same(number: Any) -> None:
    assert TemporalSpec.year(number(2022)) == TemporalSpec.year(2022)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (dt.date(2022, 3, 1), dt.date(2022, 6, 1)),
        (dt.datetime(2022, 3, 1, 23, 59, tzinfo=dt.UTC), dt.datetime(2022, 6, 1, tzinfo=dt.UTC)),
        (np.datetime64("2022-03-01"), np.datetime64("2022-06-01T12:00")),
        ("2022-03-01", dt.date(2022, 6, 1)),
    ],
)
def test_range_when_dates_come_in_any_form_then_the_same_half_open_window(start: Any, end: Any) -> None:
    spec = TemporalSpec.range(start, end)
    assert spec == TemporalSpec.range("2022-03-01", "2022-06-01")
    assert spec == TemporalSpec("range", start, end)
    assert (spec.window.start, spec.window.days) == (dt.date(2022, 3, 1), 92)
    assert json.loads(canonical(spec)) == {"mode": "range", "start": "2022-03-01", "end": "2022-06-01"}


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2022-06-01", "2022-06-01"), ("2022-06-02", "2022-06-01"), ("June", "2022-06-01"),
        ("2022-06-01", "2022-13-01"),
        (None, "2022-06-01"), ("2022-06-01", None), ("2022-06-01", math.nan), ("", ""), (b"2022-06-01", "2022-07-01"),
    ],
)  # fmt: skip
def test_range_when_it_is_no_window_then_spec_error(start: Any, end: Any) -> None:
    with pytest.raises(SpecError):
        TemporalSpec.range(start, end)


@pytest.mark.parametrize("mode", ["month", "", None, "Year"])
def test_temporal_when_the_mode_is_unknown_then_spec_error(mode: Any) -> None:
    with pytest.raises(SpecError, match="mode must be 'year' or 'range'"):
        TemporalSpec(mode, "2022-01-01", "2022-02-01")


# Rows 5 and 6: outputs


@pytest.mark.parametrize("make", [OutputSpec.pooled, OutputSpec.grid])
@pytest.mark.parametrize("unknown", ["scale_m", "poolin", "mode", "resolution"])
def test_output_when_a_keyword_is_unknown_then_spec_error(make: Any, unknown: str) -> None:
    with pytest.raises(SpecError, match="takes"):
        make(**{unknown: 10})


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "map"}, {"mode": None}, {"pooling": "median"}, {"pooling": None}, {"grid_orientation": "south_up"},
        {"mode": ["grid"]},
    ],
)  # fmt: skip
def test_output_when_a_choice_is_wrong_then_spec_error_at_construction(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="must be one of"):
        OutputSpec(**changes)


def test_output_when_made_by_name_then_the_choices_are_set() -> None:
    assert [OutputSpec.pooled(each).pooling for each in ("mean", "max")] == ["mean", "max"]
    assert [OutputSpec.grid(each).grid_orientation for each in ("north_up", "native")] == ["north_up", "native"]
    assert OutputSpec.grid(grid_orientation="native") == OutputSpec.grid("native")
    assert OutputSpec() == OutputSpec.pooled() == OutputSpec.pooled(pooling="mean")


# Row 7: sensors


def test_sensor_when_only_bands_are_named_then_the_references_defaults() -> None:
    made = SensorSpec(S2, ("B4",))
    assert (made.scale_m, made.cloudy_pct, made.fill_value, made.composite) == (10, 30, 0, "median")


@pytest.mark.parametrize(
    "changes",
    [
        {"collection": ""}, {"collection": None}, {"bands": ()}, {"bands": "B4"}, {"bands": None}, {"bands": 4},
        {"bands": (4,)}, {"bands": ("B4", "")}, {"scale_m": 0}, {"scale_m": "10"}, {"scale_m": math.nan},
        {"cloudy_pct": 101}, {"cloudy_pct": "few"}, {"cloudy_pct": True}, {"fill_value": math.nan},
        {"fill_value": "0"}, {"composite": "mean"}, {"orbit": "SIDEWAYS"}, {"orbit": 1}, {"modality": 2},
        {"s1_require_iw": "yes"},
    ],
)  # fmt: skip
def test_sensor_when_a_value_is_wrong_then_spec_error(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        SensorSpec(**{"collection": S2, "bands": ("B4",)} | changes)


@pytest.mark.parametrize("changes", [{"scale_m": -1}, {"cloudy_pct": -1}, {"fill_value": math.inf}, {"composite": "x"}])
def test_fetch_when_a_value_is_wrong_then_spec_error(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        FetchSpec(**changes)


def test_sensor_and_fetch_when_numbers_come_from_numpy_then_they_can_be_written() -> None:
    made = SensorSpec(S2, ["B4"], np.float32(20), np.int64(40), np.float64(1))  # type: ignore[arg-type]
    assert json.loads(canonical(made)) == to_json(SensorSpec(S2, ("B4",), 20, 40, 1))
    assert json.loads(canonical(FetchSpec(scale_m=np.float32(2.5))))["scale_m"] == 2.5


# Row 8: input preparation


def test_input_prep_when_nothing_is_said_then_tiles_with_both_limits() -> None:
    made = InputPrepSpec()
    assert made == InputPrepSpec.tile()
    assert (made.mode, made.max_tiles, made.max_tiles_hard, made.tile_snap_frac) == ("tile", 64, 1024, 0.1)
    assert (InputPrepSpec.resize().mode, InputPrepSpec.auto().mode) == ("resize", "auto")


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "crop"}, {"tile_size": 0}, {"max_tiles": 0}, {"max_tiles": 65, "max_tiles_hard": 64},
        {"tile_snap_frac": 0.6}, {"tile_snap_frac": math.nan},
    ],
)  # fmt: skip
def test_input_prep_when_a_value_is_wrong_then_spec_error(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError):
        InputPrepSpec(**changes)


# Row 9: places of a call


class Elsewhere:
    """A place of somebody's own, without ``validate``."""

    lon, lat, buffer_m = 2.0, 42.0, 40.0


@pytest.mark.parametrize("spatial", [Elsewhere(), (2.0, 42.0), {"lon": 2}, "2,42", None, 5, PointBuffer])
def test_call_when_the_place_is_no_spec_then_model_error(spatial: Any) -> None:
    with pytest.raises(ModelError, match="a spatial must be a PointBuffer or a BBox"):
        single(spatial=spatial)
    with pytest.raises(ModelError, match="a spatial must be a PointBuffer or a BBox"):
        batch(spatials=[PLACE, spatial])


@pytest.mark.parametrize("spatials", [[], (), "ab", PLACE, {PLACE}, {"a": PLACE}, 7, iter([PLACE])])
def test_batch_when_places_are_no_list_then_model_error(spatials: Any) -> None:
    with pytest.raises(ModelError, match="spatials must be a non-empty list"):
        batch(spatials=spatials)


def test_batch_when_places_are_a_tuple_then_as_a_list() -> None:
    assert [each.data.tobytes() for each in batch(spatials=(PLACE, PLACE))] == [
        each.data.tobytes() for each in batch(spatials=[PLACE, PLACE])
    ]


@pytest.mark.parametrize("temporal", ["2022", 2022, ("2022-01-01", "2023-01-01"), dt.date(2022, 1, 1), TemporalSpec])
def test_call_when_temporal_is_no_spec_then_named_error(temporal: Any) -> None:
    with pytest.raises(RSEmbedError, match="temporal must be TemporalSpec"):
        single(temporal=temporal)


def test_specs_when_validated_by_hand_then_nothing_is_left_to_find() -> None:
    for spec in SPECS[:5]:
        spec.validate()
