"""Steps on series of images: bins without an image, days, statistics of a series, missing pixels when resizing."""

from __future__ import annotations

import datetime as dt

import numpy as np

from rsembed.embedders.series import days_of_year, every_bin, resize_where_valid, standardise_by_itself


def frames(*levels: float) -> np.ndarray:
    return np.stack([np.full((1, 2, 2), level, np.float32) for level in levels])


def test_every_bin_when_some_are_empty_then_they_take_the_median_of_the_others() -> None:
    filled = every_bin(frames(1, 2, 9), (0, 2, 3), 5, wanted=8)
    assert filled[:, 0, 0, 0].tolist() == [1, 2, 2, 9, 2]
    assert filled.dtype == np.float32


def test_every_bin_when_none_is_empty_then_the_frames_as_they_are() -> None:
    given = frames(1, 2)
    assert every_bin(given, (0, 1), 2, wanted=8) is given


def test_every_bin_when_one_image_is_in_hand_then_it_is_repeated() -> None:
    assert every_bin(frames(3), (0,), 1, wanted=4)[:, 0, 0, 0].tolist() == [3, 3, 3, 3]


def test_days_of_year_when_given_dates_then_days_since_new_year_up_to_364() -> None:
    days = days_of_year([dt.date(2023, 1, 1), dt.date(2023, 12, 31), dt.date(2024, 12, 31)])
    assert days.tolist() == [0, 364, 364]
    assert days.dtype == np.int64


def test_standardise_by_itself_when_pixels_are_missing_then_they_do_not_count() -> None:
    values = np.array([[[[1.0, 3.0], [500.0, 1.0]]], [[[3.0, 1.0], [3.0, 700.0]]]], np.float32)
    found = standardise_by_itself(values, values < 100)
    np.testing.assert_allclose(found[values < 100], values[values < 100] - 2, atol=1e-6)


def test_standardise_by_itself_when_a_band_is_flat_or_empty_then_finite() -> None:
    flat = frames(7, 7)
    assert not standardise_by_itself(flat, np.ones(flat.shape, bool)).any()
    assert np.isfinite(standardise_by_itself(flat, np.zeros(flat.shape, bool))).all()


def test_resize_where_valid_when_pixels_are_missing_then_only_the_others_are_mixed() -> None:
    values = np.full((1, 1, 8, 8), 5.0, np.float32)
    valid = np.ones(values.shape, bool)
    valid[..., :4], values[..., :4] = False, 1000.0
    resized, good = resize_where_valid(values, valid, 4)
    assert good[0, 0, 0].tolist() == [False, False, True, True]
    np.testing.assert_allclose(resized[good], 5.0)
    assert not resized[..., 0].any()


def test_resize_where_valid_when_a_rectangle_then_values_and_mask_are_mirrored_alike() -> None:
    values = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    valid = np.ones(values.shape, bool)
    valid[0, 0, 1, 2] = False
    resized, good = resize_where_valid(values, valid, 4)
    assert resized[0, 0, 3].tolist() == [4, 5, 0, 7]
    assert good[0, 0, 3].tolist() == [True, True, False, True]
