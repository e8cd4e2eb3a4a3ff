"""Masks: reading, setting, filling, overlaying."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rsembed.testing.earth_engine.errors import EarthEngineError, NotModelledError
from rsembed.testing.earth_engine.functions.arithmetic import constant, each
from rsembed.testing.earth_engine.planes import compact, paired, whole
from rsembed.testing.earth_engine.signatures import function
from rsembed.testing.earth_engine.values import FLOAT, Band, Grid, Image, PixelCache, Plane


@function("Image.mask")
def _mask_of(image: Image) -> Image:
    """Description of Image.mask without a second image: the mask as numbers from 0 to 1, valid everywhere."""

    def made(band: Band) -> Band:
        def compute(grid: Grid, cache: PixelCache) -> Plane:
            mask = cache.plane(band, grid).mask
            return Plane(mask.astype(np.float64), np.ones(mask.shape, np.bool_))

        return Band(FLOAT, band.projection, compute)

    return each(image, made, keep=True)


def _for_each(image: Image, other: Image, what: str) -> Mapping[str, tuple[Band, Band]]:
    """Bands of ``image``, each with its band of ``other``, which has one band or as many."""
    if len(other.bands) not in (1, len(image.bands)):
        raise EarthEngineError(f"{what}: got {len(other.bands)} bands for an image of {len(image.bands)}.")
    others = list(other.bands.values())
    return {
        name: (band, others[0] if len(others) == 1 else others[number])
        for number, (name, band) in enumerate(image.bands.items())
    }


@function("Image.updateMask")
def _updated(image: Image, mask: Image) -> Image:
    """Description of Image.updateMask: the new mask where the old one is not zero; metadata and footprint stay.

    Where the mask image itself is masked there is no new value; such pixels become invalid.
    """

    def made(band: Band, new: Band) -> Band:
        def compute(grid: Grid, cache: PixelCache) -> Plane:
            plane, update = cache.plane(band, grid), cache.plane(new, grid)
            whole([Plane(update.values, update.mask)], "the values as a mask")
            values = np.where(update.mask > 0, update.values, 0.0)
            if np.any((values < 0) | (values > 1)):
                raise NotModelledError("Image.updateMask with values outside of 0 to 1; compare with gt(0) first")
            return Plane(plane.values, compact(np.where(plane.mask > 0, values, 0.0)))

        return Band(band.type, band.projection, compute)

    pairs = _for_each(image, mask, "Image.updateMask")
    return Image({name: made(*pair) for name, pair in pairs.items()}, image.properties, image.outline)


@function("Image.unmask")
def _unmasked(
    input: Image,  # noqa: A002  # the service's names
    value: Image | None = None,
    sameFootprint: bool = True,  # noqa: N803
) -> Image:
    """Description of Image.unmask: value and mask of the other image where the input's mask is zero."""
    if sameFootprint:
        raise NotModelledError("Image.unmask with sameFootprint=True (where a footprint ends); give False")
    filling = Image({"constant": constant(0)}) if value is None else value

    def made(band: Band, other: Band) -> Band:
        def compute(grid: Grid, cache: PixelCache) -> Plane:
            plane, fill = cache.plane(band, grid), cache.plane(other, grid)
            empty = plane.mask == 0
            mask = np.where(empty, fill.mask, plane.mask)
            return Plane(np.where(empty, fill.values, plane.values), compact(mask.astype(np.float64)))

        return Band(band.type.union(other.type), band.projection, compute)

    pairs = _for_each(input, filling, "Image.unmask")
    outline = None if filling.outline is None else input.outline
    return Image({name: made(*pair) for name, pair in pairs.items()}, input.properties, outline)


@function("Image.blend")
def _blended(bottom: Image, top: Image) -> Image:
    """Description of Image.blend: the top image over the bottom one, by its mask."""

    def made(below: Band, above: Band) -> Band:
        def compute(grid: Grid, cache: PixelCache) -> Plane:
            planes = [cache.plane(below, grid), cache.plane(above, grid)]
            whole(planes, "Image.blend")
            shown = planes[1].mask > 0
            values = np.where(shown, planes[1].values, planes[0].values)
            return Plane(values, (planes[0].mask > 0) | shown)

        return Band(below.type.union(above.type), below.projection, compute)

    bands = {name: made(one, two) for name, one, two in paired(bottom, top, "Image.blend")}
    return Image(bands, bottom.properties, None)


@function("Image.where")
def _replaced(input: Image, test: Image, value: Image) -> Image:  # noqa: A002
    """Description of Image.where: the value where the test is not zero; the input where test or value is masked."""

    def made(band: Band, condition: Band, other: Band) -> Band:
        def compute(grid: Grid, cache: PixelCache) -> Plane:
            plane, asked, new = (cache.plane(one, grid) for one in (band, condition, other))
            whole([asked, new], "Image.where")
            here = (plane.mask > 0) & (asked.mask > 0) & (asked.values != 0) & (new.mask > 0)
            return Plane(np.where(here, new.values, plane.values), plane.mask)

        return Band(band.type.union(other.type), band.projection, compute)

    tests, others = _for_each(input, test, "Image.where"), _for_each(input, value, "Image.where")
    bands = {name: made(band, condition, others[name][1]) for name, (band, condition) in tests.items()}
    return Image(bands, input.properties, input.outline)
