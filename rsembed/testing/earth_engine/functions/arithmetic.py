"""Numbers per pixel: arithmetic, comparisons, casts, re-coding.

Descriptions of Image.add, Image.eq and their kin: the type of the output is the union of the input types, or
boolean for comparisons. Results have no properties here: only the functions whose description says that
metadata are retained keep them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from rsembed.testing.earth_engine.errors import EarthEngineError, NotModelledError
from rsembed.testing.earth_engine.planes import Operation, computed, fitted, paired
from rsembed.testing.earth_engine.signatures import function
from rsembed.testing.earth_engine.values import (
    BOOLEAN,
    COMPOSITE,
    DOUBLE,
    FLOAT,
    Band,
    Floats,
    Grid,
    Image,
    PixelCache,
    PixelType,
    Plane,
    integer_type,
)

TypeRule = Callable[[PixelType, PixelType], PixelType]


def _union(one: PixelType, two: PixelType) -> PixelType:
    return one.union(two)


def _boolean(*_: PixelType) -> PixelType:
    return BOOLEAN


def _quotient(one: PixelType, two: PixelType) -> PixelType:
    if one.precision == two.precision == "int":
        raise NotModelledError(
            "Image.divide of two whole-number bands: its description says the union of the input types, users see "
            "fractions; cast one to float or double first"
        )
    return one.union(two)


def _whole(one: PixelType, two: PixelType) -> PixelType:
    if one.precision != "int" or two.precision != "int":
        raise NotModelledError("bitwise operations on numbers that are not whole")
    return one.union(two)


def _binary(name: str, type_rule: TypeRule, operation: Operation) -> None:
    what = f"Image.{name}"

    def made(image1: Image, image2: Image) -> Image:
        return Image(
            {
                band: computed((one, two), type_rule(one.type, two.type), operation, what)
                for band, one, two in paired(image1, image2, what)
            },
            outline=image1.outline,
        )

    function(what)(made)


def _divided(one: Floats, two: Floats) -> Floats:
    # Description of Image.divide: 0 where the second value is 0.
    return np.divide(one, two, out=np.zeros_like(one), where=two != 0)


def _bits(operation: Callable[..., np.ndarray[tuple[int, ...], np.dtype[np.int64]]]) -> Operation:
    return lambda one, two: operation(one.astype(np.int64), two.astype(np.int64)).astype(np.float64)


for _name, _rule, _operation in (
    ("add", _union, np.add),
    ("subtract", _union, np.subtract),
    ("multiply", _union, np.multiply),
    ("divide", _quotient, _divided),
    ("min", _union, np.minimum),
    ("max", _union, np.maximum),
    # "The type of the output pixels is float": taken for any float, the more exact one.
    ("pow", lambda *_: DOUBLE, np.power),
    ("eq", _boolean, np.equal),
    ("neq", _boolean, np.not_equal),
    ("lt", _boolean, np.less),
    ("lte", _boolean, np.less_equal),
    ("gt", _boolean, np.greater),
    ("gte", _boolean, np.greater_equal),
    ("and", _boolean, lambda one, two: (one != 0) & (two != 0)),
    ("or", _boolean, lambda one, two: (one != 0) | (two != 0)),
    ("bitwiseAnd", _whole, _bits(np.bitwise_and)),
    ("bitwiseOr", _whole, _bits(np.bitwise_or)),
    ("rightShift", _whole, _bits(np.right_shift)),
    ("leftShift", _whole, _bits(np.left_shift)),
):
    _binary(_name, _rule, _operation)


def each(image: Image, make: Callable[[Band], Band], *, keep: bool = False) -> Image:
    """``image`` with every band remade; properties stay only where the service says that they do."""
    bands = {name: make(band) for name, band in image.bands.items()}
    return Image(bands, image.properties if keep else {}, image.outline)


def _unary(name: str, type_rule: Callable[[PixelType], PixelType], operation: Operation) -> None:
    what = f"Image.{name}"
    function(what)(lambda value: each(value, lambda band: computed((band,), type_rule(band.type), operation, what)))


def _rounded(values: Floats) -> Floats:
    if np.any(np.abs(values - np.trunc(values)) == 0.5):
        raise NotModelledError("Image.round of halves: up or to even")
    return np.rint(values)


def _decadic(values: Floats) -> Floats:
    return np.log10(values)


_unary("not", lambda _: BOOLEAN, lambda values: values == 0)
_unary("abs", lambda found: found, np.abs)
_unary("floor", lambda found: found if found.precision == "int" else DOUBLE, np.floor)
_unary("ceil", lambda found: found if found.precision == "int" else DOUBLE, np.ceil)
_unary("round", lambda found: found if found.precision == "int" else DOUBLE, _rounded)
_unary("log10", lambda found: DOUBLE if found.precision == "int" else found, _decadic)

CASTS = {
    "Byte": integer_type("u1"), "Uint8": integer_type("u1"), "Int8": integer_type("i1"),
    "Uint16": integer_type("u2"), "Int16": integer_type("i2"), "Short": integer_type("i2"),
    "Uint32": integer_type("u4"), "Int32": integer_type("i4"), "Int": integer_type("i4"),
    "Float": FLOAT, "Double": DOUBLE,
}  # fmt: skip


def _cast_to(name: str, pixel_type: PixelType) -> None:
    _unary(f"to{name}", lambda _: pixel_type, lambda values: values)


for _name, _type in CASTS.items():
    _cast_to(_name, _type)


@function("Image.cast")
def _cast(image: Image, bandTypes: dict[str, str]) -> Image:  # noqa: N803  # the service's name
    types = {name.lower(): found for name, found in CASTS.items()}
    unknown = [name for name in bandTypes if name not in image.bands or bandTypes[name] not in types]
    if unknown:
        raise EarthEngineError(f"Image.cast: no band or no type for {unknown}.")
    bands = {
        name: computed((band,), types[bandTypes[name]], lambda values: values, "Image.cast")
        if name in bandTypes
        else band
        for name, band in image.bands.items()
    }
    return Image(bands, image.properties, image.outline)


@function("Image.clamp")
def _clamped(input: Image, low: float, high: float) -> Image:  # noqa: A002  # the service's name
    return each(input, lambda band: computed((band,), band.type, lambda v: np.clip(v, low, high), "Image.clamp"))


def constant(value: float) -> Band:
    """A band of one value everywhere; of whole numbers where ``value`` is one."""
    number = float(value)
    # JSON does not tell 5 from 5.0; neither do the service's constants.
    pixel_type = PixelType("int", int(number), int(number)) if number.is_integer() else DOUBLE

    def compute(grid: Grid, _: PixelCache) -> Plane:
        shape = (grid.height, grid.width)
        return Plane(np.full(shape, number), np.ones(shape, np.bool_))

    return Band(pixel_type, COMPOSITE, compute)


@function("Image.constant")
def _constant(value: object) -> Image:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(one, (int, float)) for one in values):
        raise NotModelledError(f"Image.constant of {value!r}: only numbers and lists of numbers")
    names = ["constant"] if len(values) == 1 else [f"constant_{number}" for number in range(len(values))]
    return Image({name: constant(float(one)) for name, one in zip(names, values, strict=True)})


@function("Image.remap")
def _remapped(
    image: Image,
    to: list[float],
    defaultValue: float | None = None,  # noqa: N803
    bandName: str | None = None,  # noqa: N803
    **origin: list[float],
) -> Image:
    """Description of Image.remap: values that are not listed get the default, or are masked where there is none."""
    listed = origin["from"]
    if len(listed) != len(to):
        raise EarthEngineError("Image.remap: 'from' and 'to' must have the same number of values.")
    band = image.bands[bandName] if bandName else next(iter(image.bands.values()))
    results = [*to, *([] if defaultValue is None else [defaultValue])]
    whole = all(float(one).is_integer() for one in results)
    pixel_type = PixelType("int", int(min(results)), int(max(results))) if whole else DOUBLE

    def compute(grid: Grid, cache: PixelCache) -> Plane:
        plane = cache.plane(band, grid)
        values = np.full(plane.values.shape, 0.0 if defaultValue is None else float(defaultValue))
        known = np.zeros(plane.values.shape, dtype=bool)
        for old, new in zip(listed, to, strict=True):
            here = plane.values == old
            values[here & ~known] = new
            known |= here
        mask = plane.mask if defaultValue is not None else plane.mask * known
        return fitted(values, mask, pixel_type, "Image.remap")

    return Image({"remapped": Band(pixel_type, band.projection, compute)}, image.properties, image.outline)


def is_name(text: str) -> bool:
    """Whether ``text`` is a band's plain name rather than a pattern."""
    return re.fullmatch(r"[\w-]+", text) is not None
