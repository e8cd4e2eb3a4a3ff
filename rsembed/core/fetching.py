"""What a provider is asked for: a recipe (how), bands (which), a grid (where), bins (when)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from rsembed.core.errors import SpecError
from rsembed.core.specs import Window


@dataclass(frozen=True)
class FramePolicy:
    """How many frames a model wants of a window; a pure rule, applied per row.

    ``single``: one composite of the whole window. ``auto``: ``window days // frame_days``
    frames, at least 1 and at most ``max_frames``. ``multi``: ``n_frames`` always.
    """

    mode: Literal["single", "auto", "multi"] = "single"
    frame_days: int = 28
    max_frames: int = 1
    n_frames: int = 1

    def count(self, window: Window) -> int:
        """Number of frames for ``window``."""
        if self.mode == "single":
            return 1
        if self.mode == "multi":
            return self.n_frames
        return max(1, min(self.max_frames, window.days // self.frame_days))


@dataclass(frozen=True)
class CloudPolicy:
    """Which scenes and pixels count as clear.

    ``mask``: ``scl`` drops pixels by the scene classification, ``none`` drops none.
    ``scene_pct``: scenes with at most this cloud cover (per cent; None: all).
    ``relax_pct``: used instead when ``scene_pct`` leaves nothing at all (None: never).
    """

    mask: Literal["scl", "none"] = "scl"
    scene_pct: float | None = 60.0
    relax_pct: float | None = 90.0


@dataclass(frozen=True)
class FetchRecipe:
    """Everything that decides pixel values apart from place, time and bands.

    Two models may share a fetch exactly when their recipes are equal. ``scale_m`` is
    metres per pixel of the grid asked for. ``resampling``: ``area`` is the area-weighted
    mean of valid pixels where the grid is coarser than the source and nearest elsewhere;
    ``nearest`` is nearest everywhere. ``frame_date``: ``median`` of the acquisition dates
    of the contributing scenes, or the ``midpoint`` of the bin.
    """

    collection: str
    scale_m: float
    composite: Literal["median", "mosaic"] = "median"
    frames: FramePolicy = FramePolicy()
    clouds: CloudPolicy = CloudPolicy()
    orbit: Literal["ASCENDING", "DESCENDING", "most_images", "any"] = "any"
    resampling: Literal["area", "nearest"] = "area"
    grid: Literal["utm", "web_mercator"] = "utm"
    frame_date: Literal["median", "midpoint"] = "median"
    s1_require_iw: bool = True
    s1_relax_iw_on_empty: bool = True


@dataclass(frozen=True, slots=True)
class Grid:
    """A north-up pixel grid: ``height`` x ``width`` square pixels of ``scale_m`` metres.

    ``x_min`` and ``y_max`` are the outer edges of the top-left pixel in EPSG:``epsg``.
    """

    epsg: int
    x_min: float
    y_max: float
    scale_m: float
    height: int
    width: int

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """Affine coefficients ``(a, b, c, d, e, f)``: x = a*col + b*row + c, y = d*col + e*row + f."""
        return (self.scale_m, 0.0, self.x_min, 0.0, -self.scale_m, self.y_max)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """``(left, bottom, right, top)`` in the grid's own CRS."""
        return (
            self.x_min,
            self.y_max - self.height * self.scale_m,
            self.x_min + self.width * self.scale_m,
            self.y_max,
        )

    def offset_of(self, inner: Grid) -> tuple[int, int]:
        """``(row, col)`` of ``inner``'s first pixel in this grid.

        Raises SpecError when ``inner`` is not made of this grid's own pixels.
        """
        col = (inner.x_min - self.x_min) / self.scale_m
        row = (self.y_max - inner.y_max) / self.scale_m
        same_lattice = (
            inner.epsg == self.epsg
            and inner.scale_m == self.scale_m
            and abs(col - round(col)) < 1e-6
            and abs(row - round(row)) < 1e-6
        )
        inside = (
            round(col) >= 0
            and round(row) >= 0
            and round(row) + inner.height <= self.height
            and round(col) + inner.width <= self.width
        )
        if not (same_lattice and inside):
            raise SpecError(f"{inner} is not a crop of {self}")
        return round(row), round(col)

    def centre_crop(self, height: int, width: int) -> Grid:
        """The central ``height`` x ``width`` pixels; the margins must be whole pixels."""
        dy, dx = self.height - height, self.width - width
        if not (dy or dx):
            return self
        if dy < 0 or dx < 0 or dy % 2 or dx % 2:
            raise SpecError(f"{height} x {width} is not a central crop of {self.height} x {self.width}")
        return replace(
            self,
            x_min=self.x_min + dx // 2 * self.scale_m,
            y_max=self.y_max - dy // 2 * self.scale_m,
            height=height,
            width=width,
        )


@dataclass(frozen=True)
class FetchRequest:
    """One request to a provider: ``len(bins)`` frames of ``bands`` on ``grid``."""

    recipe: FetchRecipe
    bands: tuple[str, ...]
    grid: Grid
    bins: tuple[Window, ...]
