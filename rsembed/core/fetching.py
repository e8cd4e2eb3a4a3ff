"""What a provider is asked for: a recipe (how), bands (which), a grid (where), bins (when)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from rsembed.core.errors import SpecError
from rsembed.core.specs import Window


@dataclass(frozen=True)
class FramePolicy:
    """How many frames a model wants of a window, and where they lie in it; a pure rule, applied per row.

    ``single``: one composite of the whole window. ``multi``: ``n_frames`` always. ``auto``: one frame for each
    whole ``frame_days`` of the window (``round_up``: for the rest as well), at least 1 and at most ``max_frames``.

    ``bins``: ``equal`` parts of the window; or, in auto mode, ``fixed``: ``frame_days`` each from the window's first
    day, the last cut at its end. Fixed bins leave out what lies behind the last of them; where that is another
    ``frame_days`` or more, they become ``max_frames`` equal parts. A single frame always takes the whole window.
    ``annual``: the calendar year of the window's ``year_of`` day, which must be one of ``years``.
    ``tools/temporal.py`` makes the bins.
    """

    mode: Literal["single", "auto", "multi", "annual"] = "single"
    frame_days: int = 28
    max_frames: int = 1
    n_frames: int = 1
    bins: Literal["equal", "fixed"] = "equal"
    round_up: bool = False
    years: tuple[int, ...] = ()
    year_of: Literal["middle", "start"] = "middle"

    def __post_init__(self) -> None:
        # What the mode does not look at is made equal, so that equal rules are equal values and share a fetch.
        idle = {
            "frame_days": 28,
            "max_frames": 1,
            "n_frames": 1,
            "bins": "equal",
            "round_up": False,
            "years": (),
            "year_of": "middle",
        }
        used = {
            "single": (),
            "multi": ("n_frames",),
            "auto": ("frame_days", "max_frames", "bins", "round_up"),
            "annual": ("years", "year_of"),
        }[self.mode]
        for name, value in idle.items():
            if name not in used:
                object.__setattr__(self, name, value)

    def __str__(self) -> str:
        if self.mode == "single":
            return "one composite of the window"
        if self.mode == "multi":
            return f"always {self.n_frames}"
        if self.mode == "annual":
            return f"one of the years {min(self.years)} to {max(self.years)}"
        begun = " begun" if self.round_up else ""
        fixed = ", as bins of that length from the first day" if self.bins == "fixed" else ""
        return f"one per {self.frame_days} days{begun}, at most {self.max_frames}{fixed}"

    def count(self, window: Window) -> int:
        """Number of frames for ``window``."""
        if self.mode in ("single", "annual"):
            return 1
        if self.mode == "multi":
            return self.n_frames
        wanted = -(-window.days // self.frame_days) if self.round_up else window.days // self.frame_days
        return max(1, min(self.max_frames, wanted))

    def fixed_bins(self, window: Window) -> bool:
        """Whether the frames of ``window`` are bins of ``frame_days``, rather than equal parts of it."""
        count = self.count(window)
        fixed = self.mode == "auto" and self.bins == "fixed" and count > 1
        return fixed and window.days - count * self.frame_days < self.frame_days

    def stretched(self, window: Window) -> bool:
        """Whether ``window`` is too long for bins of ``frame_days``, so that its frames lie further apart."""
        return self.bins == "fixed" and self.count(window) > 1 and not self.fixed_bins(window)


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

    def __str__(self) -> str:
        scenes = "all scenes" if self.scene_pct is None else f"scenes up to {self.scene_pct:g} %"
        relaxed = "" if self.relax_pct is None else f", else {self.relax_pct:g} %"
        return f"{'masked by SCL' if self.mask == 'scl' else 'no mask'}, {scenes}{relaxed}"


@dataclass(frozen=True)
class PixelLattice:
    """A product's own pixels: edges at ``x_origin + k * step`` and ``y_origin - k * step``, units of its CRS."""

    step: float
    x_origin: float = 0.0
    y_origin: float = 0.0


@dataclass(frozen=True)
class ProductRules:
    """How a published product of embeddings is read.

    ``location``: a folder or http(s) address that holds it (None: where its authors published it).
    ``lattice``: its pixels, where every one that the place touches is wanted as it is (None: the grid asked for
    is sampled). ``holes``: whether pixels without an embedding are masked, or the zeros that stand there count.
    """

    location: str | None = None
    lattice: PixelLattice | None = None
    holes: Literal["masked", "zero"] = "masked"

    def __str__(self) -> str:
        own = "" if self.lattice is None else ", its own pixels"
        return f"files {self.location or 'as published'}{own}{', zeros in holes' if self.holes == 'zero' else ''}"


@dataclass(frozen=True)
class FetchRecipe:
    """Everything that decides pixel values apart from place, time and bands.

    Two models may share a fetch exactly when their recipes are equal. ``scale_m`` is
    metres per pixel of the grid asked for. ``resampling``: ``area`` is the area-weighted
    mean of valid pixels where the grid is coarser than the source and nearest elsewhere;
    ``nearest`` is nearest everywhere. ``frame_date``: ``median`` of the acquisition dates
    of the contributing scenes, or the ``midpoint`` of the bin. ``product``: for published
    embeddings in the place of imagery.
    """

    collection: str
    scale_m: float
    composite: Literal["median", "mosaic"] = "median"
    frames: FramePolicy = FramePolicy()
    clouds: CloudPolicy = CloudPolicy()
    orbit: Literal["ASCENDING", "DESCENDING", "most_images", "any"] = "any"
    resampling: Literal["area", "nearest"] = "area"
    grid: Literal["utm", "web_mercator", "lonlat"] = "utm"
    frame_date: Literal["median", "midpoint"] = "median"
    s1_require_iw: bool = True
    s1_relax_iw_on_empty: bool = True
    product: ProductRules | None = None


@dataclass(frozen=True, slots=True)
class Grid:
    """A north-up pixel grid: ``height`` x ``width`` square pixels of ``scale_m`` metres (degrees in EPSG:4326).

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
