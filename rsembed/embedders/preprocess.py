"""Pixel steps that models share; the one place where missing pixels are filled.

Arrays are float32 (T, C, H, W) or (C, H, W) unless said otherwise. torch and Pillow are
imported where they are used: a card's module must stay readable without them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import ModelError

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
S2_SCALE = 10000.0
"""Harmonised Sentinel-2 DN per unit of reflectance."""


def usable(values: Floats, valid: Mask) -> Mask:
    """Where a pixel holds a number that counts: valid and finite."""
    return valid & np.isfinite(values)


def fill_invalid(values: Floats, valid: Mask, fill: float = 0.0) -> Floats:
    """A copy of ``values`` with ``fill`` where a pixel is invalid, NaN or infinite."""
    return np.where(usable(values, valid), values, np.float32(fill)).astype(np.float32, copy=False)


def fill_band_mean(values: Floats, valid: Mask) -> Floats:
    """A copy of ``values`` with each band's mean of usable pixels where a pixel is not usable.

    The mean runs over the last two axes, in float64; a band without a usable pixel takes 0.
    """
    good = usable(values, valid)
    count = good.sum(axis=(-2, -1), keepdims=True)
    total = np.where(good, values, 0.0).sum(axis=(-2, -1), keepdims=True, dtype=np.float64)
    mean = (total / np.maximum(count, 1)).astype(np.float32)
    return np.where(good, values, mean)


def unit_range(values: Floats, full: float) -> Floats:
    """``values / full`` in float32, clipped to 0..1."""
    scaled: Floats = values.astype(np.float32, copy=False) / np.float32(full)
    clipped: Floats = np.clip(scaled, np.float32(0.0), np.float32(1.0))
    return clipped


def reflectance(values: Floats) -> Floats:
    """Sentinel-2 DN to reflectance, clipped to 0..1."""
    return unit_range(values, S2_SCALE)


def reflectance_to_uint8(values: Floats) -> NDArray[np.uint8]:
    """Sentinel-2 DN to bytes: reflectance clipped to 0..1, times 255, decimals cut off."""
    bytes_: NDArray[np.uint8] = (reflectance(values) * np.float32(255.0)).astype(np.uint8)
    return bytes_


def standardise(values_chw: Floats, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """``(x - mean) / std`` per channel; channels are the third axis from the end."""
    shape = (-1, 1, 1)
    centre = np.asarray(mean, dtype=np.float32).reshape(shape)
    spread = np.asarray(std, dtype=np.float32).reshape(shape)
    if len(centre) != values_chw.shape[-3]:
        raise ModelError(f"expected {len(centre)} channels to normalise, got {values_chw.shape[-3]}")
    return (values_chw - centre) / spread


def pad_to(values: Floats, height: int, width: int) -> Floats:
    """``values`` (..., H, W) mirrored at the bottom and the right until it is ``height`` x ``width``."""
    below, beside = height - values.shape[-2], width - values.shape[-1]
    if not below and not beside:
        return values
    return np.pad(values, [(0, 0)] * (values.ndim - 2) + [(0, below), (0, beside)], mode="reflect")


def pad_to_square(values: Floats) -> Floats:
    """``values`` (..., H, W) mirrored at the bottom or the right until it is square."""
    side = max(values.shape[-2:])
    return pad_to(values, side, side)


def resize_bilinear(values: Floats, size: int) -> Floats:
    """``values`` (..., H, W) to (..., size, size): bilinear, no antialias, pixel centres aligned by half a pixel."""
    if values.shape[-2:] == (size, size):
        return values
    import torch
    from torch.nn import functional as F

    planes = torch.from_numpy(np.ascontiguousarray(values)).reshape(1, -1, *values.shape[-2:])
    resized = F.interpolate(planes, size=(size, size), mode="bilinear", align_corners=False, antialias=False)
    array: Floats = resized.reshape(*values.shape[:-2], size, size).numpy()
    return array


def resize_bicubic_uint8(values_chw: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bytes (C, H, W) with C = 1 or 3 to (C, size, size): Pillow's bicubic filter, antialiased."""
    if values_chw.shape[-2:] == (size, size):
        return values_chw
    from PIL import Image

    channels = np.ascontiguousarray(values_chw.transpose(1, 2, 0))
    image = Image.fromarray(channels[..., 0] if channels.shape[-1] == 1 else channels)
    resized = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.uint8)
    return np.ascontiguousarray(resized.reshape(size, size, -1).transpose(2, 0, 1))


def year_and_day(dates: Sequence[dt.date]) -> Floats:
    """(T, 2) float32: year and day of the year (1..366) of each date."""
    return np.array([(d.year, d.timetuple().tm_yday) for d in dates], dtype=np.float32)


def distinct_frames(frames_tchw: Floats) -> list[int]:
    """Indices of the frames that are not bit-identical to an earlier one, in order."""
    seen: set[bytes] = set()
    kept = []
    for i, frame in enumerate(frames_tchw):
        key = frame.tobytes()
        if key not in seen:
            seen.add(key)
            kept.append(i)
    return kept
