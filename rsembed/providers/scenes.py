"""Scenes and their index: read once, then asked for every row without touching the catalogue."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from numpy.typing import NDArray

from rsembed.core.fetching import Grid
from rsembed.core.specs import Window
from rsembed.tools.spatial import to_lonlat

Datatake = tuple[str, str, str, str]


@dataclass(frozen=True)
class Asset:
    """One band of a scene: a file, and how its numbers are to be read.

    ``index`` counts bands from 1. Reflectance = stored * ``scale`` + ``offset``. ``unit``, ``nodata``:
    as the catalogue states them; None where it does not. ``checksum``: its ``file:checksum``, a multihash.
    """

    href: str
    index: int = 1
    scale: float | None = None
    offset: float | None = None
    unit: str | None = None
    nodata: float | None = None
    checksum: str | None = None


@dataclass(frozen=True)
class Scene:
    """One granule of imagery.

    ``bbox``: (west, south, east, north) in degrees, west > east where it crosses the antimeridian.
    ``time`` is UTC; None serves any window. ``cloud_pct`` 0..100. ``orbit_pass`` is ``ASCENDING`` or
    ``DESCENDING``, ``orbit`` the relative orbit. ``offset_applied``: the offset its assets declare is
    taken off already, as the item says; ``offset_seen``: as its pixels say, whatever the item does.
    ``tier``: Landsat's collection category (``T1``). ``assets`` by Earth Engine's band name.
    """

    id: str
    collection: str
    time: dt.datetime | None
    bbox: tuple[float, float, float, float]
    assets: Mapping[str, Asset]
    outline: shapely.Geometry | None = None
    cloud_pct: float | None = None
    platform: str = ""
    orbit: str = ""
    orbit_pass: str = ""
    tile: str = ""
    baseline: float | None = None
    instrument_mode: str = ""
    constellation: str = ""
    offset_applied: bool = False
    offset_seen: bool = False
    tier: str = ""

    @property
    def date(self) -> dt.date | None:
        """Day of acquisition, UTC."""
        return self.time.date() if self.time else None

    @cached_property
    def datatake(self) -> Datatake:
        """What the tiles of one overpass share: (solar day, platform, orbit, pass).

        The solar day is that of the local mean solar time, so that an overpass of New Zealand at
        22 h UTC is not torn apart at midnight.
        """
        if self.time is None:
            return ("", self.platform, self.orbit, self.orbit_pass)
        west, _, east, _ = self.bbox
        lon = (west + east) / 2 if west <= east else ((west + east + 360) / 2 + 180) % 360 - 180
        day = (self.time + dt.timedelta(hours=lon / 15)).date()
        return (day.isoformat(), self.platform, self.orbit, self.orbit_pass)

    def covers(self, lon: float, lat: float) -> bool:
        """Whether the place (degrees) lies within the scene's outline, or its box where it has none."""
        if self.outline is not None:
            return any(shapely.intersects_xy(self.outline, lon + turn, lat) for turn in (-360.0, 0.0, 360.0))
        west, south, east, north = self.bbox
        inside = west <= lon <= east if west <= east else lon >= west or lon <= east
        return inside and south <= lat <= north


def grid_bounds(grid: Grid) -> tuple[float, float, float, float]:
    """``grid``'s (west, south, east, north) in degrees; east may exceed 180 at the antimeridian."""
    left, bottom, right, top = grid.bounds
    # The sides bulge in degrees; eight steps a side keep the error far below a pixel.
    along = np.linspace(0.0, 1.0, 9)
    x = np.concatenate([left + along * (right - left)] * 2 + [np.full(9, left), np.full(9, right)])
    y = np.concatenate([np.full(9, bottom), np.full(9, top)] + [bottom + along * (top - bottom)] * 2)
    lon, lat = to_lonlat(grid.epsg, x, y)
    if lon.max() - lon.min() > 180:
        lon = np.where(lon < 0, lon + 360, lon)
    return float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())


def grid_centre(grid: Grid) -> tuple[float, float]:
    """Longitude and latitude of ``grid``'s centre, degrees."""
    left, bottom, right, top = grid.bounds
    lon, lat = to_lonlat(grid.epsg, np.array([(left + right) / 2]), np.array([(bottom + top) / 2]))
    return float(lon[0]), float(lat[0])


class SceneIndex:
    """Scenes found by place and window; immutable, so threads share it freely."""

    def __init__(self, scenes: Iterable[Scene]) -> None:
        self.scenes: tuple[Scene, ...] = tuple(sorted(scenes, key=lambda s: (s.collection, s.id)))
        boxes = np.array([s.bbox for s in self.scenes], dtype=np.float64).reshape(-1, 4)
        self._west, self._south, self._east, self._north = boxes.T
        self._east = np.where(self._east < self._west, self._east + 360, self._east)
        days = [_day_number(s.date) if s.date else None for s in self.scenes]
        self._days: NDArray[np.int64] = np.array([0 if d is None else d for d in days], dtype=np.int64)
        self._dateless: NDArray[np.bool_] = np.array([d is None for d in days], dtype=np.bool_)

    def __len__(self) -> int:
        return len(self.scenes)

    def search(self, bounds: tuple[float, float, float, float], window: Window) -> list[Scene]:
        """Scenes whose box meets ``bounds`` (degrees, east may exceed 180) on a day of ``window``.

        In the order of (collection, id).
        """
        west, south, east, north = bounds
        near = (self._south <= north) & (self._north >= south)
        beside = np.zeros_like(near)
        for turn in (-360.0, 0.0, 360.0):
            beside |= (self._west + turn <= east) & (self._east + turn >= west)
        inside = (self._days >= _day_number(window.start)) & (self._days < _day_number(window.end))
        hits = np.flatnonzero(near & beside & (inside | self._dateless))
        return [self.scenes[i] for i in hits]


def _day_number(day: dt.date) -> int:
    return day.toordinal()


def within(scenes: Sequence[Scene], window: Window) -> list[Scene]:
    """The scenes of ``window``; one without a date belongs to any."""
    return [s for s in scenes if s.date is None or window.start <= s.date < window.end]
