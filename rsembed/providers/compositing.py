"""Scenes on one grid into one frame: merge the tiles of a datatake, then take the median or the mosaic."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsembed.core.patch import Frame
from rsembed.core.specs import Window
from rsembed.providers.scenes import Datatake, Scene
from rsembed.tools.temporal import median_date

Values = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Layer:
    """One scene, or one datatake, on the grid: ``values_chw`` float32 and ``valid_chw``, shape (C, H, W).

    Values are 0 where not valid. ``scenes`` are those that gave at least one of the pixels.
    """

    values_chw: Values
    valid_chw: Mask
    scenes: tuple[Scene, ...]

    @property
    def datatake(self) -> Datatake:
        """The overpass the layer belongs to."""
        return self.scenes[0].datatake


def merge_order(scene: Scene) -> tuple[Datatake, float, str]:
    """Sort key that puts the tiles of a datatake together: newest processing baseline first, then id."""
    return (scene.datatake, -(scene.baseline or 0.0), scene.id)


def mosaic_order(scene: Scene) -> tuple[float, dt.date, str]:
    """Sort key of a mosaic, top first: least cloudy, then earlier date, then id."""
    return (101.0 if scene.cloud_pct is None else scene.cloud_pct, scene.date or dt.date.min, scene.id)


def lay_under(layers: Iterable[Layer]) -> Layer | None:
    """``layers`` stacked so that per pixel and band the first valid one shows; None when nothing is valid.

    Stops taking layers once every pixel is there, so that a lazy source is read no further.
    """
    values: Values | None = None
    valid: Mask | None = None
    scenes: list[Scene] = []
    for layer in layers:
        if values is None or valid is None:
            values, valid = layer.values_chw.copy(), layer.valid_chw.copy()
            gave = bool(valid.any())
        else:
            new = layer.valid_chw & ~valid
            gave = bool(new.any())
            values[new] = layer.values_chw[new]
            valid |= new
        if gave:
            scenes += layer.scenes
        if valid.all():
            break
    if values is None or valid is None or not scenes:
        return None
    return Layer(values, valid, tuple(scenes))


def merge_datatakes(layers: Sequence[Layer]) -> list[Layer]:
    """One layer a datatake: of its tiles the first valid one shows, in :func:`merge_order`."""
    ordered = sorted(layers, key=lambda layer: merge_order(layer.scenes[0]))
    merged = (lay_under(group) for _, group in groupby(ordered, key=lambda layer: layer.datatake))
    return [layer for layer in merged if layer is not None]


def median(layers: Sequence[Layer]) -> Layer | None:
    """Median of ``layers`` per pixel and band over the valid ones; the mean of the middle two when even.

    None where there are no layers.
    """
    if len(layers) < 2:
        return layers[0] if layers else None
    shape = layers[0].values_chw.shape
    values, valid = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    # Band by band: a year of imagery is large, its sorted copy need not be.
    for band in range(shape[0]):
        count = np.sum([layer.valid_chw[band] for layer in layers], axis=0)
        stack = np.stack([np.where(layer.valid_chw[band], layer.values_chw[band], np.inf) for layer in layers])
        ordered = np.ascontiguousarray(np.moveaxis(stack, 0, -1))  # sorting runs fastest along memory
        ordered.sort(axis=-1)
        lower = np.take_along_axis(ordered, (np.maximum(count - 1, 0) // 2)[..., None], axis=-1)[..., 0]
        upper = np.take_along_axis(ordered, np.minimum(count // 2, len(layers) - 1)[..., None], axis=-1)[..., 0]
        valid[band] = count > 0
        middle = (lower.astype(np.float64) + upper) / 2
        values[band] = np.where(valid[band], middle, 0.0)
    return Layer(values, valid, tuple(scene for layer in layers for scene in layer.scenes))


def frame_of(scenes: Sequence[Scene], window: Window, frame_date: Literal["median", "midpoint"]) -> Frame:
    """What went into a frame: ``scenes`` are those that gave at least one of its valid pixels."""
    if not scenes:
        return Frame(window)
    days = [scene.date for scene in scenes if scene.date is not None]
    first_days: dict[Datatake, dt.date] = {}
    for scene in scenes:
        if scene.date is not None:
            first_days[scene.datatake] = min(scene.date, first_days.get(scene.datatake, scene.date))
    by_acquisition = bool(first_days) and frame_date == "median"
    return Frame(
        window,
        n_images=len({scene.datatake for scene in scenes}),
        date=median_date(list(first_days.values())) if by_acquisition else window.midpoint,
        first_date=min(days, default=None),
        last_date=max(days, default=None),
        scene_ids=tuple(sorted({scene.id for scene in scenes})),
    )
