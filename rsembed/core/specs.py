"""The words of a request: place, window, sensor, output and input preparation.

Every value is frozen and checked when it is made, so nothing wrong travels further.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

from rsembed.core.errors import SpecError

EPSG_4326 = "EPSG:4326"
MAX_LATITUDE = 84.0
MIN_LATITUDE = -80.0


def _require_wgs84(crs: str) -> None:
    if str(crs).upper() != EPSG_4326:
        raise SpecError(f"crs must be {EPSG_4326}, got {crs!r}; reproject the coordinates first")


def _is_finite(value: object) -> bool:
    """Whether ``value`` is a number, and neither NaN nor infinite."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _plain(spec: object, *names: str) -> None:
    """Turn other numbers, such as numpy's, into Python's own: specs then print and serialise alike."""
    for name in names:
        value = getattr(spec, name)
        kind: type = type(value)
        if isinstance(value, Real) and kind not in (int, float, bool):
            object.__setattr__(spec, name, int(value) if isinstance(value, Integral) else float(value))


def _require_lonlat(lon: float, lat: float) -> None:
    if not (_is_finite(lon) and -180.0 <= lon <= 180.0):
        raise SpecError(f"longitude must lie in -180..180 degrees, got {lon!r}")
    if not (_is_finite(lat) and -90.0 <= lat <= 90.0):
        raise SpecError(f"latitude must lie in -90..90 degrees, got {lat!r}")


@dataclass(frozen=True)
class PointBuffer:
    """A square around a point: ``2 * buffer_m`` metres a side on the ground.

    ``lon``, ``lat`` in degrees (EPSG:4326). ``buffer_m`` in metres; left out, the
    footprint is the model's native one (one row = one forward pass).
    """

    lon: float
    lat: float
    buffer_m: float | None = None
    crs: str = EPSG_4326

    def __post_init__(self) -> None:
        _require_wgs84(self.crs)
        _require_lonlat(self.lon, self.lat)
        if self.buffer_m is not None and not (_is_finite(self.buffer_m) and self.buffer_m > 0):
            raise SpecError(f"buffer_m must be a positive number of metres, got {self.buffer_m!r}")
        _plain(self, "lon", "lat", "buffer_m")

    def validate(self) -> None:
        """Kept for callers of the seed API: a value that exists is valid."""


@dataclass(frozen=True)
class BBox:
    """A box in degrees (EPSG:4326), ``minlon < maxlon`` and ``minlat < maxlat``."""

    minlon: float
    minlat: float
    maxlon: float
    maxlat: float
    crs: str = EPSG_4326

    def __post_init__(self) -> None:
        _plain(self, "minlon", "minlat", "maxlon", "maxlat")
        _require_wgs84(self.crs)
        _require_lonlat(self.minlon, self.minlat)
        _require_lonlat(self.maxlon, self.maxlat)
        if self.minlon >= self.maxlon:
            raise SpecError(
                f"minlon must be less than maxlon, got {self.minlon} >= {self.maxlon}; a box that crosses the "
                f"antimeridian has to be split: BBox({self.minlon}, {self.minlat}, 180, {self.maxlat}) and "
                f"BBox(-180, {self.minlat}, {self.maxlon}, {self.maxlat})"
            )
        if self.minlat >= self.maxlat:
            raise SpecError(f"minlat must be less than maxlat, got {self.minlat} >= {self.maxlat}")

    @property
    def lon(self) -> float:
        """Longitude of the centre, degrees."""
        return (self.minlon + self.maxlon) / 2

    @property
    def lat(self) -> float:
        """Latitude of the centre, degrees."""
        return (self.minlat + self.maxlat) / 2

    def validate(self) -> None:
        """Kept for callers of the seed API: a value that exists is valid."""


Spatial = PointBuffer | BBox


def parse_date(text: object, what: str = "date") -> dt.date:
    """``text`` as a calendar day; an ISO date, or a date-time of which the day is taken."""
    if isinstance(text, dt.datetime):
        return text.date()
    if isinstance(text, dt.date):
        return text
    try:
        return dt.datetime.fromisoformat(str(text)).date()
    except ValueError as exc:
        raise SpecError(f"{what} must be an ISO date such as 2022-06-01, got {text!r}") from exc


@dataclass(frozen=True, order=True)
class Window:
    """Calendar days ``[start, end)``."""

    start: dt.date
    end: dt.date

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise SpecError(f"a window is half-open [start, end) and needs start < end, got {self.start} .. {self.end}")

    @property
    def days(self) -> int:
        """Length in days."""
        return (self.end - self.start).days

    @property
    def midpoint(self) -> dt.date:
        """The day in the middle, rounded down."""
        return self.start + dt.timedelta(seconds=self.days * 86400 // 2)

    def __str__(self) -> str:
        return f"{self.start}..{self.end}"


@dataclass(frozen=True)
class TemporalSpec:
    """When: a calendar year or a half-open range of days. Made by :meth:`year` or :meth:`range`."""

    mode: Literal["year", "range"]
    start: str
    end: str

    def __post_init__(self) -> None:
        if self.mode not in ("year", "range"):
            raise SpecError(f"mode must be 'year' or 'range', got {self.mode!r}")
        window = Window(parse_date(self.start, "start"), parse_date(self.end, "end"))
        object.__setattr__(self, "start", window.start.isoformat())
        object.__setattr__(self, "end", window.end.isoformat())

    @classmethod
    def year(cls, year: int) -> TemporalSpec:
        """The calendar year ``year`` (1..9998): ``[year-01-01, year+1-01-01)``."""
        if isinstance(year, bool) or not isinstance(year, Integral) or not 1 <= year <= 9998:
            raise SpecError(f"year must be a whole number from 1 to 9998, got {year!r}")
        year = int(year)
        return cls("year", f"{year:04d}-01-01", f"{year + 1:04d}-01-01")

    @classmethod
    def range(cls, start: str | dt.date, end: str | dt.date) -> TemporalSpec:
        """The days ``[start, end)``; ISO dates."""
        return cls("range", parse_date(start, "start").isoformat(), parse_date(end, "end").isoformat())

    @property
    def window(self) -> Window:
        """The days this stands for."""
        return Window(parse_date(self.start), parse_date(self.end))

    def validate(self) -> None:
        """Kept for callers of the seed API: a value that exists is valid."""


def _require_scale(scale_m: float) -> None:
    if not (_is_finite(scale_m) and scale_m > 0):
        raise SpecError(f"scale_m must be a positive number of metres, got {scale_m!r}")


def _require_fill(fill_value: object) -> None:
    if not _is_finite(fill_value):
        raise SpecError(f"fill_value must be a finite number in raw units, got {fill_value!r}")


def _require_cloudy(cloudy_pct: object) -> None:
    if cloudy_pct is None:
        return
    if not (isinstance(cloudy_pct, Real) and _is_finite(cloudy_pct) and 0 <= float(cloudy_pct) <= 100):
        raise SpecError(f"cloudy_pct must lie in 0..100 per cent or be None, got {cloudy_pct!r}")


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SpecError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


Composite = Literal["median", "mosaic"]
Orbit = Literal["ASCENDING", "DESCENDING"]
COMPOSITES = ("median", "mosaic")
ORBITS = ("ASCENDING", "DESCENDING")
S1_BY_POWER = {True: "COPERNICUS/S1_GRD_FLOAT", False: "COPERNICUS/S1_GRD"}
"""In linear power or not -> Sentinel-1's collection."""


@dataclass(frozen=True)
class SensorSpec:
    """What to fetch, spelled out by the user instead of taken from the model's card.

    ``scale_m`` metres per pixel; ``cloudy_pct`` keeps scenes with at most that cloud cover
    (None: all; ``"recipe"``: the filter of the recipe in force); ``fill_value`` in raw units
    stands where there is no data. ``use_float_linear``: of Sentinel-1's two collections, the one in linear
    power (True) or in dB (False); None: the one that is named.
    """

    collection: str
    bands: tuple[str, ...]
    scale_m: float = 10.0
    cloudy_pct: float | Literal["recipe"] | None = 30
    fill_value: float = 0.0
    composite: Composite = "median"
    modality: str | None = None
    orbit: Orbit | None = None
    use_float_linear: bool | None = None
    s1_require_iw: bool = True
    s1_relax_iw_on_empty: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.collection, str) or not self.collection.strip():
            raise SpecError(f"collection must be named, got {self.collection!r}")
        if isinstance(self.bands, str) or not isinstance(self.bands, Iterable):
            raise SpecError(f"bands must be a sequence of names, got the {type(self.bands).__name__} {self.bands!r}")
        object.__setattr__(self, "bands", tuple(self.bands))
        if not self.bands:
            raise SpecError("bands must name at least one band")
        for band in self.bands:
            if not isinstance(band, str) or not band.strip():
                raise SpecError(f"a band must be a name, got {band!r}")
        _require_scale(self.scale_m)
        _require_fill(self.fill_value)
        _plain(self, "scale_m", "cloudy_pct", "fill_value")
        if self.cloudy_pct != "recipe":
            _require_cloudy(self.cloudy_pct)
        _require_choice("composite", self.composite, COMPOSITES)
        for name in ("use_float_linear", "s1_require_iw", "s1_relax_iw_on_empty"):
            if not isinstance(getattr(self, name), bool) and (name, getattr(self, name)) != ("use_float_linear", None):
                raise SpecError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.use_float_linear is not None and self.collection in S1_BY_POWER.values():
            object.__setattr__(self, "collection", S1_BY_POWER[self.use_float_linear])
        if self.modality is not None and not isinstance(self.modality, str):
            raise SpecError(f"modality must be a name, got {self.modality!r}")
        if self.orbit is not None:
            if not isinstance(self.orbit, str):
                raise SpecError(f"orbit must be one of {', '.join(ORBITS)}; got {self.orbit!r}")
            object.__setattr__(self, "orbit", self.orbit.upper())
            _require_choice("orbit", self.orbit, ORBITS)


@dataclass(frozen=True)
class FetchSpec:
    """Overrides of single fetch settings; whatever is None stays as the model's card says."""

    scale_m: float | None = None
    cloudy_pct: float | None = None
    fill_value: float | None = None
    composite: Composite | None = None

    def __post_init__(self) -> None:
        if self.scale_m is not None:
            _require_scale(self.scale_m)
        _require_cloudy(self.cloudy_pct)
        if self.fill_value is not None:
            _require_fill(self.fill_value)
        _plain(self, "scale_m", "cloudy_pct", "fill_value")
        if self.composite is not None:
            _require_choice("composite", self.composite, COMPOSITES)


@dataclass(frozen=True)
class OutputSpec:
    """What comes out: one vector (:meth:`pooled`) or a map of vectors (:meth:`grid`)."""

    mode: Literal["pooled", "grid"] = "pooled"
    pooling: Literal["mean", "max"] = "mean"
    grid_orientation: Literal["north_up", "native"] = "north_up"

    def __post_init__(self) -> None:
        _require_choice("mode", self.mode, ("pooled", "grid"))
        _require_choice("pooling", self.pooling, ("mean", "max"))
        _require_choice("grid_orientation", self.grid_orientation, ("north_up", "native"))

    @classmethod
    def pooled(cls, pooling: Literal["mean", "max"] = "mean", **unknown: object) -> OutputSpec:
        """One vector of shape ``(D,)``, the ``mean`` or ``max`` over the asked ground."""
        _reject_unknown("OutputSpec.pooled", unknown, ("pooling",))
        return cls("pooled", pooling)

    @classmethod
    def grid(
        cls,
        grid_orientation: Literal["north_up", "native"] = "north_up",
        *,
        pooling: Literal["mean", "max"] = "mean",
        **unknown: object,
    ) -> OutputSpec:
        """A map of vectors, shape ``(D, H, W)``, first row north; frames reduced by ``pooling``."""
        _reject_unknown("OutputSpec.grid", unknown, ("grid_orientation", "pooling"))
        return cls("grid", pooling, grid_orientation)


def _reject_unknown(what: str, unknown: dict[str, object], known: tuple[str, ...]) -> None:
    if "scale_m" in unknown:
        raise SpecError(f"{what} takes no scale_m: set it in FetchSpec(scale_m=...) or SensorSpec")
    if unknown:
        raise SpecError(f"{what} takes {', '.join(known)}; got {', '.join(sorted(unknown))}")


@dataclass(frozen=True)
class InputPrepSpec:
    """How a region larger than the model's input meets the model.

    ``tile``: cut into tiles of the model's own size (default); ``resize``: the whole region squeezed
    into one input; ``auto``: tiles unless there were more than ``max_tiles``.

    ``tile_size``: pixels a side (None: the model's own); ``tile_stride``: from one tile to the next
    (None: a tile; less: tiles overlap, and each owns the ground up to the middle of an overlap).
    More than ``max_tiles`` are warned of, more than ``max_tiles_hard`` refused. ``tile_snap_frac``:
    an overhang of at most this share of a tile is spread over the others instead of costing one more.
    """

    mode: Literal["tile", "resize", "auto"] = "tile"
    tile_size: int | None = None
    max_tiles: int = 64
    max_tiles_hard: int = 1024
    tile_snap_frac: float = 0.1
    tile_stride: int | None = None

    def __post_init__(self) -> None:
        _require_choice("mode", self.mode, ("tile", "resize", "auto"))
        for name in ("tile_size", "tile_stride"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or int(value) < 1):
                raise SpecError(f"{name} must be a positive number of pixels, got {value!r}")
        if self.tile_size is not None and self.tile_stride is not None and self.tile_stride > self.tile_size:
            raise SpecError(
                "tile_stride must be at most tile_size, or ground is left out; "
                f"got {self.tile_stride} and {self.tile_size}"
            )
        _plain(self, "tile_size", "tile_stride", "max_tiles", "max_tiles_hard", "tile_snap_frac")
        if not 1 <= self.max_tiles <= self.max_tiles_hard:
            raise SpecError(f"max_tiles must lie in 1..max_tiles_hard, got {self.max_tiles} and {self.max_tiles_hard}")
        if not (_is_finite(self.tile_snap_frac) and 0 <= self.tile_snap_frac <= 0.5):
            raise SpecError(f"tile_snap_frac must lie in 0..0.5, got {self.tile_snap_frac!r}")

    @classmethod
    def tile(
        cls,
        tile_size: int | None = None,
        tile_stride: int | None = None,
        *,
        max_tiles: int = 64,
        max_tiles_hard: int = 1024,
        tile_snap_frac: float = 0.1,
    ) -> InputPrepSpec:
        """Tiles of ``tile_size`` pixels (the model's own size if None)."""
        return cls("tile", tile_size, max_tiles, max_tiles_hard, tile_snap_frac, tile_stride)

    @classmethod
    def resize(cls) -> InputPrepSpec:
        """The whole region as one input."""
        return cls("resize")

    @classmethod
    def auto(
        cls,
        tile_size: int | None = None,
        tile_stride: int | None = None,
        *,
        max_tiles: int = 64,
        max_tiles_hard: int = 1024,
        tile_snap_frac: float = 0.1,
    ) -> InputPrepSpec:
        """Tiles while there are at most ``max_tiles``, else the whole region resized."""
        return cls("auto", tile_size, max_tiles, max_tiles_hard, tile_snap_frac, tile_stride)
