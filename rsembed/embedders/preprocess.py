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
TRUE_COLOUR_DN = 3558.0
"""Level-1C DN that ESA's 8-bit true-colour image (TCI) shows as 255 (Sentinel-2 user guide, definitions)."""


def usable(values: Floats, valid: Mask) -> Mask:
    """Where a pixel holds a number that counts: valid and finite."""
    good: Mask = np.isfinite(values)
    good &= valid
    return good


def fill_invalid(values: Floats, valid: Mask, fill: float = 0.0) -> Floats:
    """A copy of ``values`` with ``fill`` where a pixel is invalid, NaN or infinite."""
    filled: Floats = values.astype(np.float32)
    missing = usable(values, valid)
    np.logical_not(missing, out=missing)
    np.copyto(filled, np.float32(fill), where=missing)  # half the time of np.where
    return filled


def fill_band_mean(values: Floats, valid: Mask) -> Floats:
    """A copy of ``values`` with each band's mean of usable pixels where a pixel is not usable.

    The mean runs over the last two axes, in float64; a band without a usable pixel takes 0.
    """
    good = usable(values, valid)
    count = good.sum(axis=(-2, -1), keepdims=True)
    total = np.where(good, values, 0.0).sum(axis=(-2, -1), keepdims=True, dtype=np.float64)
    mean = (total / np.maximum(count, 1)).astype(np.float32)
    return np.where(good, values, mean)


def fill_series_mean(values_tchw: Floats, valid_tchw: Mask) -> Floats:
    """A copy of ``values_tchw`` with each band's mean over its frames' means where a pixel is not usable.

    In float64; a frame without a usable pixel of a band counts as 0 there.
    """
    good = usable(values_tchw, valid_tchw)
    total = np.where(good, values_tchw, 0.0).sum(axis=(-2, -1), keepdims=True, dtype=np.float64)
    of_frames = total / np.maximum(good.sum(axis=(-2, -1), keepdims=True), 1)
    return np.where(good, values_tchw, of_frames.mean(axis=0, keepdims=True).astype(np.float32))


def unit_range(values: Floats, full: float) -> Floats:
    """``values / full`` in float32, clipped to 0..1."""
    scaled: Floats = values.astype(np.float32, copy=False) / np.float32(full)
    np.clip(scaled, np.float32(0.0), np.float32(1.0), out=scaled)
    return scaled


def clip_dn(values: Floats) -> Floats:
    """Sentinel-2 DN within 0..10000."""
    return np.clip(values, np.float32(0.0), np.float32(S2_SCALE))


def reflectance(values: Floats) -> Floats:
    """Sentinel-2 DN to reflectance, clipped to 0..1."""
    return unit_range(values, S2_SCALE)


def to_dn(values: Floats, valid: Mask) -> Floats:
    """Surface reflectance 0..1 to DN of 10000; where a usable number is beyond 10, all are DN already.

    Harmonized Landsat Sentinel-2 comes both ways: Earth Engine applies the scale, the files hold DN.
    """
    largest = np.max(values, where=usable(values, valid), initial=0.0)
    return values if largest > 10 else values * np.float32(S2_SCALE)


def unit_to_uint8(units: Floats) -> NDArray[np.uint8]:
    """0..1 to bytes: times 255, decimals cut off."""
    bytes_: NDArray[np.uint8] = (units * np.float32(255.0)).astype(np.uint8)
    return bytes_


def reflectance_to_uint8(values: Floats) -> NDArray[np.uint8]:
    """Sentinel-2 DN to bytes: reflectance clipped to 0..1, times 255, decimals cut off."""
    return unit_to_uint8(reflectance(values))


def stretch_to_uint8(
    values_chw: Floats, mean: Sequence[float], std: Sequence[float], *, spread: float = 2.0
) -> NDArray[np.uint8]:
    """``mean - spread * std`` .. ``mean + spread * std`` of each channel to bytes 0..255, decimals cut off.

    All in float32. The rule of SeCo (Manas et al. 2021, arXiv:2103.16607), used by others since.
    """
    centre, reach = _per_channel(values_chw, mean), np.float32(spread) * _per_channel(values_chw, std)
    low = centre - reach
    width = np.maximum(centre + reach - low, np.float32(1e-6))
    stretched = (values_chw - low) / width * np.float32(255.0)
    bytes_: NDArray[np.uint8] = np.clip(stretched, np.float32(0.0), np.float32(255.0)).astype(np.uint8)
    return bytes_


def stretch_to_unit(values: Floats) -> Floats:
    """Each plane's own minimum .. maximum to 0..1, over the last two axes; a flat plane gives zeros."""
    low = values.min(axis=(-2, -1), keepdims=True)
    reach = values.max(axis=(-2, -1), keepdims=True) - low
    return np.asarray((values - low) / np.maximum(reach, np.float32(1e-6)), dtype=np.float32)


def satlas_to_uint8(values_chw: Floats, bands: Sequence[str]) -> NDArray[np.uint8]:
    """Sentinel-2 Level-1C DN to the 8-bit images of SatlasPretrain (github.com/allenai/satlas, Normalization.md).

    Red, green and blue as in ESA's true-colour image, other bands DN // 32; bright pixels are clipped.
    """
    full = _per_channel(values_chw, [TRUE_COLOUR_DN if band in ("B4", "B3", "B2") else 8160.0 for band in bands])
    return unit_to_uint8(np.clip(values_chw / full, np.float32(0.0), np.float32(1.0)))


def uint8_to_unit(bytes_: NDArray[np.uint8]) -> Floats:
    """Bytes to 0..1 in float32."""
    return bytes_.astype(np.float32) / np.float32(255.0)


def require_power(values: Floats) -> None:
    """Raise ModelError when most of the finite values other than zero are negative: decibels, not linear power."""
    numbers = values[np.isfinite(values) & (values != 0)]
    if len(numbers) and int((numbers < 0).sum()) * 2 > len(numbers):
        raise ModelError(
            "most radar values are negative, so they look like decibels where linear power is expected; take them from "
            "COPERNICUS/S1_GRD_FLOAT, or declare unit='dB' where the files are read"
        )


def decibels(power: Floats) -> Floats:
    """Linear power to 10 log10; whatever is below 1e-10 gives -100. Raises ModelError for decibels."""
    require_power(power)
    levels: Floats = np.float32(10.0) * np.log10(np.maximum(power, np.float32(1e-10)))
    return levels


def log_power_to_unit(power: Floats) -> Floats:
    """Linear power to 0..1: log(1 + x) over its own 99th percentile across all bands, clipped.

    An image without any power gives zeros. Raises ModelError for decibels.
    """
    require_power(power)
    logs: Floats = np.log1p(np.maximum(power, np.float32(0.0)))
    top = float(np.percentile(logs, 99))
    return unit_range(logs, top) if top > 0 else np.zeros_like(logs)


def standardise(values_chw: Floats, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """``(x - mean) / std`` per channel; channels are the third axis from the end."""
    centred = values_chw - _per_channel(values_chw, mean)
    centred /= _per_channel(values_chw, std)
    return centred


def spread_to_unit(values_chw: Floats, mean: Sequence[float], std: Sequence[float], *, spread: float = 2.0) -> Floats:
    """``mean - spread * std`` .. ``mean + spread * std`` of each channel to 0..1, not clipped; in float64."""
    centre = np.asarray(mean, dtype=np.float64).reshape(-1, 1, 1)
    reach = spread * np.asarray(std, dtype=np.float64).reshape(-1, 1, 1)
    return np.asarray((values_chw - (centre - reach)) / (2 * reach), dtype=np.float32)


def _per_channel(values_chw: Floats, numbers: Sequence[float]) -> Floats:
    if len(numbers) != values_chw.shape[-3]:
        raise ModelError(f"expected {len(numbers)} channels to normalise, got {values_chw.shape[-3]}")
    return np.asarray(numbers, dtype=np.float32).reshape(-1, 1, 1)


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


def only_frame(values_tchw: Floats, valid_tchw: Mask) -> tuple[Floats, Mask]:
    """Values and mask of the only frame, (C, H, W); raises ModelError when there is another number of frames."""
    if len(values_tchw) != 1:
        raise ModelError(f"this model takes one frame, got {len(values_tchw)}")
    return values_tchw[0], valid_tchw[0]


def square_frame(values_tchw: Floats, valid_tchw: Mask, *, fill: float = 0.0) -> Floats:
    """The only frame of (1, C, H, W): (C, side, side), ``fill`` in unusable pixels, mirrored to a square.

    Raises ModelError when there is another number of frames.
    """
    return pad_to_square(fill_invalid(*only_frame(values_tchw, valid_tchw), fill))


def resize_bilinear(values: Floats, size: int, *, antialias: bool = False) -> Floats:
    """``values`` (..., H, W) to (..., size, size): bilinear in torch, pixel centres aligned by half a pixel."""
    return _interpolate(values, size, "bilinear", antialias=antialias)


def resize_bicubic(values: Floats, size: int) -> Floats:
    """``values`` (..., H, W) to (..., size, size): bicubic and antialiased in torch (a = -0.5), not clamped."""
    return _interpolate(values, size, "bicubic", antialias=True)


def _interpolate(values: Floats, size: int, mode: str, *, antialias: bool) -> Floats:
    if values.shape[-2:] == (size, size):
        return values
    import torch
    from torch.nn import functional as F

    planes = torch.from_numpy(np.ascontiguousarray(values)).reshape(1, -1, *values.shape[-2:])
    resized = F.interpolate(planes, size=(size, size), mode=mode, align_corners=False, antialias=antialias)
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


def photograph(square_chw: Floats, size: int, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """Sentinel-2 DN (3, side, side) as models of 8-bit photographs want them: (3, size, size).

    Bytes of reflectance, Pillow's antialiased bicubic filter on them, then ``(x - mean) / std`` of 0..1.
    """
    resized = resize_bicubic_uint8(reflectance_to_uint8(square_chw), size)
    return standardise(uint8_to_unit(resized), mean, std)


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
