"""A map of vectors, coloured by its principal components."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.embedding import Embedding
from rsembed.core.errors import SpecError
from rsembed.load import ExportResult
from rsembed.plots.canvas import (
    PAPER,
    add_credits,
    add_legend,
    add_title,
    component_entries,
    georeferenced,
    in_words,
    map_figure,
)
from rsembed.plots.colours import PcaRgb, fit_pca_rgb
from rsembed.plots.credits import embedding_credits
from rsembed.plots.opening import map_of_row, opened
from rsembed.plots.point_source import PointSource

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_map(
    embedding: Embedding | ExportResult | PointSource | NDArray[Any] | str | Path,
    row: tuple[float, float] | str | int | None = None,
    *,
    label: str | None = None,
    colours: PcaRgb | None = None,
    title: str | None = None,
) -> Figure:
    """A map of vectors as a picture, each cell in the colour of its vector: likeness as likeness of colour.

    ``embedding``: with data (D, H, W), as ``output=OutputSpec.grid()`` gives it, a plain array, or a file of one (see
    :func:`rsembed.load_embedding`); or an export whose rows hold maps, and ``row`` (an id, a number in the input, or
    ``(lon, lat)``; ``label`` picks the model) says whose. Its place, where it is known, is on the axes; cells with a
    NaN stay clear. ``colours``: those of another picture, else fitted here. Raises SpecError, also where matplotlib is
    missing.
    """
    found = opened(embedding, label)
    if not isinstance(found, Embedding):
        if row is None:
            raise SpecError("these are the rows of an export: say row=, or draw all of them with plot_points")
        found = map_of_row(found, row)
    shown = as_map(found)
    pca = colours or fit_pca_rgb(shown)
    image = pca.image(shown.data)
    figure, _ = draw_map(shown, image)
    add_legend(figure, [*component_entries(pca.shares.tolist()), *missing_entries(image[..., 3] > 0)])
    add_title(figure, title or map_title(shown))
    add_credits(figure, embedding_credits(shown.meta))
    return figure


def as_map(given: Embedding) -> Embedding:
    """``given`` where its data are (D, H, W); else SpecError."""
    if given.data.ndim != 3:
        raise SpecError(
            f"a picture of a map needs data (D, H, W), got shape {given.data.shape}: ask for output=OutputSpec.grid()"
        )
    return given


def draw_map(shown: Embedding, image: NDArray[np.float32], **paint: Any) -> tuple[Figure, Axes]:
    """A figure with ``image`` (H, W) or (H, W, 4) on the map's own axes; ``paint``: keywords of ``imshow``."""
    _, height, width = shown.data.shape
    cells = shown.cells
    stretch = 1.0 if cells is None else -cells.transform[4] / cells.transform[0]
    figure = map_figure(height / width * stretch)
    axes = figure.add_subplot()
    axes.set_facecolor(PAPER)
    extent = georeferenced(axes, cells, height, width)
    ratio = axes.get_aspect()
    axes.imshow(image, extent=extent, interpolation="nearest", aspect="equal" if ratio == "auto" else ratio, **paint)
    return figure, axes


def missing_entries(seen_hw: NDArray[np.bool_]) -> list[Artist]:
    """A legend entry for cells without a vector, where there are any."""
    from matplotlib.patches import Patch

    return [] if seen_hw.all() else [Patch(facecolor=PAPER, edgecolor="#999999", label="no embedding")]


def map_title(shown: Embedding) -> str:
    """Model, window and size, as far as they are known."""
    meta, (_, height, width) = shown.meta, shown.data.shape
    window = meta.get("temporal") or {}
    when = in_words([f"{window['start']}..{window['end']}"]) if {"start", "end"} <= set(window) else ""
    cells = shown.cells
    size = f"{height} x {width} cells"
    if cells is not None:
        size += f" of {cells.transform[0]:.6g} {'m' if cells.epsg != 4326 else 'degrees'}"
    return ", ".join(part for part in (str(meta.get("model") or ""), when, size) if part)
