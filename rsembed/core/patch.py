"""A provider's answer: pixel values with their mask, grid, frames and provenance."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import SpecError
from rsembed.core.fetching import Grid
from rsembed.core.specs import Window

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]


@dataclass(frozen=True)
class Frame:
    """What went into one frame of a patch.

    ``n_images`` counts distinct datatakes that gave at least one valid pixel; 0 marks an
    empty bin. ``date`` is the frame's date by the recipe (None only for an empty bin),
    ``first_date`` and ``last_date`` bound the contributing acquisitions.
    """

    window: Window
    n_images: int = 0
    date: dt.date | None = None
    first_date: dt.date | None = None
    last_date: dt.date | None = None
    scene_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Patch:
    """Imagery of one row.

    ``values_tchw``: float32, shape (T, C, H, W), north-up, in Earth Engine's units
    (Sentinel-2: harmonised DN); 0 where not valid. ``valid_tchw``: bool, same shape.
    ``bands`` names axis C, ``frames`` describes axis T.
    """

    values_tchw: NDArray[np.float32]
    valid_tchw: NDArray[np.bool_]
    bands: tuple[str, ...]
    grid: Grid
    frames: tuple[Frame, ...]
    provenance: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (len(self.frames), len(self.bands), self.grid.height, self.grid.width)
        if self.values_tchw.shape != expected or self.valid_tchw.shape != expected:
            raise SpecError(
                f"patch arrays must have shape (frames, bands, height, width) = {expected}, "
                f"got values {self.values_tchw.shape} and mask {self.valid_tchw.shape}"
            )

    @property
    def n_images(self) -> int:
        """Distinct datatakes over all frames."""
        return sum(frame.n_images for frame in self.frames)

    @property
    def is_empty(self) -> bool:
        """Whether no frame has any valid pixel."""
        return not bool(self.valid_tchw.any())

    def select(self, bands: Sequence[str]) -> Patch:
        """The same patch with ``bands`` only, in that order."""
        if tuple(bands) == self.bands:
            return self
        missing = [band for band in bands if band not in self.bands]
        if missing:
            raise SpecError(f"patch has bands {', '.join(self.bands)}; asked for {', '.join(missing)} as well")
        index = [self.bands.index(band) for band in bands]
        return replace(
            self,
            values_tchw=self.values_tchw[:, index],
            valid_tchw=self.valid_tchw[:, index],
            bands=tuple(bands),
        )

    def crop(self, grid: Grid) -> Patch:
        """The part of the patch on ``grid``, which must be made of this patch's own pixels."""
        if grid is self.grid or grid == self.grid:
            return self
        row, col = self.grid.offset_of(grid)
        window = (slice(None), slice(None), slice(row, row + grid.height), slice(col, col + grid.width))
        return replace(self, values_tchw=self.values_tchw[window], valid_tchw=self.valid_tchw[window], grid=grid)

    def valid_fraction(self, grid: Grid | None = None) -> float:
        """Share of ``grid``'s pixels (default: all) that are valid in every band.

        The mean over the frames that have imagery; 0.0 where none has. Computed from this
        patch's own bands only, so select a model's bands first: what else was fetched along
        must not change the answer.
        """
        part = self if grid is None else self.crop(grid)
        counted = [t for t, frame in enumerate(part.frames) if frame.n_images]
        if not counted:
            return 0.0
        if part.valid_tchw.all():
            return 1.0
        shares = [float(part.valid_tchw[t].all(axis=0).mean()) for t in counted]
        return sum(shares) / len(shares)
