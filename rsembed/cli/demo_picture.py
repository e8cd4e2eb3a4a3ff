"""The demo's picture: the synthetic scene beside its places, coloured by their embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsembed.core.patch import Patch
from rsembed.quicklook import new_figure, stretched
from rsembed.tools.spatial import from_lonlat

INK = "#222222"


def principal_colours(vectors_nd: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Vectors (N, D) as colours (N, 3) in 0..1, and the share of variance of the three components (3,).

    Each number is standardised first; each component becomes one channel, by rank, so that a few odd
    places do not take all of the colour.
    """
    spread = vectors_nd.std(axis=0)
    scaled = (vectors_nd - vectors_nd.mean(axis=0)) / np.where(spread > 1e-12, spread, 1)
    u, s, vt = np.linalg.svd(scaled.astype(np.float64), full_matrices=False)
    # The sign of a component is arbitrary; fixed by its largest weight.
    signs = np.sign(vt[np.arange(3), np.abs(vt[:3]).argmax(axis=1)])
    scores = u[:, :3] * s[:3] * signs
    ranks = scores.argsort(axis=0).argsort(axis=0) / max(len(scores) - 1, 1)
    return 0.1 + 0.9 * ranks, s[:3] ** 2 / (s**2).sum()


def save_picture(
    path: Path, scene: Patch, lon: NDArray[np.float64], lat: NDArray[np.float64], vectors_nd: NDArray[np.float32]
) -> None:
    """Write the picture. ``scene``: one frame, red, green, blue; rows of ``vectors_nd`` may be NaN (drawn hollow)."""
    figure = new_figure(12.4, 6.6)
    left, bottom, right, top = scene.grid.bounds
    image = stretched(scene.values_tchw[0], scene.valid_tchw[0])
    x, y = from_lonlat(scene.grid.epsg, lon, lat)
    there = np.isfinite(vectors_nd).all(axis=1)
    colours, shares = principal_colours(vectors_nd[there])
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2) * 0.45 + 0.5
    for column, background in enumerate((image, grey)):
        axes = figure.add_subplot(1, 2, column + 1)
        axes.imshow(background, extent=(left, right, bottom, top), interpolation="antialiased")
        if column:
            axes.scatter(x[there], y[there], c=colours, s=44, edgecolors=INK, linewidths=0.5, label="one embedding")
            if not there.all():
                axes.scatter(x[~there], y[~there], s=44, facecolors="none", edgecolors=INK, label="no embedding")
            axes.set_title(
                "Each point: principal components 1, 2, 3 of its vector as red, green, blue, by rank\n"
                f"({', '.join(f'{share:.0%}' for share in shares)} of the variance)", fontsize=9,
            )  # fmt: skip
            axes.legend(loc="lower right", fontsize=8, framealpha=0.9)
        else:
            axes.scatter(x, y, s=7, facecolors="none", edgecolors="white", linewidths=0.6, label="place")
            axes.set_title(f"True colour, median of {scene.n_images} cloud-masked dates", fontsize=9)
            axes.legend(loc="lower right", fontsize=8, framealpha=0.9, facecolor="#777777", labelcolor="white")
        axes.set_xlim(left, right)
        axes.set_ylim(bottom, top)
        axes.set_xlabel(f"easting, metres (EPSG:{scene.grid.epsg})", fontsize=8)
        axes.set_ylabel("northing, metres", fontsize=8)
        axes.ticklabel_format(style="plain", useOffset=False)
        axes.tick_params(labelsize=7)
    about = f"{len(lon)} places, {vectors_nd.shape[1]} numbers each"
    figure.suptitle(f"Synthetic scene, not a satellite observation: {about}", fontsize=12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
