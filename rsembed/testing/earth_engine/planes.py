"""Arithmetic of planes: how masks combine, how types hold what is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.testing.earth_engine.errors import EarthEngineError, NotModelledError
from rsembed.testing.earth_engine.values import Band, Floats, Grid, Image, Masks, PixelCache, PixelType, Plane

Operation = Callable[..., Floats]


def is_fraction(mask: Masks) -> bool:
    """Whether some pixel is neither wholly valid nor wholly invalid."""
    return mask.dtype != np.bool_ and bool(np.any((mask > 0) & (mask < 1)))


def whole(planes: Sequence[Plane], what: str) -> None:
    """Refuse fractional masks where the service would weight by them in a way that is not documented.

    Guide "Weighted Reductions": reducers weight their inputs by the mask.
    """
    if any(is_fraction(plane.mask) for plane in planes):
        raise NotModelledError(
            f"{what} of pixels whose mask is a fraction (weights by mask); make the mask 0 or 1 first, "
            "as in image.updateMask(image.mask().gt(0))"
        )


def common_mask(masks: Sequence[Masks]) -> Masks:
    """A pixel computed of several is valid where all of them are (guide "Masking"; the least mask)."""
    common = masks[0]
    for mask in masks[1:]:
        if mask.dtype == np.bool_ and common.dtype == np.bool_:
            common = np.asarray(np.logical_and(common, mask))
            continue
        both = (common > 0) & (common < 1) & (mask > 0) & (mask < 1)
        if both.any():
            raise NotModelledError("how two fractional masks combine in a computation")
        common = np.minimum(common, mask)
    return common


def compact(mask: NDArray[np.floating[Any]]) -> Masks:
    """``mask`` as truth values where it has no fractions, which is quicker."""
    valid = mask > 0
    return np.asarray(valid) if np.array_equal(mask, valid) else mask.astype(np.float32)


def fitted(values: Floats, mask: Masks, pixel_type: PixelType, what: str) -> Plane:
    """``values`` as numbers of ``pixel_type``; whole numbers that do not fit are refused, not wrapped or cut.

    Reference page "ee.Number.toUint8" says of single numbers that a cast cuts to the range and drops decimals; of
    images no page says it, and whoever wants exact pixels must not rely on it.
    """
    values = np.where(mask > 0, values, 0.0)
    if not np.isfinite(values).all():
        raise NotModelledError(f"{what}: a result that is no finite number")
    if pixel_type.precision == "float":
        return Plane(values.astype(np.float32).astype(np.float64), mask)
    if pixel_type.precision == "int":
        info = np.iinfo(pixel_type.dtype.str)
        if np.any(values != np.rint(values)) or np.any((values < info.min) | (values > info.max)):
            raise NotModelledError(
                f"{what}: results from {values.min():g} to {values.max():g} in {pixel_type.dtype.name}, whether cut, "
                "wrapped or rounded; cast to a type that holds them, or round and clamp first"
            )
    return Plane(values, mask)


def computed(inputs: Sequence[Band], pixel_type: PixelType, operation: Operation, what: str) -> Band:
    """The band of ``operation`` over the values of ``inputs``; it has the first one's projection."""

    def compute(grid: Grid, cache: PixelCache) -> Plane:
        planes = [cache.plane(band, grid) for band in inputs]
        mask = common_mask([plane.mask for plane in planes])
        with np.errstate(all="ignore"):
            values = operation(*(plane.values for plane in planes))
        return fitted(np.asarray(values, dtype=np.float64), mask, pixel_type, what)

    return Band(pixel_type, inputs[0].projection, compute)


def paired(image1: Image, image2: Image, what: str) -> list[tuple[str, Band, Band]]:
    """Bands of two images as their operations match them, with the name of each result.

    Descriptions of Image.add and its kin: a single band goes with every band of the other image; images of as
    many bands match by name, or in order where names differ; names are those of the longer image, else the first.
    """
    one, two = dict(image1.bands), dict(image2.bands)
    if not one or not two:
        raise EarthEngineError(f"{what}: an image has no bands.")
    if len(two) == 1:
        only = next(iter(two.values()))
        return [(name, band, only) for name, band in one.items()]
    if len(one) == 1:
        only = next(iter(one.values()))
        return [(name, only, band) for name, band in two.items()]
    if set(one) == set(two):
        return [(name, band, two[name]) for name, band in one.items()]
    if len(one) != len(two):
        raise EarthEngineError(f"{what}: Images must have the same number of bands, got {len(one)} and {len(two)}.")
    return [(name, band, other) for (name, band), other in zip(one.items(), two.values(), strict=True)]
