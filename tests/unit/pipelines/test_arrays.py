from __future__ import annotations

import numpy as np
import pytest

from rsembed.core.errors import ModelError, SpecError
from rsembed.core.specs import BBox, PointBuffer
from rsembed.pipelines.arrays import array_input, array_inputs
from rsembed.tools.temporal import equal_bins
from tests.builders import YEAR, run_plan

PLACE = PointBuffer(2.0, 42.0)
MODEL = run_plan("null-wide").models[0]


@pytest.mark.parametrize(
    "shape", [(2, 16), (1, 16, 16), (3, 16, 16), (1, 1, 16, 16), (1, 1, 2, 16, 16), (2, 0, 16), ()]
)
def test_array_when_its_shape_does_not_fit_then_the_bands_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=r"\(C, H, W\) or \(T, C, H, W\) with C = 2 bands \(B2, B1\); got shape"):
        array_input(MODEL, np.zeros(shape), PLACE, YEAR)


def test_array_when_it_has_frames_then_they_are_equal_bins_dated_at_their_middle() -> None:
    row = array_input(MODEL, np.ones((3, 2, 16, 16)), PLACE, YEAR)
    bins = equal_bins(YEAR, 3)
    assert [frame.window for frame in row.patch.frames] == list(bins)
    assert [frame.date for frame in row.patch.frames] == [each.midpoint for each in bins]
    assert row.patch.bands == ("B2", "B1")


def test_array_when_it_has_more_frames_than_days_then_refused() -> None:
    with pytest.raises(SpecError, match="cannot be cut into 366 frames"):
        array_input(MODEL, np.zeros((366, 2, 1, 1)), PLACE, YEAR)


def test_array_when_pixels_are_no_numbers_then_they_are_missing() -> None:
    array = np.ones((2, 2, 16, 16))
    array[0, 0, 0, 0], array[0, 1, 0, 1], array[1] = np.nan, np.inf, np.nan
    found = array_input(MODEL, array, PLACE, YEAR).patch
    assert not found.valid_tchw[0, 0, 0, 0]
    assert not found.valid_tchw[0, 1, 0, 1]
    assert found.values_tchw[0, 0, 0, 0] == 0
    assert [frame.n_images for frame in found.frames] == [1, 0]
    assert np.isfinite(found.values_tchw).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64, np.float32])
def test_array_when_its_type_differs_then_values_do_not(dtype: type) -> None:
    array = np.arange(512).reshape(2, 16, 16).astype(dtype)
    found = array_input(MODEL, array, PLACE, YEAR).patch.values_tchw
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], array.astype(np.float32))


def test_array_when_it_is_larger_than_the_model_then_tiles_within_it() -> None:
    row = array_input(MODEL, np.zeros((2, 16, 41)), BBox(2.0, 42.0, 2.1, 42.1), YEAR)
    assert row.footprint.forwards == 3
    assert (row.footprint.fetch_height, row.footprint.fetch_width) == (16, 41)
    assert row.patch.grid.width == 41


def test_array_when_near_a_pole_then_accepted() -> None:
    assert array_input(MODEL, np.zeros((2, 16, 16)), PointBuffer(2.0, 89.0), YEAR).lat == 89.0


def test_arrays_when_there_are_fewer_than_places_then_refused_with_both_counts() -> None:
    with pytest.raises(ModelError, match="1 arrays were given for 2 spatials"):
        array_inputs(MODEL, [np.zeros((2, 16, 16))], [PLACE, PLACE], [YEAR, YEAR])


@pytest.mark.parametrize("array", [np.full((2, 16, 16), "a"), np.ones((2, 16, 16), dtype=np.complex64)])
def test_array_when_it_holds_no_real_numbers_then_refused(array: np.ndarray) -> None:
    with pytest.raises(ModelError, match="array of real numbers"):
        array_input(MODEL, array, PLACE, YEAR)


def test_array_when_nothing_is_finite_then_refused() -> None:
    with pytest.raises(ModelError, match="no finite pixel"):
        array_input(MODEL, np.full((2, 16, 16), np.nan), PLACE, YEAR)
