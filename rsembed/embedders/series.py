"""Steps on series of images that models share: bins without an image, dates, statistics of a series, missing pixels.

Arrays are float32 (T, C, H, W); masks are bool of the same shape. torch is imported where it is used.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsembed.embedders.preprocess import Floats, Mask, pad_to_square, resize_bilinear

_LAST_DAY = 364


def every_bin(frames_tchw: Floats, slots: Sequence[int], n_bins: int, *, wanted: int) -> Floats:
    """A frame for each of ``n_bins`` as the reference system has it, where ``frames_tchw`` are those at ``slots``.

    An empty bin takes the median of the others, which stands for the reference's composite of the whole window. The
    only frame of a single bin is repeated ``wanted`` times.
    """
    if n_bins == 1:
        return np.repeat(frames_tchw, wanted, axis=0)
    if len(frames_tchw) == n_bins:
        return frames_tchw
    filled = np.repeat(np.median(frames_tchw, axis=0, keepdims=True), n_bins, axis=0).astype(np.float32)
    filled[list(slots)] = frames_tchw
    return filled


def days_of_year(dates: Sequence[dt.date]) -> NDArray[np.int64]:
    """(T,): days since 1 January; 31 December of a leap year counts as the day before."""
    return np.array([min(day.timetuple().tm_yday - 1, _LAST_DAY) for day in dates], dtype=np.int64)


def standardise_by_itself(values_tchw: Floats, valid_tchw: Mask) -> Floats:
    """``(x - mean) / std`` of each band over the valid pixels of all frames, in float64; a std below 1e-6 is 1e-6."""
    over = (0, 2, 3)
    count = np.maximum(valid_tchw.sum(axis=over, keepdims=True), 1)
    mean = values_tchw.sum(axis=over, keepdims=True, dtype=np.float64, where=valid_tchw) / count
    centred = values_tchw - mean
    std = np.sqrt((centred**2).sum(axis=over, keepdims=True, where=valid_tchw) / count)
    return np.asarray(centred / np.maximum(std, 1e-6), dtype=np.float32)


def resize_where_valid(values: Floats, valid: Mask, size: int) -> tuple[Floats, Mask]:
    """Values and mask mirrored to a square, then (..., size, size): bilinear over the valid pixels alone.

    A pixel is valid where at least half of its weight was; a value without any valid pixel is 0.
    """
    share = pad_to_square(valid.astype(np.float32))
    total = pad_to_square(np.where(valid, values, np.float32(0.0)))
    if share.shape[-2:] != (size, size):
        share, total = resize_bilinear(share, size), resize_bilinear(total, size)
        total /= np.maximum(share, np.float32(1e-6))
    return total, share >= 0.5
