"""What one Earth Engine request carries, how large it may be, and how its answers become one patch.

Pure arithmetic: nothing here knows the Earth Engine client. An answer has, for each bin, the bands'
values, a count of datatakes per pixel, and the days on which they were taken as bits.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import ProviderError, TransientProviderError
from rsembed.core.fetching import FetchRequest, Grid
from rsembed.core.patch import Frame
from rsembed.core.specs import Window
from rsembed.tools.temporal import median_date

MAX_BYTES = 50_331_648
"""Most bytes an answer may have: developers.google.com/earth-engine/reference/rest/v1/projects.image/computePixels."""
MASK_BYTES = 1
"""What the server adds for each pixel and band when it counts (github.com/google/Xee/pull/210)."""
MAX_BANDS = 1024
MAX_SIDE_PX = 32_768
MIN_SIDE_PX = 16
"""Pieces that are still too complex are halved down to this side, then by bins, then given up."""
DAYS_A_BAND = 31
"""Days told by one int32 band, a bit each; the sign bit stays free."""
COUNT = "n"
FLAGS = "flags"
RELAXED_MODE, ASCENDING = 1, 2
"""Bits of the band ``flags``: radar of other modes than IW had to do; the ascending pass was chosen."""

_SENTINELS: Mapping[str, float] = {"float32": -1e30, "uint16": 65_535, "int16": -32_768, "uint8": 255}


@dataclass(frozen=True)
class Column:
    """One band of a bin: ``name`` in the collection, ``dtype`` as it travels, the number for `nothing here`."""

    name: str
    dtype: str

    @property
    def sentinel(self) -> float:
        """Stands where a pixel is masked; never a value."""
        return _SENTINELS[self.dtype]


@dataclass(frozen=True)
class Layout:
    """The bands of an answer. ``columns``: of every bin; ``flagged``: whether there is a band ``flags``."""

    columns: tuple[Column, ...]
    bins: tuple[Window, ...]
    flagged: bool = False

    def value_names(self, t: int) -> list[str]:
        """Names of the value bands of bin ``t``."""
        return [f"t{t:03d}_{column.name}" for column in self.columns]

    def count_name(self, t: int) -> str:
        """Name of the count band of bin ``t``: int16, negative where the relaxed scene filter was needed."""
        return f"t{t:03d}_{COUNT}"

    def day_names(self, t: int) -> list[str]:
        """Names of the int32 bands of bin ``t`` that hold its days as bits, 31 a band."""
        return [f"t{t:03d}_days{i:02d}" for i in range(day_bands(self.bins[t]))]

    def bands(self, bins: range) -> list[tuple[str, str]]:
        """``(name, dtype)`` of every band of an answer with ``bins``, in its order."""
        found: list[tuple[str, str]] = []
        for t in bins:
            found += zip(self.value_names(t), (column.dtype for column in self.columns), strict=True)
            found += [(self.count_name(t), "int16"), *((name, "int32") for name in self.day_names(t))]
        return [*found, (FLAGS, "uint8")] if self.flagged else found

    def pixel_bytes(self, bins: range) -> int:
        """Bytes a pixel, as the server counts them."""
        return sum(np.dtype(dtype).itemsize + MASK_BYTES for _, dtype in self.bands(bins))


def day_bands(window: Window) -> int:
    """How many bands tell the days of ``window``."""
    return -(-window.days // DAYS_A_BAND)


@dataclass(frozen=True)
class Piece:
    """A part of a request that one computePixels answers: pixels of the grid, and some of its bins."""

    row: int
    col: int
    height: int
    width: int
    bins: range

    def grid(self, whole: Grid) -> Grid:
        """The piece's pixels of ``whole``."""
        return replace(
            whole,
            x_min=whole.x_min + self.col * whole.scale_m,
            y_max=whole.y_max - self.row * whole.scale_m,
            height=self.height,
            width=self.width,
        )


def fits(piece: Piece, layout: Layout) -> bool:
    """Whether the service takes a request of this size."""
    return (
        piece.height * piece.width * layout.pixel_bytes(piece.bins) <= MAX_BYTES
        and len(layout.bands(piece.bins)) <= MAX_BANDS
        and max(piece.height, piece.width) <= MAX_SIDE_PX
    )


def first_pieces(layout: Layout, height: int, width: int, below_px: int | None = None) -> list[Piece]:
    """The fewest equal halvings that fit; one piece nearly always. Raises ProviderError where none can fit.

    ``below_px``: as many pixels have been too complex before, so that pieces begin below that while space allows.
    """
    waiting, done = [Piece(0, 0, height, width, range(len(layout.bins)))], []
    while waiting:
        piece = waiting.pop()
        if fits(piece, layout):
            known = below_px is not None and piece.height * piece.width >= below_px
            smaller = _by_space(piece, MIN_SIDE_PX) if known else []
            if smaller:
                waiting += reversed(smaller)
            else:
                done.append(piece)
            continue
        by_bins = len(layout.bands(piece.bins)) > MAX_BANDS
        halves = _by_bins(piece) if by_bins else _by_space(piece, 1)
        if not halves:
            raise ProviderError(
                f"one bin of this request has {len(layout.bands(piece.bins))} bands in Earth Engine, which gives "
                f"{MAX_BANDS} at most; ask for fewer bands or a shorter window"
            )
        waiting += reversed(halves)
    return done


def halves(piece: Piece) -> list[Piece]:
    """Two parts of a piece that was too complex: in space while it is worth it, then by bins; [] at the end."""
    return _by_space(piece, MIN_SIDE_PX) or _by_bins(piece)


def _by_space(piece: Piece, least: int) -> list[Piece]:
    tall = piece.height >= piece.width
    side = piece.height if tall else piece.width
    half = side // 2
    if half < least:
        return []
    if tall:
        return [replace(piece, height=half), replace(piece, row=piece.row + half, height=side - half)]
    return [replace(piece, width=half), replace(piece, col=piece.col + half, width=side - half)]


def _by_bins(piece: Piece) -> list[Piece]:
    middle = len(piece.bins) // 2
    return [replace(piece, bins=piece.bins[:middle]), replace(piece, bins=piece.bins[middle:])] if middle else []


@dataclass
class _Seen:
    """What the counts and days of one bin say: ``days`` as bits from the bin's first day, most images on a pixel."""

    days: int = 0
    most: int = 0


@dataclass
class Stitched:
    """The answers of a request put together; :meth:`add` each, then :meth:`settle`."""

    request: FetchRequest
    layout: Layout
    flags: int = 0
    values: NDArray[np.float32] = field(init=False)
    counts: NDArray[np.int16] = field(init=False)
    valid: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        grid = self.request.grid
        shape = (len(self.layout.bins), len(self.layout.columns), grid.height, grid.width)
        self.values, self.valid = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        self.counts = np.zeros((shape[0], *shape[2:]), np.int16)
        self._strict = [_Seen() for _ in self.layout.bins]
        self._relaxed = [_Seen() for _ in self.layout.bins]

    def add(self, piece: Piece, pixels: NDArray[np.void]) -> None:
        """Put the answer for ``piece`` in its place: structured, shape (height, width), a field a band.

        Raises TransientProviderError where it is not what was asked for.
        """
        names = [name for name, _ in self.layout.bands(piece.bins)]
        if pixels.shape != (piece.height, piece.width) or list(pixels.dtype.names or ()) != names:
            raise TransientProviderError(
                f"Earth Engine answered {pixels.shape} with {len(pixels.dtype.names or ())} bands, asked for "
                f"({piece.height}, {piece.width}) with {len(names)}"
            )
        at = (slice(piece.row, piece.row + piece.height), slice(piece.col, piece.col + piece.width))
        for t in piece.bins:
            for c, (name, column) in enumerate(zip(self.layout.value_names(t), self.layout.columns, strict=True)):
                there = pixels[name] != np.asarray(column.sentinel, pixels[name].dtype)
                self.valid[(t, c, *at)] = there
                self.values[(t, c, *at)] = np.where(there, pixels[name], 0)
            counts = pixels[self.layout.count_name(t)]
            self.counts[(t, *at)] = counts
            planes = [pixels[name] for name in self.layout.day_names(t)]
            _look(self._strict[t], counts, planes, counts > 0)
            _look(self._relaxed[t], -counts, planes, counts < 0)
        if self.layout.flagged:
            self.flags |= int(pixels[FLAGS].max())

    def settle(self) -> bool:
        """Choose between the scene filter and the relaxed one; True where the relaxed one was needed.

        It is, only where the stricter one gave no pixel at all in any bin; else what came by it is dropped.
        """
        relaxed = not (self.counts > 0).any() and bool((self.counts < 0).any())
        if not relaxed:
            drop = np.broadcast_to((self.counts < 0)[:, None], self.valid.shape)
            if drop.any():
                self.valid &= ~drop
                self.values[drop] = 0
        self._chosen = self._relaxed if relaxed else self._strict
        return relaxed

    def frames(self) -> Iterator[Frame]:
        """What went into each bin; after :meth:`settle`."""
        for window, seen in zip(self.layout.bins, self._chosen, strict=True):
            yield _frame(window, seen, midpoint=self.request.recipe.frame_date == "midpoint")


def _look(
    seen: _Seen, counts: NDArray[np.int16], planes: Sequence[NDArray[np.int32]], where: NDArray[np.bool_]
) -> None:
    if where.any():
        seen.most = max(seen.most, int(counts[where].max()))
        for i, plane in enumerate(planes):
            seen.days |= int(np.bitwise_or.reduce(plane[where])) << (DAYS_A_BAND * i)


def _frame(window: Window, seen: _Seen, *, midpoint: bool) -> Frame:
    days = [window.start + dt.timedelta(days=k) for k in range(window.days) if seen.days >> k & 1]
    if not days:
        return Frame(window)
    # Two datatakes of one day are told apart only where they meet in a pixel (orbits side by side, far north).
    return Frame(
        window,
        n_images=max(len(days), seen.most),
        date=window.midpoint if midpoint else median_date(days),
        first_date=days[0],
        last_date=days[-1],
    )
