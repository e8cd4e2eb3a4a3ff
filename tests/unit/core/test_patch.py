from __future__ import annotations

import numpy as np
import pytest

from rsembed.core.errors import SpecError
from tests.builders import frame, grid, patch


def test_patch_when_arrays_do_not_fit_its_axes_then_refused_with_both_shapes() -> None:
    with pytest.raises(SpecError, match=r"\(1, 2, 8, 8\).*\(1, 1, 8, 8\)"):
        patch(bands=("B1", "B2"), values=np.zeros((1, 1, 8, 8), np.float32))


def test_patch_when_the_mask_has_another_shape_then_refused() -> None:
    with pytest.raises(SpecError, match="mask"):
        patch(valid=np.ones((1, 1, 8, 7), np.bool_))


def test_select_when_order_differs_then_bands_follow_the_order_asked_for() -> None:
    whole = patch(bands=("B1", "B2", "B3"))
    part = whole.select(["B3", "B1"])
    assert part.bands == ("B3", "B1")
    np.testing.assert_array_equal(part.values_tchw[:, 0], whole.values_tchw[:, 2])
    np.testing.assert_array_equal(part.values_tchw[:, 1], whole.values_tchw[:, 0])


def test_select_when_nothing_changes_then_it_is_the_same_patch() -> None:
    whole = patch(bands=("B1", "B2"))
    assert whole.select(("B1", "B2")) is whole


def test_select_when_a_band_is_missing_then_it_is_named() -> None:
    with pytest.raises(SpecError, match="asked for B9"):
        patch(bands=("B1",)).select(["B1", "B9"])


def test_crop_when_the_grid_is_its_own_then_it_is_the_same_patch() -> None:
    whole = patch()
    assert whole.crop(grid()) is whole


def test_crop_when_central_then_the_same_pixels_are_found() -> None:
    whole = patch(on=grid(height=8, width=12))
    part = whole.crop(whole.grid.centre_crop(4, 6))
    np.testing.assert_array_equal(part.values_tchw, whole.values_tchw[:, :, 2:6, 3:9])
    assert part.grid.x_min == whole.grid.x_min + 30
    assert part.grid.y_max == whole.grid.y_max - 20


def test_valid_fraction_when_a_pixel_lacks_one_band_then_it_does_not_count() -> None:
    valid = np.ones((1, 2, 8, 8), np.bool_)
    valid[0, 1, :2] = False
    assert patch(bands=("B1", "B2"), valid=valid).valid_fraction() == 0.75
    assert patch(bands=("B1", "B2"), valid=valid).select(["B1"]).valid_fraction() == 1.0


def test_valid_fraction_when_a_frame_is_empty_then_the_others_count() -> None:
    valid = np.ones((2, 1, 8, 8), np.bool_)
    valid[1] = False
    assert patch(frames=(frame(), frame(n_images=0)), valid=valid).valid_fraction() == 1.0


def test_valid_fraction_when_no_frame_has_imagery_then_zero() -> None:
    found = patch(frames=(frame(n_images=0),), valid=np.zeros((1, 1, 8, 8), np.bool_))
    assert found.valid_fraction() == 0.0
    assert found.is_empty
    assert found.n_images == 0


def test_valid_fraction_when_a_part_is_asked_about_then_only_that_counts() -> None:
    valid = np.zeros((1, 1, 8, 8), np.bool_)
    valid[..., 2:6, 2:6] = True
    found = patch(valid=valid)
    assert found.valid_fraction(found.grid.centre_crop(4, 4)) == 1.0
    assert found.valid_fraction() == 0.25
