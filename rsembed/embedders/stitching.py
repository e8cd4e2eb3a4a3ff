"""From the answers of a row's inputs to the row's answer: every ground cell counted once; numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import ModelError
from rsembed.tools.cells import CellLattice, Span, axis_cells
from rsembed.tools.tiling import Box

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Stitched:
    """A row's answer: float32 (D,), or a map (D, h, w) and where its cells lie."""

    values: Floats
    cells: CellLattice | None = None


def pool_tiles(vectors: Sequence[Floats], areas_px: Sequence[float], how: Literal["mean", "max"]) -> Floats:
    """One vector out of one for each tile, float32 (D,): their mean weighted by the ground they own, or their max."""
    if len(vectors) == 1:
        return vectors[0]
    if how == "max":
        return np.asarray(np.max(np.stack(vectors), axis=0), dtype=np.float32)
    mean = np.average(np.stack(vectors).astype(np.float64), axis=0, weights=np.array(areas_px, dtype=np.float64))
    return np.asarray(mean, dtype=np.float32)


def stitch(maps_dhw: Sequence[Floats], covers: Sequence[Box], rois: Sequence[Box]) -> Stitched:
    """One map (D, h, w) of the ground that was asked for, out of one for each tile.

    ``covers``: the ground under each tile's map, ``(left, top, right, bottom)`` in pixels of the fetched
    image; ``rois``: the part of it that the tile owns, as fractions. Tiles form a full grid, row by row.
    """
    owned = [_inside(cover, roi) for cover, roi in zip(covers, rois, strict=True)]
    lefts, tops = sorted({box[0] for box in covers}), sorted({box[1] for box in covers})
    if len(maps_dhw) != len(lefts) * len(tops):
        raise ModelError(f"{len(maps_dhw)} tiles do not fill a grid of {len(tops)} x {len(lefts)}")
    of = {(tops.index(box[1]), lefts.index(box[0])): i for i, box in enumerate(covers)}
    down = axis_cells([_span(owned, covers, maps_dhw, of[row, 0], 1) for row in range(len(tops))])
    across = axis_cells([_span(owned, covers, maps_dhw, of[0, col], 0) for col in range(len(lefts))])
    whole = np.empty((len(maps_dhw[0]), len(down.index), len(across.index)), dtype=np.float32)
    for (row, col), i in of.items():
        rows, cols = np.flatnonzero(down.span == row), np.flatnonzero(across.span == col)
        whole[:, rows[:, None], cols] = maps_dhw[i][:, down.index[rows][:, None], across.index[cols]]
    return Stitched(whole, CellLattice(across.low, down.low, across.cell, down.cell))


def _inside(cover: Box, roi: Box) -> Box:
    left, top, right, bottom = cover
    width, height = right - left, bottom - top
    return (left + roi[0] * width, top + roi[1] * height, left + roi[2] * width, top + roi[3] * height)


def _span(owned: Sequence[Box], covers: Sequence[Box], maps_dhw: Sequence[Floats], tile: int, axis: int) -> Span:
    own, cover = owned[tile], covers[tile]
    return Span(own[axis], own[axis + 2], cover[axis], cover[axis + 2], maps_dhw[tile].shape[2 - axis])
