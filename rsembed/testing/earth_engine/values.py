"""What an expression can hold: images and their bands, collections, geometries, dates, projections, reducers.

Images are lazy, as on the service: a band is a function from a pixel grid to pixels, and "inputs are
requested in the output projection" (Earth Engine guide "Projections": computation is pulled by the output).
"""

from __future__ import annotations

import datetime as dt
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from rsembed.testing.earth_engine.errors import NotModelledError

Floats = NDArray[np.float64]
Masks = NDArray[np.bool_] | NDArray[np.float32]
"""Validity: truth values, or float32 from 0 to 1 where there may be fractions."""
Transform = tuple[float, float, float, float, float, float]

CACHED_BYTES = 384 * 2**20


@dataclass(frozen=True)
class Projection:
    """A lattice without ends: ``crs`` (``EPSG:n`` or WKT) and affine ``(a, b, c, d, e, f)``, units of the CRS."""

    crs: str
    transform: Transform


COMPOSITE = Projection("EPSG:4326", (1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
"""Default projection of composites and constants: WGS84 at one degree (guide "Projections", its section on the
default projection: a reduced collection has WGS84 with a scale of 1 degree)."""


@dataclass(frozen=True)
class Grid:
    """The pixels that are asked for: a lattice and its size in pixels."""

    projection: Projection
    height: int
    width: int


class Plane(NamedTuple):
    """One band on one grid, both (height, width): values, and mask.

    Masks may be fractions, as on the service; where the mask is 0 the value means nothing.
    """

    values: Floats
    mask: Masks


@dataclass(frozen=True)
class PixelType:
    """What a band's numbers are: whole numbers in ``[low, high]``, or float, or double (``ee.PixelType``)."""

    precision: str
    low: int = 0
    high: int = 0

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The smallest dtype that holds it; which one an uncast answer has there is not documented."""
        if self.precision != "int":
            return np.dtype("<f4" if self.precision == "float" else "<f8")
        for name in ("u1", "i1", "<u2", "<i2", "<u4", "<i4"):
            info = np.iinfo(name)
            if info.min <= self.low and self.high <= info.max:
                return np.dtype(name)
        raise NotModelledError(f"whole numbers from {self.low} to {self.high} take more than 32 bits")

    def union(self, other: PixelType) -> PixelType:
        """The type of what is computed of both ("the union of the input types", description of Image.add)."""
        for precision in ("double", "float"):
            if precision in (self.precision, other.precision):
                return PixelType(precision)
        return PixelType("int", min(self.low, other.low), max(self.high, other.high))


def integer_type(dtype: str) -> PixelType:
    """The type of whole numbers with the range of the numpy type ``dtype``."""
    info = np.iinfo(dtype)
    return PixelType("int", int(info.min), int(info.max))


FLOAT, DOUBLE, BYTE, BOOLEAN = PixelType("float"), PixelType("double"), integer_type("u1"), PixelType("int", 0, 1)


class PixelCache:
    """Planes computed for one request: a band that several others use is computed once a grid."""

    def __init__(self, limit_bytes: int = CACHED_BYTES) -> None:
        self._planes: OrderedDict[tuple[Band, Grid], Plane] = OrderedDict()
        self._bytes = 0
        self._limit = limit_bytes
        self.scenes: set[str] = set()
        """Ids of the stored images whose pixels were read."""

    def plane(self, band: Band, grid: Grid) -> Plane:
        """The pixels of ``band`` on ``grid``."""
        key = (band, grid)
        found = self._planes.get(key)
        if found is None:
            found = band.compute(grid, self)
            self._planes[key] = found
            self._bytes += found.values.nbytes + found.mask.nbytes
            while self._bytes > self._limit and len(self._planes) > 1:
                _, old = self._planes.popitem(last=False)
                self._bytes -= old.values.nbytes + old.mask.nbytes
        else:
            self._planes.move_to_end(key)
        return found


@dataclass(frozen=True, eq=False)
class Band:
    """A lazy band: ``compute`` gives its pixels on any grid; equal only to itself."""

    type: PixelType
    projection: Projection
    compute: Callable[[Grid, PixelCache], Plane]


@dataclass(frozen=True, eq=False)
class Image:
    """Bands in order, properties, and the outline in degrees (None: without end, as a constant is)."""

    bands: Mapping[str, Band]
    properties: Mapping[str, object] = field(default_factory=dict)
    outline: BaseGeometry | None = None


@dataclass(frozen=True, eq=False)
class Feature:
    """A geometry in degrees with properties."""

    outline: BaseGeometry | None
    properties: Mapping[str, object] = field(default_factory=dict)


Element = Image | Feature


@dataclass(frozen=True, eq=False)
class Collection:
    """Images or features in order."""

    elements: tuple[Element, ...]

    @property
    def images(self) -> tuple[Image, ...]:
        """The elements, which must all be images."""
        images = tuple(e for e in self.elements if isinstance(e, Image))
        if len(images) != len(self.elements):
            raise NotModelledError("a collection that holds other things than images is used as one of images")
        return images


@dataclass(frozen=True, eq=False)
class Geometry:
    """A geometry in degrees (EPSG:4326), longitudes possibly beyond 180 to stay in one piece."""

    outline: BaseGeometry


@dataclass(frozen=True, order=True)
class Date:
    """A moment: milliseconds since 1970, UTC."""

    millis: int

    def moment(self) -> dt.datetime:
        """As a datetime in UTC."""
        return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=self.millis)


@dataclass(frozen=True)
class DateRange:
    """From ``start`` on, before ``end`` (description of DateRange: start inclusive, end exclusive)."""

    start: Date
    end: Date


@dataclass(frozen=True)
class Reducer:
    """A reducer by the name of its output (``mean``, ``median``, ...)."""

    name: str


@dataclass(frozen=True, eq=False)
class Filter:
    """A filter of collections, and its two-sided form for joins."""

    passes: Callable[..., bool]
    """Of one element, or in a join of a primary and a secondary one."""


Function = Callable[..., object]


class PerThread(threading.local):
    """Objects that must not be shared between threads, one table a thread."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, str], object] = {}
