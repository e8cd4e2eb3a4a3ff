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
