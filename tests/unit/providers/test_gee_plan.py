"""What is decided about an Earth Engine request before an expression is made of it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from rsembed.core.fetching import CloudPolicy, FetchRecipe, FetchRequest, Grid
from rsembed.core.specs import Window
from rsembed.providers.collections import collection_info
from rsembed.providers.gee_plan import GraphPlan, ground_pixel_m, plan_graph

S2 = "COPERNICUS/S2_SR_HARMONIZED"
YEAR = Window(dt.date(2022, 1, 1), dt.date(2023, 1, 1))


def plan(scale_m: float = 10.0, bands: tuple[str, ...] = ("B4", "B5", "B1"), **recipe: Any) -> GraphPlan:
    collection = recipe.pop("collection", S2)
    grid = recipe.pop("target", Grid(32631, 480_000.0, 4_700_000.0, scale_m, 32, 32))
    request = FetchRequest(FetchRecipe(collection, scale_m, **recipe), bands, grid, (YEAR,))
    return plan_graph(request, collection_info(collection))


@pytest.mark.parametrize(
    ("scale_m", "averaged"),
    [(10.0, set()), (20.0, {"B4"}), (30.0, {"B4", "B5"}), (60.0, {"B4", "B5"}), (100.0, {"B4", "B5", "B1"})],
)
def test_plan_graph_when_coarser_than_a_band_then_that_band_is_averaged(scale_m: float, averaged: set[str]) -> None:
    groups = plan(scale_m).groups
    assert {band for group in groups if group.average for band in group.bands} == averaged
    assert {band for group in groups for band in group.bands} == {"B4", "B5", "B1"}


def test_plan_graph_when_nearest_is_asked_then_nothing_is_averaged() -> None:
    groups = plan(60.0, resampling="nearest").groups
    assert [(group.bands, group.average, group.coarser) for group in groups] == [
        (("B1",), False, False),
        (("B4", "B5"), False, True),
    ]


def test_plan_graph_when_bands_are_averaged_then_enough_pixels_may_take_part() -> None:
    [group] = plan(100.0, ("B4",)).groups
    assert group.max_pixels >= 12 * 12


def test_plan_graph_when_a_mosaic_keeps_stored_numbers_then_they_travel_as_such() -> None:
    columns = plan(20.0, ("B4", "B5", "SCL"), composite="mosaic").layout.columns
    assert [column.dtype for column in columns] == ["float32", "uint16", "uint8"]
    assert {column.dtype for column in plan(10.0).layout.columns} == {"float32"}


def test_plan_graph_when_bands_are_named_twice_then_asked_for_once() -> None:
    assert plan(10.0, ("red", "B4", "NIR")).bands == ("B4", "B8")


@pytest.mark.parametrize(("collection", "mask"), [(S2, "scl"), ("COPERNICUS/S2_HARMONIZED", "none")])
def test_plan_graph_when_there_is_no_classification_then_no_mask(collection: str, mask: str) -> None:
    assert plan(10.0, ("B4",), collection=collection).mask == mask


def test_plan_graph_when_classes_would_come_from_a_pyramid_then_pinned() -> None:
    assert [plan(scale_m).pin_classes for scale_m in (10.0, 20.0, 30.0, 40.0, 60.0)] == [False] * 3 + [True] * 2


def test_plan_graph_when_the_collection_has_no_cloud_property_then_no_filter() -> None:
    assert plan(10.0).cloud_steps == (60.0, 90.0)
    assert plan(10.0, clouds=CloudPolicy("none", 30.0, None)).cloud_steps == (30.0,)
    assert plan(10.0, ("VV",), collection="COPERNICUS/S1_GRD").cloud_steps == (None,)
    assert plan(10.0, ("A00",), collection="GOOGLE/SATELLITE_EMBEDDING/V1/ANNUAL").cloud_steps == (None,)


def test_ground_pixel_m_when_in_web_mercator_then_what_it_measures_on_the_ground() -> None:
    north = Grid(3857, 334_000.0, 8_399_730.0, 10.0, 2, 2)  # 60 N
    assert ground_pixel_m(north) == pytest.approx(5.0, abs=0.02)
    assert ground_pixel_m(Grid(32631, 480_000.0, 4_700_000.0, 10.0, 2, 2)) == 10.0
