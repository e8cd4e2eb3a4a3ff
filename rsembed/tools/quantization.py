"""Vectors as bytes: one scale per dimension, fixed from a sample, and what that costs; numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
LARGEST = 127
"""Of the whole numbers in use; -128 is not, so that they are symmetric."""
HEADROOM = 1.2
"""How much larger than the sample's largest value a number may be before it is cut."""


@dataclass(frozen=True)
class QuantizationError:
    """How far the vectors of a sample are from what is read back.

    ``rms_relative``: root mean square of the differences, as a share of that of the values. ``cosine_mean``,
    ``cosine_min``: similarity of a vector to itself read back. ``clipped``: share of numbers that were cut.
    """

    rms_relative: float
    cosine_mean: float
    cosine_min: float
    clipped: float


def fit_scales(sample_nd: Floats) -> Floats:
    """The size of a step in each dimension, float32 (D,), from a sample (N, D) of at least one vector.

    A dimension that is zero throughout gets steps of 1/127.
    """
    largest = np.abs(sample_nd.astype(np.float64)).max(axis=0)
    steps = np.where(largest > 0, largest * HEADROOM, 1.0) / LARGEST
    # Of subnormal numbers there are too few: a step of zero would divide by nothing.
    return np.maximum(steps, np.finfo(np.float32).tiny).astype(np.float32)


def quantize(values: Floats, scales: Floats) -> NDArray[np.int8]:
    """``values`` (D, ...) as multiples of their dimension's step, rounded to the nearest even and cut at ±127."""
    steps = np.rint(values / _along(scales, values.ndim))
    return np.asarray(np.clip(steps, -LARGEST, LARGEST), dtype=np.int8)


def dequantize(steps: NDArray[np.int8], scales: Floats) -> Floats:
    """The numbers that ``steps`` (D, ...) stand for, float32."""
    return np.asarray(steps.astype(np.float32) * _along(scales, steps.ndim), dtype=np.float32)


def _along(scales: Floats, ndim: int) -> Floats:
    return scales.reshape(-1, *[1] * (ndim - 1))


def measure(sample_nd: Floats, scales: Floats) -> QuantizationError:
    """What quantising the vectors of ``sample_nd`` costs."""
    exact = sample_nd.astype(np.float64)
    back = dequantize(quantize(sample_nd.T, scales), scales).T.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(back, axis=1)
    cosines = np.where(norms > 0, (exact * back).sum(axis=1) / np.where(norms > 0, norms, 1.0), 1.0)
    power = float((exact**2).mean())
    return QuantizationError(
        rms_relative=float(np.sqrt(((exact - back) ** 2).mean() / power)) if power else 0.0,
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
        clipped=float((np.abs(exact) > (LARGEST + 0.5) * scales.astype(np.float64)).mean()),
    )
