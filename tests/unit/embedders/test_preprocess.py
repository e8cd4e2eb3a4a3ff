"""Pixel steps: filling, scaling, padding, resizing, dates."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from rsembed.core.errors import ModelError
from rsembed.embedders import preprocess


def test_fill_invalid_when_masked_nan_or_infinite_then_the_fill() -> None:
    values = np.array([[1.0, np.nan, np.inf, 4.0]], np.float32)
    filled = preprocess.fill_invalid(values, np.array([[True, True, True, False]]), 0.5)
    assert filled.tolist() == [[1.0, 0.5, 0.5, 0.5]]
    assert np.isnan(values[0, 1])


def test_fill_band_mean_when_pixels_are_missing_then_the_mean_of_the_others() -> None:
    values = np.array([[[2.0, 4.0], [99.0, np.nan]], [[7.0, 7.0], [7.0, 7.0]]], np.float32)
    valid = np.array([[[True, True], [False, True]], [[False] * 2] * 2])
    filled = preprocess.fill_band_mean(values, valid)
    assert filled[0].tolist() == [[2.0, 4.0], [3.0, 3.0]]
    assert filled[1].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_reflectance_to_uint8_when_bright_or_negative_then_clipped_and_cut() -> None:
    values = np.array([-50.0, 0.0, 39.0, 5000.0, 10000.0, 20000.0], np.float32)
    assert preprocess.reflectance_to_uint8(values).tolist() == [0, 0, 0, 127, 255, 255]


def test_standardise_when_channels_differ_then_error() -> None:
    with pytest.raises(ModelError, match="expected 3 channels"):
        preprocess.standardise(np.zeros((1, 2, 4, 4), np.float32), (0, 0, 0), (1, 1, 1))


def test_pad_to_square_when_wide_then_mirrored_at_the_bottom() -> None:
    values = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    assert preprocess.pad_to_square(values)[0].tolist() == [[0, 1, 2], [3, 4, 5], [0, 1, 2]]


def test_pad_to_square_when_very_wide_then_mirrored_again_and_again() -> None:
    assert preprocess.pad_to_square(np.ones((1, 2, 9), np.float32)).shape == (1, 9, 9)
    assert preprocess.pad_to_square(np.ones((1, 1, 4), np.float32)).tolist() == [[[1.0] * 4] * 4]


def test_resize_bilinear_when_halved_then_means_of_pairs_without_antialias() -> None:
    values = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    assert preprocess.resize_bilinear(values, 2)[0].tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_resize_bilinear_when_the_size_fits_then_the_same_values() -> None:
    values = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    assert preprocess.resize_bilinear(values, 8) is values


def test_resize_bicubic_uint8_when_constant_then_constant() -> None:
    bytes_ = np.full((3, 10, 10), 77, np.uint8)
    assert np.array_equal(preprocess.resize_bicubic_uint8(bytes_, 4), np.full((3, 4, 4), 77, np.uint8))


def test_year_and_day_when_leap_year_ends_then_day_366() -> None:
    assert preprocess.year_and_day([dt.date(2020, 12, 31)]).tolist() == [[2020.0, 366.0]]


def test_distinct_frames_when_one_repeats_then_its_first_occurrence() -> None:
    frames = np.array([1, 2, 1, 3, 2], np.float32).reshape(5, 1, 1, 1)
    assert preprocess.distinct_frames(frames) == [0, 1, 3]


def test_square_frame_when_there_are_two_frames_then_error() -> None:
    values = np.ones((2, 1, 2, 2), np.float32)
    with pytest.raises(ModelError, match="one frame, got 2"):
        preprocess.square_frame(values, values > 0)


def test_square_frame_when_pixels_are_missing_then_filled_before_mirroring() -> None:
    values = np.array([[[[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]]]], np.float32)
    square = preprocess.square_frame(values, np.ones(values.shape, bool), fill=9.0)
    assert square[0].tolist() == [[1, 2, 3], [4, 5, 9], [1, 2, 3]]


def test_stretch_to_uint8_when_outside_then_clipped_and_inside_cut() -> None:
    values = np.array([[[0.0, 60.0, 80.0, 100.0, 119.9, 500.0]]], np.float32)
    assert preprocess.stretch_to_uint8(values, (100.0,), (20.0,))[0, 0].tolist() == [0, 0, 63, 127, 190, 255]
    with pytest.raises(ModelError, match="expected 2 channels"):
        preprocess.stretch_to_uint8(values, (0, 0), (1, 1))


def test_resize_bicubic_when_shrunk_then_antialiased_and_constants_stay() -> None:
    stripes = np.tile(np.array([0.0, 1.0], np.float32), (1, 16, 8))
    assert preprocess.resize_bicubic(stripes, 4)[0, 1:3, 1:3] == pytest.approx(0.5, abs=0.02)
    assert preprocess.resize_bicubic(np.full((2, 3, 5), 7.0, np.float32), 9) == pytest.approx(7.0)
    assert preprocess.resize_bicubic(stripes, 16) is stripes


def test_only_frame_when_there_is_one_then_without_its_axis() -> None:
    values = np.ones((1, 2, 3, 3), np.float32)
    frame, valid = preprocess.only_frame(values, values > 0)
    assert frame.shape == valid.shape == (2, 3, 3)


def test_decibels_when_power_is_tiny_then_a_floor() -> None:
    power = np.array([1.0, 0.01, 0.0, -0.5], np.float32)
    np.testing.assert_allclose(preprocess.decibels(power), [0, -20, -100, -100], atol=1e-5)


def test_require_power_when_half_is_negative_then_accepted_but_not_more() -> None:
    preprocess.require_power(np.array([0.0, 0.0, -1.0, 1.0, np.nan], np.float32))
    with pytest.raises(ModelError, match="look like decibels"):
        preprocess.require_power(np.array([0.0, 0.0, -1.0, -2.0, 1.0, np.nan], np.float32))


def test_log_power_to_unit_when_bands_differ_then_one_percentile_for_both() -> None:
    power = np.stack([np.full((10, 10), 0.1), np.full((10, 10), 0.5)]).astype(np.float32)
    scaled = preprocess.log_power_to_unit(power)
    assert scaled[1] == pytest.approx(1.0)
    assert scaled[0] == pytest.approx(np.log1p(0.1) / np.log1p(0.5))


def test_log_power_to_unit_when_there_is_no_power_then_zeros() -> None:
    assert not preprocess.log_power_to_unit(np.zeros((2, 4, 4), np.float32)).any()
