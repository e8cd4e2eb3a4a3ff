"""Embeddings of many places on a map, coloured by their principal components."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import SpecError
from rsembed.load import ExportResult
from rsembed.plots.canvas import add_credits, add_legend, add_title, component_entries, in_words
from rsembed.plots.colours import SAMPLE, PcaRgb, fit_pca_rgb
from rsembed.plots.opening import point_source
from rsembed.plots.place_axes import PlacesOnMap, draw_places, status_entries
from rsembed.plots.point_source import PointBatch, PointSource, chosen_batches, chosen_rows, joined

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MAX_POINTS = 100_000
_FIT_BYTES = 64 << 20


def plot_points(
    points: ExportResult | PointSource | pd.DataFrame | str | Path,
    label: str | None = None,
    *,
    colours: PcaRgb | None = None,
    max_points: int = MAX_POINTS,
    title: str | None = None,
) -> Figure:
    """The places of a run or table on a map, each in the colour of its embedding: likeness as likeness of colour.

    ``points``: a run's folder, what :func:`rsembed.load_export` or :func:`rsembed.embed` returned. ``label``: the
    model, where a run has several. ``colours``: those of another picture, else fitted here. Of more than
    ``max_points`` rows an even sample is drawn. Vectors are read in batches, twice, and never held all at once.
    A run with a few windows gets a panel for each. Raises SpecError, also where matplotlib is missing.
    """
    source = point_source(points, label)
    chosen = chosen_rows(source, max_points)
    pca = colours or fit_points(source)
    held: list[PointBatch] = []
    values: list[NDArray[np.float32]] = []
    for batch in chosen_batches(source, chosen):
        values.append(pca.colours(batch.vectors))
        held.append(batch.without_vectors())
    places = PlacesOnMap(joined(held), np.concatenate(values))
    figure, _, _ = draw_places(places)
    add_legend(figure, [*component_entries(pca.shares.tolist()), *status_entries(places.points.statuses)])
    add_title(figure, title or points_title(source, places))
    add_credits(figure, source.credits)
    return figure


def fit_points(source: PointSource) -> PcaRgb:
    """Colours fitted to an even sample of ``source``'s vectors; SpecError where no row has one."""
    wanted = chosen_rows(source, SAMPLE)
    found: list[NDArray[np.float32]] = []
    for batch in chosen_batches(source, wanted):
        if batch.vectors.shape[1]:
            most = max(2, _FIT_BYTES // (4 * batch.vectors.shape[1]))
            there = batch.vectors[np.isfinite(batch.vectors).all(axis=1)]
            # Wide vectors: fewer of them, still from all over the file.
            found.append(there[:: max(1, -(-len(wanted) // most))])
    if not sum(map(len, found)):
        raise SpecError("no row has an embedding, so there is nothing to colour")
    return fit_pca_rgb(np.concatenate(found))


def points_title(source: PointSource, places: PlacesOnMap) -> str:
    """Model, number of rows and their one window."""
    drawn, total = len(places.points), source.n_rows
    rows = f"{total:,} row{'s'[: total != 1]}" if drawn == total else f"{drawn:,} of {total:,} rows"
    return ", ".join(part for part in (source.title, rows, in_words(places.points.windows.tolist())) if part)
