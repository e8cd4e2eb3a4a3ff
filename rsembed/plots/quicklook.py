"""Pictures of patches: what an inspection shows of the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsembed.core.patch import Patch
from rsembed.plots.canvas import new_figure, save_figure

_RGB = (("B4", "B3", "B2"), ("SR_B4", "SR_B3", "SR_B2"))
MAX_FRAMES = 6


def stretched(values_chw: NDArray[np.float32], valid_chw: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(C, H, W) as an image (H, W, C) in 0..1: the 2nd to 98th per cent of all valid pixels; invalid ones white."""
    seen = values_chw[valid_chw]
    low, high = np.percentile(seen, (2, 98)) if seen.size else (0.0, 1.0)
    scaled = np.clip((values_chw - low) / max(float(high - low), 1e-6), 0, 1)
    return np.where(valid_chw, scaled, 1.0).astype(np.float32).transpose(1, 2, 0)


def save_quicklook(patch: Patch, path: Path, title: str) -> Path:
    """A PNG of the patch's frames: true colour where red, green and blue are there, else its first band in grey."""
    shown = [t for t, frame in enumerate(patch.frames) if frame.n_images][:MAX_FRAMES] or [0]
    bands = next((list(rgb) for rgb in _RGB if set(rgb) <= set(patch.bands)), [patch.bands[0]])
    part = patch.select(bands)
    figure = new_figure(3.4 * len(shown) + 0.6, 3.9)
    figure.suptitle(title, fontsize=10)
    left, bottom, right, top = patch.grid.bounds
    for column, t in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), column + 1)
        image = stretched(part.values_tchw[t], part.valid_tchw[t])
        grey = image.shape[2] == 1
        axes.imshow(
            image[..., 0] if grey else image,
            extent=(left, right, bottom, top),
            cmap="gray" if grey else None,
            interpolation="nearest",
            vmin=0,
            vmax=1,
        )
        frame = patch.frames[t]
        axes.set_title(f"{frame.date or 'no date'}, {frame.n_images} image(s)", fontsize=8)
        axes.tick_params(labelsize=6)
        axes.ticklabel_format(style="plain", useOffset=False)
        axes.tick_params(axis="x", labelrotation=45)
        axes.set_xlabel(f"EPSG:{patch.grid.epsg}, metres", fontsize=7)
    return save_figure(figure, path)
