"""Paper and frame: figures, axes in degrees or metres, titles, the line that says whose data it is."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyproj

from rsembed.core.embedding import CellGrid
from rsembed.core.errors import SpecError
from rsembed.writers.store import store_errors

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, PALE, PAPER = "#222222", "#8a8a8a", "#f2f2f2"
ENDINGS = (".png", ".pdf", ".svg", ".jpg")
_RGB = ("#e8352c", "#2fa84f", "#2f62d9")


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that draws into files only; SpecError that names the extra where matplotlib is missing."""
    try:
        from rsembed.plots.picture import Picture
    except ModuleNotFoundError as exc:
        raise SpecError("a picture needs matplotlib: pip install 'rsembed[plot]'") from exc
    return Picture(width_in, height_in)


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Save ``figure`` under a name whose ending decides the format; the same picture gives the same bytes.

    Raises SpecError for another ending, StoreError where the disk refuses.
    """
    target = Path(path)
    check_ending(target)
    from rsembed.plots.picture import TIGHT, fixed_ids

    # Without these a file would say when it was made.
    undated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with store_errors(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        with fixed_ids():
            figure.savefig(target, metadata=undated.get(target.suffix.lower()), **TIGHT)
    return target


def check_ending(path: Path) -> None:
    """Raise SpecError for a name that is no picture's."""
    if path.suffix.lower() not in ENDINGS:
        raise SpecError(f"{path.name!r} is no name of a picture: end it in {', '.join(ENDINGS)}")


def map_figure(aspect: float, columns: int = 1, rows: int = 1) -> Figure:
    """A figure for ``columns`` x ``rows`` maps that are ``aspect`` times as high as wide, with room for a legend."""
    aspect = min(max(aspect, 0.3), 2.0)
    side = 6.2 if columns * rows == 1 else 3.8
    width = min(side, side * 1.25 / aspect)
    return new_figure(columns * (width + 0.9) + 2.6, rows * (width * aspect + 0.9) + 0.8)


def add_title(figure: Figure, title: str) -> None:
    """The headline, wrapped to the figure's width."""
    wide = int(figure.get_figwidth() * 9)
    figure.suptitle(textwrap.fill(title, wide), x=0.01, ha="left", fontsize=12, color=INK)


def add_credits(figure: Figure, lines: Sequence[str]) -> None:
    """What the picture's data ask to be said, in small print at the foot; nothing for no lines."""
    text = " | ".join(dict.fromkeys(filter(None, lines)))
    if text:
        wide = int(figure.get_figwidth() * 17)
        figure.supxlabel(textwrap.fill(text, wide), x=0.01, ha="left", fontsize=6.5, color="#555555")


def component_entries(shares: Sequence[float]) -> list[Artist]:
    """Legend entries that say which component is which colour; ``shares``: of the variance."""
    from matplotlib.patches import Patch

    if not any(share > 0 for share in shares):
        return []
    return [
        heading("colour: principal components\nand their share of the variance"),
        *(
            Patch(facecolor=colour, label=f"{i + 1}: {colour_name}, {share:.0%}")
            for i, (colour_name, colour, share) in enumerate(zip(("red", "green", "blue"), _RGB, shares, strict=True))
            if share > 0
        ),
    ]


def heading(text: str) -> Artist:
    """A legend entry that is text alone."""
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="none", label=text)


def add_legend(figure: Figure, entries: Sequence[Artist]) -> None:
    """A legend to the right of all panels; none for no entries."""
    if entries:
        figure.legend(handles=list(entries), loc="outside right center", frameon=False, fontsize=8)


# Axes


def georeferenced(axes: Axes, cells: CellGrid | None, height: int, width: int) -> tuple[float, float, float, float]:
    """Name the axes of a map; returns ``extent`` for ``imshow``: left, right, bottom, top.

    Without ``cells`` they count rows and columns.
    """
    if cells is None:
        axes.set_xlabel("column", fontsize=8)
        axes.set_ylabel("row", fontsize=8)
        axes.tick_params(labelsize=7)
        return -0.5, width - 0.5, height - 0.5, -0.5
    left, bottom, right, top = cells.bounds
    if pyproj.CRS.from_epsg(cells.epsg).is_geographic:
        degrees(axes, (bottom + top) / 2)
    else:
        axes.set_xlabel(f"easting, m (EPSG:{cells.epsg})", fontsize=8)
        axes.set_ylabel("northing, m", fontsize=8)
        axes.ticklabel_format(style="plain", useOffset=False)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=7, steps=(1, 2, 5, 10))
    return left, right, bottom, top


def degrees(axes: Axes, latitude: float) -> None:
    """Axes in degrees, as wide as a degree is at ``latitude``; a longitude beyond 180 is one of the west."""
    from rsembed.plots.picture import DegreeFormatter, degree_locator

    axes.set_aspect(1 / max(math.cos(math.radians(latitude)), 0.1))
    for axis, ends in ((axes.xaxis, "EW"), (axes.yaxis, "NS")):
        axis.set_major_locator(degree_locator())
        axis.set_major_formatter(DegreeFormatter(ends))
    axes.tick_params(labelsize=7)


def in_words(windows: Iterable[str]) -> str:
    """The one window of all rows, a calendar year as its number; empty where they differ or are not known."""
    known = set(windows)
    window = known.pop() if len(known) == 1 else ""
    start, _, end = window.partition("..")
    whole_year = start.endswith("-01-01") and end == f"{int(start[:4]) + 1:04d}-01-01"
    return start[:4] if whole_year else window
