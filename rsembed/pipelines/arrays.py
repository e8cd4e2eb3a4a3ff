"""Arrays in hand: the user's own pixels go the same way as fetched ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import ModelError
from rsembed.core.fetching import Grid
from rsembed.core.notices import warn_user
from rsembed.core.patch import Frame, Patch
from rsembed.core.specs import Spatial, Window
from rsembed.pipelines.inference import RowInput
from rsembed.pipelines.plan import ModelPlan
from rsembed.providers.collections import collection_info
from rsembed.tools.spatial import to_grid_centre
from rsembed.tools.temporal import bins_in_hand
from rsembed.tools.tiling import plan_footprint

LIKELY_REFLECTANCE = 1.5
"""Digital numbers of a whole image never stay below this; reflectances do."""


def array_input(model: ModelPlan, array: NDArray[np.generic], spatial: Spatial, window: Window) -> RowInput:
    """``array`` as the input of one row of ``model``.

    ``array``: raw provider values, (C, H, W) or (T, C, H, W), bands in the order of the model's
    contract; NaN, infinite and masked pixels count as missing. Frames are the bins of ``window`` that the
    model wants where they are as many, else equal ones, and dated at their mid-points. Raises ModelError
    for another shape.
    """
    contract = model.embedder.contract
    try:
        given = np.asarray(array)
    except (TypeError, ValueError) as exc:
        raise ModelError(f"{model.embedder.card.id} takes an array of real numbers: {exc}") from exc
    if not (np.issubdtype(given.dtype, np.floating) or np.issubdtype(given.dtype, np.integer)):
        raise ModelError(f"{model.embedder.card.id} takes an array of real numbers, got dtype {given.dtype}")
    values = given.astype(np.float32)
    if isinstance(array, np.ma.MaskedArray):
        values[np.ma.getmaskarray(array)] = np.nan
    if values.ndim == 3:
        values = values[None]
    if values.ndim != 4 or values.shape[1] != len(contract.bands) or 0 in values.shape:
        raise ModelError(
            f"{model.embedder.card.id} takes arrays of shape (C, H, W) or (T, C, H, W) with C = {len(contract.bands)} "
            f"bands ({', '.join(contract.bands)}); got shape {np.shape(array)}"
        )
    frames, _, height, width = values.shape
    valid = np.isfinite(values)
    if not valid.any():
        raise ModelError("the array holds no finite pixel; nothing can be embedded")
    if collection_info(contract.collection).unit == "dn" and values[valid].max() <= LIKELY_REFLECTANCE:
        warn_user(
            f"the array's largest value is {values[valid].max():g}, but {model.embedder.card.id} takes raw digital "
            "numbers (0..10000); multiply reflectance by 10000"
        )
    bins = bins_in_hand(window, contract.frames, frames)
    # A frame of which nothing is valid is an empty bin, in an array as in a fetch.
    counted = [int(valid[t].any()) for t in range(frames)]
    described = tuple(
        Frame(b, n, b.midpoint if n else None, b.midpoint if n else None, b.midpoint if n else None)
        for b, n in zip(bins, counted, strict=True)
    )
    config = model.embedder.config
    footprint = (
        model.footprint(height, width)
        if model.embedder.card.kind == "precomputed"
        else plan_footprint(
            height, width, model.native_px, context=config.context, prep=config.input_prep, in_hand=True
        )
    )
    epsg, x, y = to_grid_centre(spatial.lon, spatial.lat)
    scale_m = contract.scale_m
    grid = Grid(epsg, x - width * scale_m / 2, y + height * scale_m / 2, scale_m, height, width)
    patch = Patch(np.where(valid, values, np.float32(0)), valid, model.bands, grid, described, {"source": "array"})
    return RowInput(patch, footprint, spatial.lon, spatial.lat, window)


def array_inputs(
    model: ModelPlan, arrays: Sequence[NDArray[np.generic]], spatials: Sequence[Spatial], windows: Sequence[Window]
) -> list[RowInput]:
    """:func:`array_input` for several rows; the three sequences must be equally long."""
    if isinstance(arrays, (str, bytes)) or not hasattr(arrays, "__len__"):
        raise ModelError(f"arrays must be a list with one for each place, got {type(arrays).__name__}")
    if len(arrays) != len(spatials):
        raise ModelError(f"{len(arrays)} arrays were given for {len(spatials)} spatials; give one each")
    return [array_input(model, a, s, w) for a, s, w in zip(arrays, spatials, windows, strict=True)]
