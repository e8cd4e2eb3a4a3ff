"""The demo's picture: the synthetic scene beside its places, coloured by their embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsembed.core.embedding import CellGrid
from rsembed.core.patch import Patch
from rsembed.plots.canvas import INK, add_legend, add_title, component_entries, georeferenced, new_figure, save_figure
from rsembed.plots.colours import fit_pca_rgb
from rsembed.plots.quicklook import stretched
from rsembed.tools.spatial import from_lonlat


def save_picture(
    path: Path, scene: Patch, lon: NDArray[np.float64], lat: NDArray[np.float64], vectors_nd: NDArray[np.float32]
) -> None:
    """Write the picture. ``scene``: one frame, red, green, blue; rows of ``vectors_nd`` may be NaN (drawn hollow)."""
    figure = new_figure(13.6, 6.0)
    grid = scene.grid
    cells = CellGrid(grid.epsg, grid.transform, grid.height, grid.width)
    image = stretched(scene.values_tchw[0], scene.valid_tchw[0])
    x, y = from_lonlat(grid.epsg, lon, lat)
    pca = fit_pca_rgb(vectors_nd)
    colours = pca.colours(vectors_nd)
    there = np.isfinite(colours).all(axis=1)
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.45 + 0.5
    for column, background in enumerate((image, grey)):
        axes = figure.add_subplot(1, 2, column + 1)
        extent = georeferenced(axes, cells, grid.height, grid.width)
        axes.imshow(background, extent=extent, interpolation="antialiased")
        if column:
            axes.scatter(x[there], y[there], c=colours[there], s=44, edgecolors=INK, linewidths=0.5)
            axes.scatter(x[~there], y[~there], s=44, facecolors="none", edgecolors=INK)
            axes.set_title("Each point: one embedding", fontsize=9)
        else:
            axes.scatter(x, y, s=7, facecolors="none", edgecolors="white", linewidths=0.6)
            axes.set_title(f"True colour, median of {scene.n_images} cloud-masked dates, and the places", fontsize=9)
        axes.set_xlim(extent[0], extent[1])
        axes.set_ylim(extent[2], extent[3])
    add_legend(figure, component_entries(pca.shares.tolist()))
    about = f"{len(lon)} places, {vectors_nd.shape[1]} numbers each"
    add_title(figure, f"Synthetic scene, not a satellite observation: {about}")
    save_figure(figure, path)
