"""A product's own pixels: every one that a box touches, wherever it lies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rsembed.core.fetching import PixelLattice
from rsembed.tools.lattices import buffer_boxes, touched_grids
from rsembed.tools.spatial import from_lonlat

QUARTER = PixelLattice(0.25, -180.0, 90.125)


def touched(boxes: np.ndarray, lattice: PixelLattice = QUARTER, grid: str = "lonlat"):
    lon, lat = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
    return touched_grids(lon, lat, boxes, lattice, grid)


def test_touched_when_boxes_lie_anywhere_then_floor_and_ceiling_of_their_edges() -> None:
    random = np.random.default_rng(0)
    low = random.uniform([-179, -85], [170, 75], (50, 2))
    boxes = np.concatenate([low, low + random.uniform(0.01, 5, (50, 2))], axis=1)
    grids = touched(boxes)
    for i, (minlon, minlat, maxlon, maxlat) in enumerate(boxes):
        grid = grids[i]
        col, row = math.floor((minlon + 180) / 0.25), math.floor((90.125 - maxlat) / 0.25)
        assert (grid.epsg, grid.scale_m) == (4326, 0.25)
        assert (grid.x_min, grid.y_max) == (-180 + col * 0.25, 90.125 - row * 0.25)
        assert grid.width == math.ceil((maxlon + 180) / 0.25) - col
        assert grid.height == math.ceil((90.125 - minlat) / 0.25) - row


def test_touched_when_edges_lie_on_the_lattice_then_no_further_pixel() -> None:
    grid = touched(np.array([[10.0, 45.125, 10.5, 45.625]]))[0]
    assert (grid.height, grid.width) == (2, 2)
    assert grid.bounds == (10.0, 45.125, 10.5, 45.625)


@pytest.mark.parametrize("place", [(10.1, 45.2), (10.0, 45.125), (-180.0, -90.0), (179.9, 89.9)])
def test_touched_when_a_point_has_no_extent_then_the_pixel_it_lies_in(place: tuple[float, float]) -> None:
    grid = touched(np.array([[*place, *place]]))[0]
    left, bottom, right, top = grid.bounds
    assert (grid.height, grid.width) == (1, 1)
    assert left <= place[0] <= right
    assert bottom <= place[1] <= top


@pytest.mark.parametrize("place", [(0.2, 52.05), (-60.03, -3.1), (5.99, 45.0)])
def test_touched_when_pixels_are_metres_then_those_of_the_places_zone(place: tuple[float, float]) -> None:
    lon, lat = place
    box = np.array([[lon - 0.02, lat - 0.01, lon + 0.02, lat + 0.01]])
    grid = touched(box, PixelLattice(10.0, 3.0, 7.0), "utm")[0]
    x, y = from_lonlat(grid.epsg, box[0, [0, 2]], box[0, [1, 3]])
    left, bottom, right, top = grid.bounds
    assert left <= x.min() < left + 10
    assert right - 10 < x.max() <= right
    assert bottom <= y.min() < bottom + 10
    assert top - 10 < y.max() <= top
    assert (left - 3) % 10 == pytest.approx(0)
    assert (7 - top) % 10 == pytest.approx(0)


def test_buffer_boxes_when_far_from_the_equator_then_wider_in_degrees() -> None:
    boxes = buffer_boxes(np.array([0.0, 0.0]), np.array([0.0, 60.0]), 11_132.0)
    np.testing.assert_allclose(boxes, [[-0.1, -0.1, 0.1, 0.1], [-0.2, 59.9, 0.2, 60.1]])


def test_buffer_boxes_when_near_a_pole_then_they_end_there() -> None:
    boxes = buffer_boxes(np.array([10.0]), np.array([89.95]), 20_000.0)
    assert boxes[0, 3] == 90.0
    assert np.isfinite(boxes).all()


@pytest.mark.parametrize(("lon", "lat"), [(179.95, -17.0), (-179.99, 65.0), (10.0, 89.97), (0.0, -89.99)])
def test_footprints_when_cells_lie_at_the_ends_of_the_world_then_they_stay_within(lon: float, lat: float) -> None:
    place = (np.array([lon]), np.array([lat]))
    grids = touched_grids(*place, buffer_boxes(*place, 30_000.0), QUARTER, "lonlat")
    [outline] = grids.footprints()
    west, south, east, north = outline.bounds
    assert -180 <= west <= east <= 180
    assert -90 <= south <= north <= 90
    covered = (min(90.0, grids[0].bounds[3]) - max(-90.0, grids[0].bounds[1])) * grids[0].width * 0.25
    assert outline.area == pytest.approx(covered)
