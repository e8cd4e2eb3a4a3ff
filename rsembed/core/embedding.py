"""The answer to one row: a vector or a map of vectors, and what is known about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.display import Facts
from rsembed.core.errors import SpecError

if TYPE_CHECKING:
    import xarray


class RowStatus(StrEnum):
    """How a row ended. An embedding exists for ``ok`` and ``low_quality``."""

    OK = "ok"
    """Enough valid pixels."""
    LOW_QUALITY = "low_quality"
    """Fewer valid pixels than ``min_valid_fraction`` of those that were asked for."""
    NO_DATA = "no_data"
    """No imagery there and then, or all of it masked."""
    COLLECTION_GAP = "collection_gap"
    """A known hole of the catalogue."""
    FAILED = "failed"
    """Something went wrong; it is recorded, and tried again by the next run."""

    @property
    def has_embedding(self) -> bool:
        """Whether a row of this status carries numbers."""
        return self in (RowStatus.OK, RowStatus.LOW_QUALITY)


@dataclass(frozen=True)
class CellGrid:
    """Where the cells of a map lie: north-up, of any size, not always square.

    ``transform``: affine coefficients ``(a, 0, c, 0, e, f)`` in rasterio's order: ``a`` > 0 and ``e`` < 0 are a
    cell's width and height, ``(c, f)`` the top-left corner, all in the units of EPSG:``epsg``.
    """

    epsg: int
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int

    def __post_init__(self) -> None:
        given = tuple(self.transform)
        if len(given) != 6 or not all(isinstance(x, (int, float)) and math.isfinite(x) for x in given):
            raise SpecError(f"a grid's transform is 6 finite numbers a, b, c, d, e, f, got {given}")
        a, b, _, d, e, _ = given
        if not (a > 0 and e < 0 and b == 0 and d == 0):
            raise SpecError(f"a grid lies north-up: transform a > 0, e < 0 and b = d = 0, got {given}")
        if self.height < 1 or self.width < 1:
            raise SpecError(f"a grid has at least one cell, got {self.height} x {self.width}")
        if self.epsg < 1:
            raise SpecError(f"a grid's CRS is the number of an EPSG code, got {self.epsg}")
        object.__setattr__(self, "transform", tuple(map(float, given)))

    def to_json(self) -> dict[str, int | list[float]]:
        """What a map's meta says of it: ``{"epsg", "transform"}``."""
        return {"epsg": self.epsg, "transform": list(self.transform)}

    @property
    def x(self) -> NDArray[np.float64]:
        """Centres of the columns, west to east; float64 (width,)."""
        a, _, c, *_ = self.transform
        return c + a * (np.arange(self.width, dtype=np.float64) + 0.5)

    @property
    def y(self) -> NDArray[np.float64]:
        """Centres of the rows, north to south; float64 (height,)."""
        *_, e, f = self.transform
        return f + e * (np.arange(self.height, dtype=np.float64) + 0.5)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """``(left, bottom, right, top)``: the outer edges, in the grid's own CRS."""
        a, _, c, _, e, f = self.transform
        return (c, f + e * self.height, c + a * self.width, f)


@dataclass(frozen=True, repr=False)
class Embedding:
    """``data``: float32, ``(D,)`` pooled or ``(D, H, W)`` grid (first row north).

    ``meta`` is plain JSON: model, options, recipe, sensor, window, frames, validity, weights. Its ``grid`` is None
    for a vector, and ``{"epsg", "transform"}`` of the cells for a map (see :class:`CellGrid`).
    """

    data: NDArray[np.float32]
    meta: Mapping[str, Any] = field(default_factory=dict)  # JSON at the edge: one key per fact

    @property
    def cells(self) -> CellGrid | None:
        """Where the cells of a map lie; None for a vector, and for a map whose place is not known."""
        grid = self.meta.get("grid")
        if self.data.ndim != 3 or grid is None:
            return None
        return CellGrid(int(grid["epsg"]), tuple(grid["transform"]), self.data.shape[1], self.data.shape[2])

    def _facts(self) -> Facts:
        meta, cells = self.meta, self.cells
        window = meta.get("temporal") or {}
        images = meta.get("n_images")
        clear = meta.get("valid_fraction")
        return Facts(
            f"Embedding {' x '.join(map(str, self.data.shape))}, {self.data.dtype}",
            {
                "model": ", ".join(str(meta[name]) for name in ("model", "modality", "recipe") if meta.get(name)),
                "status": str(meta.get("status") or ""),
                "window": f"{window['start']}..{window['end']}" if {"start", "end"} <= set(window) else "",
                "images": "" if images is None else f"{images}" + ("" if clear is None else f", {clear:.0%} valid"),
                "cells": "" if cells is None else f"{cells.transform[0]:g} wide, EPSG:{cells.epsg}",
                "error": str((meta.get("error") or {}).get("message") or ""),
                "numbers": f"{', '.join(f'{x:.4g}' for x in self.data.reshape(-1)[:4])}, ...",
            },
        )

    def __repr__(self) -> str:
        return self._facts().text()

    def _repr_html_(self) -> str:
        return self._facts().html()

    def to_xarray(self) -> xarray.DataArray:
        """As a DataArray of ``(dim,)`` or ``(dim, y, x)``, with the cells' centres, their CRS, and meta as attributes.

        Raises SpecError without xarray.
        """
        from rsembed.labelled import embedding_to_xarray

        return embedding_to_xarray(self)

    def save(self, path: str | Path) -> Path:
        """Save to ``path``, whose ending decides: .npy, .npz (with meta), .nc, .zarr, .tif (maps only).

        The file is whole or not there. Raises SpecError for another ending, ExportError where a format cannot hold it.
        """
        from rsembed.labelled import save_embedding

        return save_embedding(self, path)
