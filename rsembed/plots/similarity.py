"""How alike every place or cell is to a chosen one: cosines, as colours that everybody can tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.embedding import Embedding
from rsembed.core.errors import SpecError
from rsembed.load import ExportResult
from rsembed.plots.canvas import INK, add_credits, add_legend, add_title
from rsembed.plots.colours import cosine_similarity
from rsembed.plots.credits import embedding_credits
from rsembed.plots.maps import as_map, draw_map, map_title, missing_entries
from rsembed.plots.opening import opened
from rsembed.plots.place_axes import PlacesOnMap, draw_places, status_entries
from rsembed.plots.point_source import PointBatch, PointSource, chosen_batches, chosen_rows, joined
from rsembed.plots.points import MAX_POINTS, points_title
from rsembed.plots.row_search import as_place, find_row
from rsembed.tools.spatial import from_lonlat, to_lonlat

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import BoundaryNorm
    from matplotlib.figure import Figure

COLOURS, CLASSES = "viridis", 10
To = tuple[float, float] | str | int | Embedding | NDArray[Any]


def plot_similarity(
    what: Embedding | ExportResult | PointSource | pd.DataFrame | NDArray[Any] | str | Path,
    to: To | None = None,
    *,
    cell: tuple[int, int] | None = None,
    label: str | None = None,
    max_points: int = MAX_POINTS,
    title: str | None = None,
) -> Figure:
    """How alike every cell of a map, or every row of a run or table, is to one of them: the cosine of their vectors.

    ``what``: as for :func:`plot_map` or :func:`plot_points`. ``to``: ``(lon, lat)`` in degrees (of rows, the nearest
    that has an embedding), the id of a row as text (of no such id, its number in the
    input) or that number, or a vector from elsewhere.
    ``cell``: instead, row and column in a map. The chosen one bears a star. Each colour stands for
    a tenth of all cosines. Raises SpecError that says what is there, also where matplotlib is missing.
    """
    if (to is None) == (cell is None):
        raise SpecError("say what to compare with: to= (a place, a row, a vector), or cell= (row, column of a map)")
    found = opened(what, label)
    if isinstance(found, Embedding):
        return _of_map(as_map(found), to, cell, title)
    if to is None:
        raise SpecError("cell= belongs to a map; of rows, say to=(lon, lat), an id or a number")
    return _of_points(found, to, max_points, title)


# Maps


def _of_map(shown: Embedding, to: To | None, cell: tuple[int, int] | None, title: str | None) -> Figure:
    dim, height, width = shown.data.shape
    vectors = shown.data.reshape(dim, -1).T
    if isinstance(to, (str, int)):
        raise SpecError(f"a map has no row {to!r}: say to=(lon, lat), or cell=(row, column)")
    place: tuple[int, int] | None = None
    if isinstance(to, (Embedding, np.ndarray)):
        query = _vector(to)
    else:
        place = _cell_at(shown, to) if to is not None else _checked_cell(cell, height, width)
        query = shown.data[:, place[0], place[1]]
        if not np.isfinite(query).all():
            raise SpecError(f"the cell in row {place[0]}, column {place[1]} has no embedding; choose another")
    values = cosine_similarity(vectors, query).reshape(height, width)
    figure, axes = draw_map(shown, values, cmap=COLOURS, norm=_classes(values))
    _add_bar(figure, [axes], axes.images[0])
    star = [] if place is None else [_mark(axes, *_centre(shown, place))]
    add_legend(figure, [*star, *missing_entries(np.isfinite(values))])
    against = "a given vector" if place is None else _named_cell(shown, place)
    add_title(figure, title or f"Similarity to {against}: {map_title(shown)}")
    add_credits(figure, embedding_credits(shown.meta))
    return figure


def _cell_at(shown: Embedding, to: tuple[float, float]) -> tuple[int, int]:
    """Row and column of the cell at a place in degrees."""
    cells = shown.cells
    if cells is None:
        raise SpecError("nobody knows where this map lies: say cell=(row, column) instead of a place")
    lon, lat = as_place(to)
    x, y = from_lonlat(cells.epsg, np.array([lon]), np.array([lat]))
    left, bottom, right, top = cells.bounds
    if not (left <= x[0] <= right and bottom <= y[0] <= top):
        west, south = to_lonlat(cells.epsg, np.array([left, right]), np.array([bottom, top]))
        raise SpecError(
            f"{lon:g}, {lat:g} lies outside the map, which reaches from {west[0]:.5f}, {south[0]:.5f} to "
            f"{west[1]:.5f}, {south[1]:.5f} (lon, lat)"
        )
    row, column = (top - y[0]) / -cells.transform[4], (x[0] - left) / cells.transform[0]
    return min(int(row), cells.height - 1), min(int(column), cells.width - 1)


def _checked_cell(cell: object, height: int, width: int) -> tuple[int, int]:
    try:
        row, column = (int(number) for number in cell)  # type: ignore[attr-defined]  # what is no pair raises
    except (TypeError, ValueError) as exc:
        raise SpecError(f"a cell is a pair (row, column), got {cell!r}") from exc
    if not (0 <= row < height and 0 <= column < width):
        raise SpecError(f"the map has rows 0..{height - 1} and columns 0..{width - 1}, got cell {row}, {column}")
    return row, column


def _centre(shown: Embedding, place: tuple[int, int]) -> tuple[float, float]:
    cells = shown.cells
    return (place[1], place[0]) if cells is None else (float(cells.x[place[1]]), float(cells.y[place[0]]))


def _named_cell(shown: Embedding, place: tuple[int, int]) -> str:
    cells = shown.cells
    if cells is None:
        return f"the cell in row {place[0]}, column {place[1]}"
    x, y = _centre(shown, place)
    lon, lat = to_lonlat(cells.epsg, np.array([x]), np.array([y]))
    return f"the cell at {lon[0]:.5f}, {lat[0]:.5f}"


# Rows


def _of_points(source: PointSource, to: To, max_points: int, title: str | None) -> Figure:
    found: PointBatch | None = None
    if isinstance(to, (Embedding, np.ndarray)):
        query = _vector(to)
    else:
        found = find_row(source, to)
        query = found.vectors[0]
    held: list[PointBatch] = []
    values: list[NDArray[np.float32]] = []
    for batch in chosen_batches(source, chosen_rows(source, max_points)):
        values.append(cosine_similarity(batch.vectors, query))
        held.append(batch.without_vectors())
    places = PlacesOnMap(joined(held), np.concatenate(values))
    figure, panels, layer = draw_places(places, cmap=COLOURS, norm=_classes(places.values))
    _add_bar(figure, list(panels.values()), layer)
    star: list[Artist] = []
    if found is not None:
        axes = panels.get(str(found.windows[0]), next(iter(panels.values())))
        star = [_mark(axes, places.shifted(float(found.lon[0])), float(found.lat[0]))]
    add_legend(figure, [*star, *status_entries(places.points.statuses)])
    against = "a given vector" if found is None else f"{found.ids[0]} (row {found.rows[0]})"
    add_title(figure, title or f"Similarity to {against}: {points_title(source, places)}")
    add_credits(figure, source.credits)
    return figure


# What both share


def _vector(to: Embedding | NDArray[Any]) -> NDArray[np.float32]:
    data = to.data if isinstance(to, Embedding) else np.asarray(to)
    if data.ndim != 1:
        raise SpecError(f"one vector (D,) is compared with, got shape {data.shape}")
    return data.astype(np.float32)


def _classes(values: NDArray[np.float32]) -> BoundaryNorm:
    """Colours by tenths: each colour for as many cosines as the others, as they often crowd near 1."""
    from matplotlib.colors import BoundaryNorm

    seen = values[np.isfinite(values)]
    if not len(seen):
        raise SpecError("no row has an embedding, so there is nothing to compare")
    edges = np.unique(np.quantile(seen.astype(np.float64), np.linspace(0, 1, CLASSES + 1)))
    if len(edges) == 1:
        edges = np.array([edges[0] - 1e-6, edges[0]])
    return BoundaryNorm(edges, 256)


def _add_bar(figure: Figure, panels: list[Axes], layer: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    edges = layer.norm.boundaries
    # As many digits as tell neighbouring classes apart.
    digits = next((n for n in range(2, 6) if len({f"{edge:.{n}f}" for edge in edges}) == len(edges)), 6)
    bar = figure.colorbar(
        layer, ax=panels, location="bottom", shrink=0.75, aspect=36, pad=0.03, spacing="uniform", ticks=edges,
        format=FuncFormatter(lambda value, _: f"{value:.{digits}f}"),
    )  # fmt: skip
    tenths = "; each colour is a tenth of all" if len(edges) == CLASSES + 1 else ""
    bar.set_label(f"cosine similarity{tenths}", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, length=2)


def _mark(axes: Axes, x: float, y: float) -> Artist:
    return axes.scatter(
        [x], [y], marker="*", s=210, c="#ff2f7a", edgecolors="white", linewidths=1.1, zorder=5,
        label="compared with this",
    )  # fmt: skip
