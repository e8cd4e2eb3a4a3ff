from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsembed.core.errors import ModelError
from rsembed.core.fetching import Grid
from rsembed.core.specs import InputPrepSpec
from rsembed.embedders.roi import canvas_box, on_canvas
from rsembed.embedders.snapping import roi_in_square
from rsembed.embedders.stitching import pool_tiles, stitch
from rsembed.tools.cells import CellLattice
from rsembed.tools.tiling import Footprint, plan_footprint

SIZES = st.integers(1, 60)
NATIVE = st.integers(4, 40).map(lambda n: 2 * n)


@st.composite
def preps(draw: st.DrawFn) -> InputPrepSpec:
    size = draw(st.none() | st.integers(4, 50))
    stride = None if size is None else draw(st.none() | st.integers(max(1, size // 3), size))
    snap = draw(st.sampled_from([0.0, 0.1, 0.5]))
    return InputPrepSpec.tile(size, stride, max_tiles_hard=10**6, tile_snap_frac=snap)


def covers(footprint: Footprint) -> list[tuple[float, float, float, float]]:
    return [(t.col, t.row, t.col + t.width, t.row + t.height) for t in footprint.tiles]


def coordinates(footprint: Footprint, cell_px: int) -> list[np.ndarray]:
    """A map for each tile that says of each cell where its centre lies: (2, h, w), x and y in pixels."""
    maps = []
    for tile in footprint.tiles:
        h, w = max(1, round(tile.height / cell_px)), max(1, round(tile.width / cell_px))
        x = tile.col + (np.arange(w) + 0.5) * tile.width / w
        y = tile.row + (np.arange(h) + 0.5) * tile.height / h
        maps.append(np.stack(np.broadcast_arrays(x[None, :], y[:, None])).astype(np.float32))
    return maps


@given(SIZES, SIZES, NATIVE, preps(), st.sampled_from(["native", "none"]), st.booleans())
def test_stitch_when_a_model_gives_a_cell_for_each_pixel_then_the_asked_pixels_come_back_once_each(
    height: int, width: int, native: int, prep: InputPrepSpec, context: str, in_hand: bool
) -> None:
    if not in_hand:
        height, width = 2 * height, 2 * width
    found = plan_footprint(height, width, native, context=context, prep=prep, in_hand=in_hand)  # type: ignore[arg-type]
    image = np.arange(found.fetch_height * found.fetch_width, dtype=np.float32)
    image = image.reshape(1, found.fetch_height, found.fetch_width)
    maps = [image[:, t.row : t.row + t.height, t.col : t.col + t.width] for t in found.tiles]
    top, left = (found.fetch_height - height) // 2, (found.fetch_width - width) // 2
    whole = stitch(maps, covers(found), [t.roi for t in found.tiles])
    np.testing.assert_array_equal(whole.values, image[:, top : top + height, left : left + width])
    assert whole.cells == CellLattice(left, top, 1.0, 1.0)


@given(SIZES, SIZES, NATIVE, preps(), st.integers(2, 16))
def test_stitch_when_cells_are_coarse_then_each_holds_the_answer_for_the_ground_it_lies_on(
    height: int, width: int, native: int, prep: InputPrepSpec, cell_px: int
) -> None:
    found = plan_footprint(2 * height, 2 * width, native, prep=prep)
    maps = coordinates(found, cell_px)
    whole = stitch(maps, covers(found), [t.roi for t in found.tiles])
    lattice, (_, h, w) = whole.cells, whole.values.shape
    assert lattice is not None
    x = lattice.left + (np.arange(w) + 0.5) * lattice.width
    y = lattice.top + (np.arange(h) + 0.5) * lattice.height
    # Half a cell of a tile that is not on the lattice, and what slightly unequal tiles add up to.
    across = max(t.width / m.shape[2] for t, m in zip(found.tiles, maps, strict=True))
    down = max(t.height / m.shape[1] for t, m in zip(found.tiles, maps, strict=True))
    slack = 1.0 + (len(found.tiles) > 1 and prep.tile_snap_frac > 0) * max(across, down)
    assert np.abs(whole.values[0] - x[None, :]).max() <= across / 2 + slack
    assert np.abs(whole.values[1] - y[:, None]).max() <= down / 2 + slack
    # The map is as large as the ground, to a cell.
    assert abs(w * lattice.width - 2 * width) <= max(across, 2 * width if w == 1 else 0) + 1e-6
    assert abs(h * lattice.height - 2 * height) <= max(down, 2 * height if h == 1 else 0) + 1e-6


def test_stitch_when_tiles_fit_the_lattice_then_tokens_stand_as_the_network_gave_them() -> None:
    found = plan_footprint(64, 128, 64)
    maps = [np.full((3, 4, 4), i, np.float32) for i in range(2)]
    whole = stitch(maps, covers(found), [t.roi for t in found.tiles])
    assert whole.values.shape == (3, 4, 8)
    assert whole.values[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert whole.cells == CellLattice(0.0, 0.0, 16.0, 16.0)


def test_stitch_when_the_middle_of_one_input_was_asked_for_then_cells_whose_centre_is_inside() -> None:
    grid = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    found = stitch([grid], [(0, 0, 64, 64)], [(0.25, 0.25, 0.75, 0.75)])
    assert found.values.tolist() == [[[5.0, 6.0], [9.0, 10.0]]]
    assert found.cells == CellLattice(16.0, 16.0, 16.0, 16.0)


def test_stitch_when_the_image_ends_in_the_middle_of_a_cell_then_that_cell_is_left_out() -> None:
    found = plan_footprint(20, 20, 16, prep=InputPrepSpec.tile(tile_snap_frac=0))
    maps = coordinates(found, 8)
    whole = stitch(maps, covers(found), [t.roi for t in found.tiles])
    assert whole.values.shape == (2, 2, 2)
    assert whole.cells == CellLattice(0.0, 0.0, 8.0, 8.0)


def test_stitch_when_no_centre_is_inside_then_the_cell_around_the_middle() -> None:
    grid = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    assert stitch([grid], [(0, 0, 64, 64)], [(0.52, 0.52, 0.55, 0.55)]).values.tolist() == [[[10.0]]]


def test_stitch_when_the_input_was_padded_then_no_cell_of_the_padding_comes_back() -> None:
    grid = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    seen = on_canvas((0.0, 0.0, 1.0, 1.0), 32, 64, 64, 64)
    found = stitch([grid], [(0, 0, 64, 64)], [seen])
    assert found.values.shape == (1, 2, 4)


def test_stitch_when_tiles_are_missing_then_an_error() -> None:
    boxes = [(0.0, 0.0, 1.0, 1.0), (1.0, 0.0, 2.0, 1.0), (0.0, 1.0, 1.0, 2.0)]
    with pytest.raises(ModelError, match="3 tiles do not fill a grid of 2 x 2"):
        stitch([np.zeros((1, 1, 1), np.float32)] * 3, boxes, [(0.0, 0.0, 1.0, 1.0)] * 3)


def test_lattice_when_laid_on_the_fetched_grid_then_cells_have_metres() -> None:
    grid = Grid(32631, 400_000.0, 4_700_000.0, 10.0, 64, 64)
    cells = CellLattice(16.0, 32.0, 16.0, 8.0).on(grid, (4, 2))
    assert cells.transform == (160.0, 0.0, 400_160.0, 0.0, -80.0, 4_699_680.0)
    assert (cells.height, cells.width, cells.epsg) == (4, 2, 32631)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 40))
def test_canvas_box_when_a_tile_is_padded_to_the_right_then_the_box_is_the_canvas(h: int, w: int, more: int) -> None:
    box = canvas_box(lambda roi, height, width: on_canvas(roi, height, width, h + more, w + 2 * more), h, w)
    assert box == pytest.approx((0.0, 0.0, w + 2 * more, h + more), abs=1e-6)


@given(st.integers(16, 300), st.integers(8, 64))
def test_canvas_box_when_the_centre_is_cut_out_then_the_box_is_the_square(size: int, unit: int) -> None:
    side = max(unit, size // unit * unit)
    box = canvas_box(lambda roi, height, width: roi_in_square(roi, height, width, side), size, size)
    assert math.isclose(box[2] - box[0], side, abs_tol=1e-6)
    assert abs((box[0] + box[2]) / 2 - size / 2) <= 1


def test_pool_tiles_when_mean_then_weighted_by_owned_ground() -> None:
    vectors = [np.array([1.0, 2.0], np.float32), np.array([4.0, 8.0], np.float32)]
    assert pool_tiles(vectors, [2.0, 1.0], "mean").tolist() == [2.0, 4.0]
    assert pool_tiles(vectors, [2.0, 1.0], "max").tolist() == [4.0, 8.0]
