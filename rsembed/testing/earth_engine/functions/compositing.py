"""Composites of a collection, reducers over bands.

Descriptions of reduce.median and its kin: over the stack of all bands of the same name; masked pixels do not
count. Composites have no outline here, and WGS84 at one degree for their default projection (guide "Projections").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsembed.testing.earth_engine.errors import NotModelledError
from rsembed.testing.earth_engine.planes import whole
from rsembed.testing.earth_engine.signatures import function
from rsembed.testing.earth_engine.values import (
    BOOLEAN,
    COMPOSITE,
    DOUBLE,
    Band,
    Collection,
    Floats,
    Grid,
    Image,
    PixelCache,
    PixelType,
    Plane,
    Reducer,
    integer_type,
)

Bools = NDArray[np.bool_]


def _median(stack: Floats, valid: Bools) -> Floats:
    # Of an even number the mean of the middle two (REST reference "PyramidingPolicy", MEDIAN, says so of pyramids;
    # description of Reducer.median: computed directly for small numbers of inputs).
    ordered = np.sort(np.where(valid, stack, np.inf), axis=0)
    count = valid.sum(axis=0)
    low, high = np.maximum((count - 1) // 2, 0), np.minimum(count // 2, len(stack) - 1)
    pick = [np.take_along_axis(ordered, at[None], axis=0)[0] for at in (low, high)]
    middle: Floats = np.where(count > 0, (pick[0] + pick[1]) / 2, 0.0)
    return middle


def _mean(stack: Floats, valid: Bools) -> Floats:
    count = valid.sum(axis=0)
    total = np.where(valid, stack, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.zeros(count.shape), where=count > 0))


def _first(stack: Floats, valid: Bools) -> Floats:
    return np.asarray(np.take_along_axis(stack, valid.argmax(axis=0)[None], axis=0)[0])


def _or(stack: Floats, valid: Bools) -> Floats:
    bits = np.where(valid, stack, 0).astype(np.int64)
    return np.asarray(np.bitwise_or.reduce(bits, axis=0).astype(np.float64))


def _same(found: PixelType) -> PixelType:
    return found


def _wholes(found: PixelType) -> PixelType:
    if found.precision != "int":
        raise NotModelledError("Reducer.bitwiseOr of numbers that are not whole")
    return found


@dataclass(frozen=True)
class _Rule:
    """What a reducer does with a stack (n, H, W) and its valid pixels, the type it gives, its output's name."""

    reduce: Callable[[Floats, Bools], Floats]
    type: Callable[[PixelType], PixelType]
    output: str
    weighted: bool = False


_RULES = {
    # The types of median, mean, sum and count are not documented; double and 32 bits here: cast to be sure.
    "median": _Rule(_median, lambda _: DOUBLE, "median", weighted=True),
    "mean": _Rule(_mean, lambda _: DOUBLE, "mean", weighted=True),
    "sum": _Rule(lambda s, v: np.where(v, s, 0.0).sum(axis=0), lambda _: DOUBLE, "sum", weighted=True),
    "count": _Rule(lambda s, v: v.sum(axis=0).astype(np.float64), lambda _: integer_type("i4"), "count"),
    "min": _Rule(lambda s, v: np.where(v, s, np.inf).min(axis=0), _same, "min"),
    "max": _Rule(lambda s, v: np.where(v, s, -np.inf).max(axis=0), _same, "max"),
    "first": _Rule(_first, _same, "first"),
    "firstNonNull": _Rule(_first, _same, "first"),
    "anyNonZero": _Rule(lambda s, v: ((s != 0) & v).any(axis=0).astype(np.float64), lambda _: BOOLEAN, "any"),
    "bitwiseOr": _Rule(_or, _wholes, "bitwiseOr"),
}


def reduced(inputs: Sequence[Band], name: str) -> Band:
    """The band that the reducer ``name`` makes of ``inputs``, pixel by pixel; masked where all of them are."""
    rule = _RULES[name]
    united = inputs[0].type
    for band in inputs[1:]:
        united = united.union(band.type)

    def compute(grid: Grid, cache: PixelCache) -> Plane:
        planes = [cache.plane(band, grid) for band in inputs]
        if rule.weighted:
            whole(planes, f"Reducer.{name}")
        stack, valid = np.stack([p.values for p in planes]), np.stack([p.mask > 0 for p in planes])
        any_valid = np.asarray(valid.any(axis=0))
        return Plane(np.where(any_valid, rule.reduce(stack, valid), 0.0), any_valid)

    return Band(rule.type(united), COMPOSITE, compute)


def _stacks(collection: Collection, what: str) -> dict[str, list[Band]]:
    """The bands of a collection by name; its images must have the same bands."""
    images = collection.images
    for image in images:
        if set(image.bands) != set(images[0].bands):
            raise NotModelledError(
                f"{what} of images with different bands ({list(images[0].bands)} and {list(image.bands)}); the service "
                "asks for a homogeneous collection in some functions: select the common bands"
            )
    return {name: [image.bands[name] for image in images] for name in (images[0].bands if images else ())}


def _composite(name: str) -> None:
    what = f"reduce.{name}"

    def made(collection: Collection) -> Image:
        bands = {band: reduced(stack, name) for band, stack in _stacks(collection, what).items()}
        return Image(bands)

    function(what)(made)


for _name in ("median", "mean", "sum", "count", "min", "max"):
    _composite(_name)
for _name in _RULES:
    function(f"Reducer.{_name}")(lambda name=_name: Reducer(name))


@function("ImageCollection.reduce")
def _reduced_collection(collection: Collection, reducer: Reducer) -> Image:
    """Description of ImageCollection.reduce: one input, so output names are prefixed by the band's (``B4_median``)."""
    output = _RULES[reducer.name].output
    stacks = _stacks(collection, "ImageCollection.reduce")
    bands = {f"{band}_{output}": reduced(stack, reducer.name) for band, stack in stacks.items()}
    return Image(bands)


@function("Image.reduce")
def _reduced_bands(image: Image, reducer: Reducer) -> Image:
    """Description of Image.reduce: the stack of an image's bands, one band for each output of the reducer."""
    bands = list(image.bands.values())
    made = reduced(bands, reducer.name)
    projection = bands[0].projection if len({band.projection for band in bands}) == 1 else COMPOSITE
    return Image({_RULES[reducer.name].output: Band(made.type, projection, made.compute)}, outline=image.outline)


@function("ImageCollection.mosaic")
def _mosaic(collection: Collection) -> Image:
    """Reference page "ee.ImageCollection.mosaic": from the last image to the first, earlier ones where it is masked."""

    def made(inputs: list[Band]) -> Band:
        united = inputs[0].type
        for band in inputs[1:]:
            united = united.union(band.type)

        def compute(grid: Grid, cache: PixelCache) -> Plane:
            values = np.zeros((grid.height, grid.width))
            mask = np.zeros((grid.height, grid.width), np.bool_)
            for band in inputs:
                plane = cache.plane(band, grid)
                whole([plane], "ImageCollection.mosaic")
                shown = plane.mask > 0
                values, mask = np.where(shown, plane.values, values), mask | shown
            return Plane(values, mask)

        return Band(united, COMPOSITE, compute)

    bands = {name: made(stack) for name, stack in _stacks(collection, "ImageCollection.mosaic").items()}
    return Image(bands)
