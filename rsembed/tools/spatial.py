"""Where pixels lie: UTM zones, snapped grids, footprints; for arrays of places at once.

Shape first, then snap: the pixel count follows from the extent alone, and the *centre*
moves to the collection's lattice. A smaller footprint is then an exact central crop of a
larger one at the same place, and neighbours share pixels.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.enums import TransformDirection

from rsembed.core.errors import SpecError
from rsembed.core.fetching import Grid
from rsembed.core.specs import MAX_LATITUDE, MIN_LATITUDE

WEB_MERCATOR = 3857
UTM_SOUTH = 327
"""EPSG codes of southern UTM zones begin with this."""
LONLAT = 4326
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class GridRule:
    """The lattice on which a collection's pixel edges lie: ``origin_m + k * step_m``, metres.

    ``south_y_m``: the origin of northings in southern zones, where it is another. Tiles are laid out from the
    equator; the 10,000 km that a southern zone adds to northings are no multiple of 30 m.
    """

    step_m: float
    origin_m: float = 0.0
    south_y_m: float | None = None

    def lattice_m(self, scale_m: float) -> float:
        """Spacing to which centres snap: the least common multiple of step and scale."""
        return _lcm(self.step_m, scale_m)


@lru_cache(maxsize=256)
def _lcm(a: float, b: float) -> float:
    fa, fb = (Fraction(str(v)).limit_denominator(10_000) for v in (a, b))
    numerator = math.lcm(fa.numerator * fb.denominator, fb.numerator * fa.denominator)
    return float(Fraction(numerator, fa.denominator * fb.denominator))


Place = tuple[int, float, float, int, int]
"""EPSG code, x_min, y_max, height, width."""


@dataclass(frozen=True)
class GridArray:
    """Grids of many places as columns; ``array[i]`` is the i-th :class:`Grid`."""

    epsg: Ints
    x_min: Floats
    y_max: Floats
    height: Ints
    width: Ints
    scale_m: float

    def __len__(self) -> int:
        return len(self.epsg)

    def __getitem__(self, i: int) -> Grid:
        epsg, x_min, y_max, height, width = self._rows[i]
        return Grid(epsg, x_min, y_max, self.scale_m, height, width)

    def place(self, i: int) -> Place:
        """``(epsg, x_min, y_max, height, width)`` of the i-th grid."""
        return self._rows[i]

    @cached_property
    def _rows(self) -> list[Place]:
        columns = (self.epsg, self.x_min, self.y_max, self.height, self.width)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def centre_crops(self, height: Ints, width: Ints) -> GridArray:
        """The central ``height`` x ``width`` pixels of each grid, shape (N,); margins must be whole pixels."""
        x_min = self.x_min + (self.width - width) // 2 * self.scale_m
        y_max = self.y_max - (self.height - height) // 2 * self.scale_m
        return GridArray(self.epsg, x_min, y_max, height, width, self.scale_m)

    def footprints(self) -> NDArray[np.object_]:
        """Outlines as shapely geometries in OGC:CRS84; split in two where they cross the antimeridian."""
        x = self.x_min[:, None] + (self.width * self.scale_m)[:, None] * np.array([0.0, 1.0, 1.0, 0.0])
        y = self.y_max[:, None] - (self.height * self.scale_m)[:, None] * np.array([1.0, 1.0, 0.0, 0.0])
        lon, lat = np.empty_like(x), np.empty_like(y)
        for epsg in np.unique(self.epsg):
            rows = self.epsg == epsg
            lon[rows], lat[rows] = to_lonlat(int(epsg), x[rows], y[rows])
        # Only a grid in degrees lies that far west or north: its outermost cells are centred on the poles.
        lon[lon.min(axis=1) < -180] += 360
        lat = np.clip(lat, -90.0, 90.0)
        crosses = (lon.max(axis=1) - lon.min(axis=1) > 180) | (lon.max(axis=1) > 180)
        lon[crosses] = np.where(lon[crosses] < 0, lon[crosses] + 360, lon[crosses])
        shapes: NDArray[np.object_] = shapely.polygons(np.stack([lon, lat], axis=-1))
        for i in np.flatnonzero(crosses):
            shapes[i] = split_at_antimeridian(shapes[i])
        return shapes


def split_at_antimeridian(shape: shapely.Geometry) -> shapely.MultiPolygon:
    """A polygon given with longitudes up to 360, cut at 180 into parts within -180..180."""
    west = shapely.intersection(shape, shapely.box(0, -90, 180, 90))
    east = shapely.transform(shapely.intersection(shape, shapely.box(180, -90, 360, 90)), lambda xy: xy - [360.0, 0.0])
    return shapely.MultiPolygon([part for part in (west, east) if isinstance(part, shapely.Polygon)])


def even_pixels(extent_m: float, scale_m: float) -> int:
    """Pixels that cover ``extent_m`` best, made even (at least 2)."""
    return 2 * max(1, round(extent_m / (2 * scale_m)))


def utm_epsg(lon: Floats, lat: Floats) -> Ints:
    """EPSG code of the UTM zone of each place, by MGRS zones (Norway and Svalbard included).

    Raises SpecError beyond 84 N or 80 S, where UTM ends.
    """
    lon, lat = np.atleast_1d(np.asarray(lon, float)), np.atleast_1d(np.asarray(lat, float))
    beyond = (lat > MAX_LATITUDE) | (lat < MIN_LATITUDE)
    if beyond.any():
        i = int(np.flatnonzero(beyond)[0])
        raise SpecError(
            f"latitude {lat[i]:g} lies beyond {MAX_LATITUDE:g} N / {-MIN_LATITUDE:g} S, where the UTM grids of "
            f"this collection end; leave such places out ({int(beyond.sum())} of {len(lat)} here)"
        )
    zone = (np.floor((lon + 180.0) / 6.0).astype(np.int64) % 60) + 1
    zone[(lat >= 56) & (lat < 64) & (lon >= 3) & (lon < 12)] = 32
    svalbard = lat >= 72
    for west, east, number in ((0, 9, 31), (9, 21, 33), (21, 33, 35), (33, 42, 37)):
        zone[svalbard & (lon >= west) & (lon < east)] = number
    return np.where(lat >= 0, 32600, 32700) + zone


_local = threading.local()


def _transformer(epsg: int) -> pyproj.Transformer:
    """From degrees to metres of EPSG:``epsg``; the other way with direction INVERSE."""
    # pyproj's transformers must not be shared between threads.
    cache: dict[int, pyproj.Transformer] | None = getattr(_local, "transformers", None)
    if cache is None:
        cache = _local.transformers = {}
    if epsg not in cache:
        zone, south = epsg % 100, epsg // 100 == 327
        if epsg // 100 in (326, 327) and 1 <= zone <= 60:
            # Spelled out, a UTM zone is ready in a sixth of the time that looking it up takes.
            steps = "+step +proj=unitconvert +xy_in=deg +xy_out=rad +step +proj=utm +ellps=WGS84"
            cache[epsg] = pyproj.Transformer.from_pipeline(
                f"+proj=pipeline {steps} +zone={zone}{' +south' if south else ''}"
            )
        else:
            cache[epsg] = pyproj.Transformer.from_crs(4326, epsg, always_xy=True)
    return cache[epsg]


def from_lonlat(epsg: int, lon: Floats, lat: Floats) -> tuple[Floats, Floats]:
    """Degrees to metres of EPSG:``epsg``."""
    x, y = _transformer(epsg).transform(lon, lat)
    return np.asarray(x, float), np.asarray(y, float)


def to_lonlat(epsg: int, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Metres of EPSG:``epsg`` to degrees."""
    lon, lat = _transformer(epsg).transform(x, y, direction=TransformDirection.INVERSE)
    return np.asarray(lon, float), np.asarray(lat, float)


def grid_epsg(lon: Floats, lat: Floats, grid: str = "utm") -> Ints:
    """EPSG code of each place's grid: its UTM zone, Web Mercator for the reference's recipe, or degrees."""
    if grid != "utm":
        code = LONLAT if grid == "lonlat" else WEB_MERCATOR
        return np.full(len(np.atleast_1d(lon)), code, dtype=np.int64)
    return utm_epsg(lon, lat)


def snapped_grids(
    lon: Floats,
    lat: Floats,
    height: Ints | int,
    width: Ints | int,
    scale_m: float,
    *,
    rule: GridRule,
    grid: str = "utm",
) -> GridArray:
    """Grids of ``height`` x ``width`` pixels centred on the lattice point nearest each place.

    ``lon``, ``lat``: degrees, shape (N,). ``height`` and ``width``: even pixel counts, one
    number or shape (N,). ``rule``: the collection's lattice (ignored for Web Mercator).
    """
    lon, lat = np.atleast_1d(np.asarray(lon, float)), np.atleast_1d(np.asarray(lat, float))
    n = len(lon)
    heights = np.broadcast_to(np.asarray(height, np.int64), n)
    widths = np.broadcast_to(np.asarray(width, np.int64), n)
    if grid == "web_mercator":
        rule = GridRule(scale_m)
    epsg = grid_epsg(lon, lat, grid)
    x, y = np.empty(n), np.empty(n)
    for code in np.unique(epsg):
        rows = epsg == code
        x[rows], y[rows] = from_lonlat(int(code), lon[rows], lat[rows])
    step = rule.lattice_m(scale_m)
    x = rule.origin_m + step * np.rint((x - rule.origin_m) / step)
    south_y_m = rule.origin_m if rule.south_y_m is None else rule.south_y_m
    y_origin = np.where(epsg // 100 == UTM_SOUTH, south_y_m, rule.origin_m)
    y = y_origin + step * np.rint((y - y_origin) / step)
    return GridArray(epsg, x - widths * scale_m / 2, y + heights * scale_m / 2, heights, widths, scale_m)


def box_pixels(boxes_n4: Floats, scale_m: float, *, grid: str = "utm") -> tuple[Ints, Ints]:
    """Even ``(height, width)`` in pixels of boxes, in the zone of their centre.

    ``boxes_n4``: (N, 4) minlon, minlat, maxlon, maxlat in degrees.
    """
    minlon, minlat, maxlon, maxlat = boxes_n4.T
    lon, lat = (minlon + maxlon) / 2, (minlat + maxlat) / 2
    epsg = grid_epsg(lon, lat, grid)
    heights, widths = np.empty(len(lon), np.int64), np.empty(len(lon), np.int64)
    # Corners and mid-edges: on a transverse Mercator grid the sides of a box bulge.
    xs = np.stack([minlon, lon, maxlon, minlon, maxlon, minlon, lon, maxlon], axis=1)
    ys = np.stack([minlat, minlat, minlat, lat, lat, maxlat, maxlat, maxlat], axis=1)
    for code in np.unique(epsg):
        rows = epsg == code
        x, y = from_lonlat(int(code), xs[rows], ys[rows])
        widths[rows] = _even(x.max(axis=1) - x.min(axis=1), scale_m)
        heights[rows] = _even(y.max(axis=1) - y.min(axis=1), scale_m)
    return heights, widths


def _even(extent_m: Floats, scale_m: float) -> Ints:
    return 2 * np.maximum(1, np.rint(extent_m / (2 * scale_m)).astype(np.int64))


def to_grid_centre(lon: float, lat: float) -> tuple[int, float, float]:
    """``(epsg, x, y)`` of a place that need not have a UTM zone: near the poles it is Web Mercator's."""
    in_utm = MIN_LATITUDE <= lat <= MAX_LATITUDE
    epsg = int(utm_epsg(np.array([lon]), np.array([lat]))[0]) if in_utm else WEB_MERCATOR
    x, y = from_lonlat(epsg, np.array([lon]), np.array([lat]))
    return epsg, float(x[0]), float(y[0])
