"""Places on axes of longitude and latitude: one panel a window, marks for rows without an embedding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.embedding import RowStatus
from rsembed.plots.canvas import INK, PALE, degrees, in_words, map_figure
from rsembed.plots.point_source import PointBatch

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_PANELS = 6
# Told apart by shape, so that nobody needs to tell colours apart: marker, filled, label.
_WITHOUT = {
    RowStatus.NO_DATA: ("o", "no imagery (no_data)"),
    RowStatus.COLLECTION_GAP: ("s", "gap in the catalogue"),
    RowStatus.FAILED: ("x", "failed"),
}


@dataclass(frozen=True)
class PlacesOnMap:
    """Rows to draw: ``points`` without vectors, ``values`` (n, 3) colours or (n,) numbers, NaN where there are none."""

    points: PointBatch
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        assert len(self.values) == len(self.points)

    @property
    def lon(self) -> NDArray[np.float64]:
        """Longitudes without a jump: beyond 180 where the rows lie on both sides of the antimeridian."""
        return self.points.lon % 360 if self._crosses else self.points.lon

    def shifted(self, lon: float) -> float:
        """``lon`` where these longitudes are."""
        return lon % 360 if self._crosses else lon

    @property
    def _crosses(self) -> bool:
        lon = self.points.lon
        return bool(np.ptp(lon) > 180 and np.ptp(lon % 360) < np.ptp(lon))

    def panels(self) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Title and rows of each panel: one a window where there are a few, else one for all."""
        windows = self.points.windows
        distinct = sorted(set(windows.tolist()))
        if 1 < len(distinct) <= MAX_PANELS:
            for window in distinct:
                yield window, windows == window
        else:
            yield "", np.ones(len(windows), np.bool_)


def draw_places(places: PlacesOnMap, **paint: Any) -> tuple[Figure, dict[str, Axes], Any]:
    """A figure of ``places``; returns it with its panels by window ("": all) and the last layer that has colours.

    ``paint``: keywords of ``scatter`` for values that are numbers (colour map, limits).
    """
    lon, lat = places.lon, places.points.lat
    middle = (lat.min() + lat.max()) / 2
    box = _padded(lon, lat)
    wide, high = (box[1] - box[0]) * max(math.cos(math.radians(middle)), 0.1), box[3] - box[2]
    panels = list(places.panels())
    columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = map_figure(high / wide, columns, rows)
    drawn: dict[str, Axes] = {}
    layer = None
    for number, (title, inside) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.set_axisbelow(True)
        axes.grid(color="#e4e4e4", linewidth=0.6)
        found = _scatter(axes, places, inside, **paint)
        layer = layer if found is None else found
        axes.set_xlim(box[0], box[1])
        axes.set_ylim(box[2], box[3])
        degrees(axes, middle)
        if title:
            axes.set_title(in_words([title]), fontsize=9, color=INK)
        drawn[title] = axes
    return figure, drawn, layer


def status_entries(statuses: Iterable[str]) -> list[Artist]:
    """Legend entries of the marks that are on a map; none where every row has a good embedding."""
    from matplotlib.lines import Line2D

    there = set(statuses)
    marks = [("o", PALE, "one embedding"), *([("^", PALE, "low quality")] if RowStatus.LOW_QUALITY in there else [])]
    marks += [(marker, "none", label) for status, (marker, label) in _WITHOUT.items() if status in there]
    if len(marks) == 1:
        return []
    return [
        Line2D([], [], linestyle="none", marker=marker, markerfacecolor=face, markeredgecolor=INK, label=label)
        for marker, face, label in marks
    ]


def _scatter(axes: Axes, places: PlacesOnMap, inside: NDArray[np.bool_], **paint: Any) -> Any:
    lon, lat, statuses = places.lon, places.points.lat, places.points.statuses
    size = float(np.clip(24_000 / max(int(inside.sum()), 1), 2.5, 46.0))
    edge = {"edgecolors": INK, "linewidths": 0.4} if size > 12 else {"linewidths": 0.0}
    for status, (marker, _) in _WITHOUT.items():
        there = inside & (statuses == status.value)
        face: dict[str, Any] = {"c": INK} if marker == "x" else {"facecolors": "none", "edgecolors": INK}
        if there.any():
            axes.scatter(lon[there], lat[there], s=max(size * 0.8, 8), marker=marker, linewidths=0.7, **face)
    layer = None
    seen = np.isfinite(places.values if places.values.ndim == 1 else places.values.sum(axis=1))
    for marker, low in (("o", False), ("^", True)):
        there = inside & seen & ((statuses == RowStatus.LOW_QUALITY.value) == low)
        if there.any():
            layer = axes.scatter(lon[there], lat[there], s=size, c=places.values[there], marker=marker, **edge, **paint)
    return layer


def _padded(lon: NDArray[np.float64], lat: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """West, east, south, north with a margin; never thinner than a fifth of its length."""
    shrink = max(math.cos(math.radians((lat.min() + lat.max()) / 2)), 0.1)
    reach = max(float(np.ptp(lon)) * shrink, float(np.ptp(lat)), 0.01)
    halves = (max(float(np.ptp(lon)) / 2, 0.15 * reach / shrink), max(float(np.ptp(lat)) / 2, 0.15 * reach))
    x, y = (lon.min() + lon.max()) / 2, (lat.min() + lat.max()) / 2
    pad = 0.05 * reach
    return (
        x - halves[0] - pad / shrink,
        x + halves[0] + pad / shrink,
        max(y - halves[1] - pad, -90.0),
        min(y + halves[1] + pad, 90.0),
    )
